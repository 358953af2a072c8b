"""Two real processes as one run: the same training as one process, lost processes, SIGTERM, other numbers of them.

Under `pmap` and under `mesh`.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT, small_config
from jax.experimental import multihost_utils

import train
from vit_jax.errors import InputError
from vit_jax.parallel import strategy as parallel
from vit_jax.parallel.pmap import Pmap
from vit_jax.system import hosts
from vit_jax.training.checkpoints import reading

WAIT_SECONDS = 600
"""No process of these tests outlives it."""

CHANGES = {
    "model__options__mlp_dim": 512,  # small arrays are in an index that all processes read, not in files of shards
    "model__options__drop_path": 0.0,  # drawn by device, and which examples a device sees depends on the processes
    "optimizer__name": "sgd",  # Adam makes whole steps of the rounding errors that are all of the key bias's gradient
    "optimizer__learning_rate": 0.1,
    "optimizer__schedule": "constant",
    "evaluation__splits__test": "test[:353]",  # a prime
}
MESH = {"parallel__strategy": "mesh", "parallel__fsdp_min_size": 0}
FSDP = MESH | {"parallel__data": 1, "parallel__fsdp": -1}  # the state is cut over both processes
TENSOR = MESH | {"parallel__data": 2, "parallel__tensor": 2}

SCRIPT = """
import json, os, pathlib, sys, time
sys.path[:0] = [".", "tests", "tests/system"]
environment = dict(os.environ)
from conftest import small_config
os.environ |= environment  # conftest has set its own
import train
from test_multihost import digest
from vit_jax.cli import errors, main
from vit_jax.data.loading.memory import InMemory
from vit_jax.system import hosts
from vit_jax.training.checkpoints.writing import Checkpoints

gather, save, restore = InMemory._gather, Checkpoints.save, Checkpoints.restore

def slow(self, records, index):
    time.sleep({pause})
    return gather(self, records, index)

def noted_save(self, step, state, *rest):
    print("saved", step, digest(state.params), flush=True)
    save(self, step, state, *rest)

def noted_restore(self, *args, **options):
    restored = restore(self, *args, **options)
    if restored:
        print("restored", restored.step, digest(restored.state.params), flush=True)
    return restored

InMemory._gather, Checkpoints.save, Checkpoints.restore = slow, noted_save, noted_restore
with errors.one_line_errors("train.py"):
    hosts.join("train.py", "{coordinator}", 2, {process_id})
    for workdir, changes in {runs}:
        status = train.train(small_config(**changes), pathlib.Path(workdir))
    if {evaluates}:
        hosts.join = lambda *_: None  # has been done
        status = main.main(["evaluate", "--json", "--model", workdir])
    sys.exit(status)
"""


def digest(params) -> str:
    """The same for the same bytes, wherever they are."""
    leaves = [
        x if getattr(x, "is_fully_addressable", True) else multihost_utils.process_allgather(x, tiled=True)
        for x in jax.tree.leaves(params)
    ]
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()[:16]


def saved_params(workdir: pathlib.Path, step: int):
    item = workdir / "checkpoints" / str(step) / "params"
    with ocp.StandardCheckpointer() as checkpointer:
        leaves: Any = checkpointer.metadata(item).item_metadata
        return checkpointer.restore(item, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), leaves.tree))


def last_step(workdir: pathlib.Path) -> int:
    return max(reading.steps_in(workdir / "checkpoints"), default=0)


@contextlib.contextmanager
def two_processes(*runs: tuple[pathlib.Path, dict], devices: int = 1, pause: float = 0.0, evaluates: bool = False):
    """Both processes at work; what is left of them at the end is killed.

    Args:
        runs: work directory and changes of the config, one after the other.
        devices: of each process. With one, it ends at once if the other is lost; with more, after hosts.LOST_SECONDS.
        pause: seconds before each batch.
        evaluates: whether `vit-jax evaluate` follows, of the last.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    given = {
        "coordinator": coordinator,
        "runs": [(str(workdir), CHANGES | changes) for workdir, changes in runs],
        "pause": pause,
        "evaluates": evaluates,
    }
    processes = []
    try:
        for process_id in range(2):
            script = SCRIPT.format(process_id=process_id, **given)
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", script],
                    cwd=ROOT,
                    env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait_for_step(workdir: pathlib.Path, step: int, processes):
    """Until a checkpoint of that step or a later one is there."""
    deadline = time.monotonic() + WAIT_SECONDS
    while last_step(workdir) < step:
        assert time.monotonic() < deadline
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def ends(process) -> tuple[int, str, str]:
    """Exit status, output without Gloo's, and errors of a process, which has to end."""
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, re.sub(r".*(\[Gloo\]|peer ranks).*\n", "", output), errors


