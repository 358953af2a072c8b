"""Joins several processes into one run, and says in one line when one of them is lost."""

import argparse
import ctypes
import os
import re
import signal
import socket
import sys
import time
from typing import Any

from vit_jax.errors import InputError
from vit_jax.system.terminal import in_one_line

START_SECONDS = 300
"""Time that a process waits for the others at the start."""
LOST_SECONDS = 100
"""Time without a heartbeat after which a process counts as lost; a broken connection counts at once."""

LOST = "another process was lost; the same command on all hosts continues from the last checkpoint"
# What collectives (Gloo, NCCL) and the coordination service say when the other end is gone.
_LOST_TEXT = re.compile(
    r"gloo|nccl|coordination ?service|heartbeat|(barrier|socket|connection) (failed|closed|reset)", re.I
)


def join(program: str, coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes of the run, if there are any; call it before anything asks JAX for its devices.

    Without arguments JAX looks for a launcher that it knows (a TPU pod, SLURM, Open MPI, Kubernetes) and that started
    several processes; if there is none, nothing is initialised.

    Args:
        program: name that error lines begin with.
        coordinator: address where process 0 listens, `HOST:PORT`.
        num_processes: number of processes.
        process_id: number of this process, 0 to num_processes - 1.

    Raises:
        InputError: one or two of the three are missing, a value is out of range, or the coordinator does not answer.
    """
    import jax

    given = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    missing = [flag for flag, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(f"{', '.join(missing)} missing; valid: all of {', '.join(given)}, or none")
    arguments: dict[str, Any] = {}
    if coordinator is not None and num_processes is not None and process_id is not None:
        host, port = _address(coordinator)
        if num_processes < 1:
            raise InputError(f"--num_processes is {num_processes}; valid: 1 or more")
        if not 0 <= process_id < num_processes:
            raise InputError(f"--process_id is {process_id}; valid: 0 to {num_processes - 1}, another in each process")
        if process_id > 0:
            _wait_for(host, port)
        arguments = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
        arguments["cluster_detection_method"] = "deactivate"
    if num_processes == 1 or (len(missing) == 3 and _alone()):
        return
    _if_aborted(
        program, f"the processes of this run were not all there within {START_SECONDS} s; valid: start all of them"
    )
    try:
        jax.distributed.initialize(
            **arguments, initialization_timeout=START_SECONDS, heartbeat_timeout_seconds=LOST_SECONDS
        )
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise InputError(
                f"the environment does not tell all about the processes of this run: {in_one_line(error)}"
            ) from None
        signal.signal(signal.SIGABRT, signal.SIG_DFL)  # no launcher, so no other processes
    except RuntimeError as error:
        if not arguments and "before any JAX" in str(error):  # called from a program that uses JAX already, on its own
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            return
        raise InputError(f"cannot join the processes of this run: {str(error).strip().splitlines()[0]}") from None
    else:
        _if_aborted(program, LOST)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `join` for a subcommand."""
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of several processes: where process 0 listens")
    parser.add_argument("--num_processes", type=int, metavar="N", help="of several processes: how many there are")
    parser.add_argument("--process_id", type=int, metavar="I", help="of several processes: which one this is, from 0")


def joined() -> bool:
    """Say whether this process is one of several."""
    jax = sys.modules.get("jax")  # not imported for the sake of an error line
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def is_loss(error: BaseException) -> bool:
    """Say whether an error, or one that it follows from, comes from the loss of another process."""
    if not joined():
        return False
    if _LOST_TEXT.search(str(error)):
        return True
    return error.__cause__ is not None and is_loss(error.__cause__)


def _alone() -> bool:
    """Say whether a launcher started this process alone, for which JAX would initialise a run of one process."""
    environment = os.environ
    if "KUBERNETES_SERVICE_HOST" in environment:  # set in every kind of pod
        return not {"JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES"} & environment.keys()
    return "1" in (environment.get("SLURM_NTASKS"), environment.get("OMPI_COMM_WORLD_SIZE"))


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError(f"--coordinator is {coordinator!r}; valid: HOST:PORT of process 0, such as 10.0.0.1:1234")
    return host.strip("[]"), int(port)


def _wait_for(host: str, port: int) -> None:
    """Wait until the coordinator takes connections; JAX itself would abort the process if it did not."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 1.0)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"nothing answers at --coordinator {host}:{port} within {START_SECONDS} s ({error}); "
                    "valid: the address of the process with --process_id 0, once that runs"
                ) from None
        time.sleep(0.2)


def _if_aborted(program: str, reason: str) -> None:
    """Make this process end with one line and status 1 where JAX's runtime aborts it.

    The runtime's threads abort the process, after a report of their own, if the others do not come or one is lost. The
    callback that the runtime has for this cannot be a Python function (jaxlib 0.10 to 0.12: std::bad_cast). A handler
    of Python's signal module would never run, since it waits for the main thread, which waits for the devices.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def on_abort(_: int) -> None:
        os.write(2, f"{program}: {reason}\n".encode())
        os._exit(1)

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(on_abort))  # C holds no reference
    ctypes.CDLL(None).signal(signal.SIGABRT, on_abort)
