"""What the processes of a run tell one another while they save and restore."""

import sys
from collections.abc import Iterable

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils


def newest(steps: Iterable[int]) -> int | None:
    """Return the last of the steps as process 0 sees it, since a shared folder may show it later to others; or None."""
    step = max(steps, default=-1)
    if jax.process_count() > 1:
        step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    return None if step < 0 else step


def processes_with(flag: bool) -> list[int]:
    """Return the processes that call this with True; the same answer in all of them."""
    if jax.process_count() == 1:
        return [0] if flag else []
    return np.flatnonzero(multihost_utils.process_allgather(np.array(flag))).tolist()


def wait_for_all() -> None:
    """Wait until all processes have come this far."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoints")


def summed(numbers: np.ndarray) -> np.ndarray:
    """Add up the processes' arrays of uint64, modulo 2**64."""
    halves = multihost_utils.process_allgather(numbers.view(np.uint32))  # JAX has no uint64 by default
    return np.ascontiguousarray(halves).view(np.uint64).sum(axis=0, dtype=np.uint64)


def wait_unless_failing(*, key: str, timeout_ms: int) -> None:
    """Wait for all processes, as a thread of Orbax's; if it is leaving because of an error, raise that instead.

    Orbax waits for the others even then, while they wait for this one elsewhere, all of them for 20 minutes.

    Args:
        key: of what is waited for.
        timeout_ms: milliseconds after which waiting is an error.
    """
    if (error := sys.exc_info()[1]) is not None:
        raise error
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)