def lose(victim: int, workdir: pathlib.Path, changes: dict, *, from_step: int):
    """Kills one of two processes that continue from that step, upon which the other ends."""
    restored = f"restored {from_step} {digest(saved_params(workdir, from_step))}"
    with two_processes((workdir, changes), pause=0.1) as processes:
        wait_for_step(workdir, last_step(workdir) + 4, processes)
        processes[victim].kill()
        status, output, errors = ends(processes[1 - victim])
    assert status == 1
    assert output.splitlines()[0] == restored
    assert errors.splitlines()[-1] == f"train.py: {hosts.LOST}", errors


def train_alone(monkeypatch, workdir: pathlib.Path, **changes):
    """The same run in this process, under `pmap` on two devices."""
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "create", lambda **_: Pmap(jax.devices()[:2]))
        assert train.train(small_config(**CHANGES | changes), workdir) == 0


def assert_close(left: pathlib.Path, right: pathlib.Path, step: int, tolerance: float = 1e-6):
    pairs = zip(*(jax.tree.leaves(saved_params(workdir, step)) for workdir in (left, right)), strict=True)
    assert max(float(np.abs(x - y).max()) for x, y in pairs) <= tolerance


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_and_evaluate_as_one_does(tmp_path, monkeypatch):
    """Under `pmap` and under `mesh`; from trained parameters with a teacher, too, and `vit-jax evaluate` of that."""
    source = str(tmp_path / "pmap")
    metrics = {"evaluation__metrics__confusion": {}, "evaluation__metrics__calibration": {}}
    plain = metrics | {"evaluation__batch_size": 50}
    taught = plain | {"init__source": source, "task__name": "distillation", "task__options__teacher": source}
    runs = [
        (tmp_path / "pmap", plain),
        (tmp_path / "fsdp", plain | FSDP),
        (tmp_path / "taught", taught | FSDP | {"num_steps": 6}),
        (tmp_path / "taught", taught | TENSOR),
    ]
    with two_processes(*runs, devices=2, evaluates=True) as processes:
        (status, output, errors), (other_status, other_output, other_errors) = map(ends, processes)
    assert (status, other_status) == (0, 0), errors + other_errors
    assert "step 12/12" in errors and f"--model {tmp_path / 'pmap'}" in output
    assert re.fullmatch(r"((saved|restored) .*\n)+", other_output)  # process 0 speaks for both
    assert "step" not in other_errors
    written = [list((tmp_path / "fsdp/checkpoints/12/params").glob(f"ocdbt.process_{i}/d/*")) for i in range(2)]
    assert all(written)

    for name, changes in (("alone", plain), ("taught alone", taught)):
        train_alone(monkeypatch, tmp_path / name, **changes)
    lines = {name: read_metrics(tmp_path / name) for name in ("alone", "pmap", "fsdp", "taught alone", "taught")}
    for alone, name in (("alone", "pmap"), ("alone", "fsdp"), ("taught alone", "taught")):
        assert_close(tmp_path / alone, tmp_path / name, 12)
        assert lines[name][-1] == pytest.approx(lines[alone][-1], abs=1e-5)
        assert lines[name][-1]["test/examples"] == 353
        tables = [tmp_path / run / "evaluation" / "step_12" / "test" / "confusion.csv" for run in (alone, name)]
        assert tables[0].read_text() == tables[1].read_text()
    for name in ("pmap", "fsdp"):
        assert [line["step"] for line in lines[name]] == [4, 6, 8, 12]
    figures = {key: value for key, value in lines["taught"][-1].items() if key.startswith("test/")}
    evaluated = json.loads(output.splitlines()[-1])
    assert [evaluated.pop(key) for key in ("model", "step")] == [str(tmp_path / "taught"), 12]
    assert evaluated == pytest.approx(figures, abs=1e-5)


