"""Shared memory that is there before anybody writes to it."""

import errno
import os
import pathlib
import shutil
from multiprocessing.shared_memory import SharedMemory

from vit_jax.errors import InputError

FOLDER = pathlib.Path("/dev/shm")
"""Where Linux keeps shared memory, as files."""


def reserve(slot_bytes: int, *, slots_per_worker: int, num_workers: int) -> SharedMemory:
    """Make shared memory for the batches of worker processes, and take its pages from the system at once.

    Linux hands them out as they are written to. A process that writes where none is left is killed by SIGBUS, in a
    container often after 64 MB.

    Args:
        slot_bytes: of one batch.
        slots_per_worker: batches of each worker.
        num_workers: number of worker processes.

    Returns:
        The memory; whoever called closes and unlinks it.

    Raises:
        InputError: the system has less; the message says what was needed, what is there and what helps.
    """
    of_worker = slots_per_worker * slot_bytes
    try:
        memory = SharedMemory(create=True, size=num_workers * of_worker)
    except OSError as error:
        raise InputError(
            f"worker processes need shared memory, and {FOLDER} gives none: {error.strerror}; valid: data.num_workers=0"
        ) from None
    try:
        _take_pages(memory)
    except BaseException as error:
        memory.close()
        memory.unlink()
        if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        free = shutil.disk_usage(FOLDER).free
        fits = free // of_worker
        enough = -(-memory.size // 2**30) + 1
        more = f"docker run --shm-size={enough}g, or mount -o remount,size={enough}g {FOLDER}"
        raise InputError(
            f"{num_workers} worker processes need {_mib(memory.size)} of shared memory, {slots_per_worker} batches of "
            f"{_mib(slot_bytes)} for each, and {FOLDER} has {_mib(free)} left; valid: data.num_workers={fits}, a "
            f"smaller batch, or more shared memory ({more})"
        ) from None
    return memory


def _take_pages(memory: SharedMemory) -> None:
    file = FOLDER / memory.name
    if not hasattr(os, "posix_fallocate") or not file.exists():  # not Linux
        return
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, memory.size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # what a file system says that cannot do it
            raise
    finally:
        os.close(descriptor)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