def test_a_run_goes_on_through_sigterm_lost_processes_and_other_numbers_of_them(tmp_path, monkeypatch):
    """One run: started by one process, continued by two and stopped, continued and each killed once, ended by one.

    It changes from `pmap` to `mesh` and back, and a file that only one of the processes reads breaks.
    """
    workdir = tmp_path / "run"
    endless = {"num_steps": 5000, "checkpoint__every_steps": 4, "evaluation__every_steps": 5000}
    train_alone(monkeypatch, workdir, num_steps=4)
    started = digest(saved_params(workdir, 4))

    # SIGTERM to one of two.
    with two_processes((workdir, endless), pause=0.1) as processes:
        wait_for_step(workdir, 8, processes)
        processes[1].send_signal(signal.SIGTERM)
        answers = [ends(process) for process in processes]
    assert [status for status, _, _ in answers] == [143, 143], answers
    stopped = last_step(workdir)
    assert f"stopped at step {stopped}, which is saved" in answers[0][2]
    last = f"saved {stopped} {digest(saved_params(workdir, stopped))}"
    for _, output, _ in answers:
        assert output.splitlines()[0] == f"restored 4 {started}"
        assert output.splitlines()[-1] == last

    # Each of the two is lost; process 0 is also the one by which they know of each other.
    lose(1, workdir, endless | FSDP, from_step=stopped)
    *_, before, newest = reading.steps_in(workdir / "checkpoints")
    for file in (workdir / "checkpoints" / str(newest) / "params" / "ocdbt.process_1" / "d").iterdir():
        file.write_bytes(b"")  # none that process 0 reads
    lose(0, workdir, endless | FSDP, from_step=before)
    assert (workdir / "checkpoints" / f"unreadable-{newest}").is_dir()

    end = last_step(workdir) + 4
    train_alone(monkeypatch, workdir, num_steps=end)
    train_alone(monkeypatch, tmp_path / "alone", num_steps=end)
    assert_close(tmp_path / "alone", workdir, end)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("127.0.0.1:1", 2, None), "--process_id missing"),
        (("127.0.0.1:1", None, None), "--num_processes, --process_id missing"),
        ((None, None, 0), "--coordinator, --num_processes missing"),
        (("127.0.0.1", 2, 0), "--coordinator is '127.0.0.1'; valid: HOST:PORT"),
        (("host:99999", 2, 0), "--coordinator is 'host:99999'; valid: HOST:PORT"),
        (("127.0.0.1:1", 0, 0), "--num_processes is 0; valid: 1 or more"),
        (("127.0.0.1:1", 2, 2), "--process_id is 2; valid: 0 to 1"),
        (("127.0.0.1:1", 2, -1), "--process_id is -1; valid: 0 to 1"),
    ],
)
def test_wrong_flags_are_refused(flags, message):
    with pytest.raises(InputError, match=re.escape(message)):
        hosts.join("train.py", *flags)
    assert not jax.distributed.is_initialized()


def test_a_coordinator_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(hosts, "START_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"nothing answers at --coordinator 127\.0\.0\.1:1 within 0\.5 s"):
        hosts.join("train.py", "127.0.0.1:1", 2, 1)


def test_processes_that_do_not_come_are_reported():
    """JAX aborts the process that waits for them, from a thread of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    script = f"from vit_jax.system import hosts; hosts.START_SECONDS = 1; hosts.join('train.py', {coordinator!r}, 2, 0)"
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith(
        "train.py: the processes of this run were not all there within 1 s"
    )


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_JOB_ID": "7",
            "SLURM_STEP_NODELIST": "a",
            "SLURM_LOCALID": "0",
        },
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_MCA_orte_hnp_uri": "0.0;tcp://127.0.0.1:1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
)
def test_one_process_alone_initialises_nothing(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # In this process JAX has its devices, so that initialising would raise.
    if environment:
        hosts.join("train.py", None, None, None)
    hosts.join("train.py", "127.0.0.1:1", 1, 0)
    assert not jax.distributed.is_initialized() and not hosts.joined()
