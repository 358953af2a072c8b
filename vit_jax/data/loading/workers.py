"""Worker processes that make batches in turn. The process that waits for them never hangs.

A process that dies is noticed by the end of its pipe. No lock is shared, which it could take with it: Grain's own
workers, killed at the wrong moment, leave theirs locked, and the run hangs.
"""

import contextlib
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from vit_jax.data.loading.shared_memory import FOLDER, reserve
from vit_jax.errors import InputError

_AHEAD = 2  # batches a worker: the one at work, and one that waits for it
# Sent to the whole process group (Ctrl-C, a scheduler), they are the parent's to deal with, which saves first.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def batches_from_workers(
    load: Callable[[int], dict[str, Any]], numbers: range, *, blank: dict[str, np.ndarray], num_workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """Return the batches of what `load` makes of each number, in order, two of them ahead for each worker.

    Args:
        load: number -> example; it has to be picklable.
        numbers: of the examples; the last batch has what is left.
        blank: a full batch, for the examples' names, shapes and types.
        num_workers: processes; batch i comes from worker i % num_workers.

    Raises:
        InputError: there is too little shared memory; or a worker died; or what `load` raised, as anything else it
            raised.
    """
    size = len(next(iter(blank.values())))
    num_batches = -(-len(numbers) // size)
    slot_bytes = sum(array.nbytes for array in blank.values())
    memory = reserve(slot_bytes, slots_per_worker=_AHEAD, num_workers=num_workers)
    workers: list[_Worker] = []

    def ask(batch: int) -> None:
        if batch < num_batches:
            part = numbers[batch * size : (batch + 1) * size]
            workers[batch % num_workers].ask(part, batch % (_AHEAD * num_workers) * slot_bytes)

    try:
        workers += [_Worker(load, blank, memory.name) for _ in range(num_workers)]
        for batch in range(_AHEAD * num_workers):
            ask(batch)
        for batch in range(num_batches):
            filled = workers[batch % num_workers].wait()
            slot = _arrays(memory, blank, batch % (_AHEAD * num_workers) * slot_bytes)
            result = {name: array[:filled].copy() for name, array in slot.items()}
            del slot  # or the memory cannot be closed
            ask(batch + _AHEAD * num_workers)
            yield result
    finally:
        for worker in workers:
            worker.end()
        memory.close()
        memory.unlink()


class _Worker:
    """One process, and the parent's end of its pipe."""

    def __init__(self, load: Callable[[int], dict[str, Any]], blank: dict[str, np.ndarray], memory: str) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, load, blank, memory), daemon=True, name="loader")
        # It would be open to them until it has imported what it needs.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._process.start()  # which hands the mask down
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that its end is the pipe's end

    def ask(self, numbers: range, offset: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # `wait` says why
            self._pipe.send((numbers, offset))

    def wait(self) -> int:
        """Wait for the oldest batch that was asked for; gives the number of its examples."""
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise InputError(
                f"a worker process that decodes images {_end_of(self._process.exitcode or 0)}; the same command "
                "continues from the last checkpoint, with fewer data.num_workers, or 0, if memory was short"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def end(self) -> None:
        self._process.kill()  # it holds nothing that would have to be saved
        self._process.join()
        self._pipe.close()


def _end_of(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed (SIGKILL), as the system does when memory runs out"
    if exit_code == -signal.SIGBUS:
        return f"was ended by SIGBUS, as the system does when shared memory ({FOLDER}) runs out"
    if exit_code < 0:
        return f"was ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
    return f"ended with status {exit_code}"


def _work(pipe: Connection, load: Callable[[int], dict[str, Any]], blank: dict[str, np.ndarray], name: str) -> None:
    """Fill slots of the shared memory as it is asked to, until the parent is gone."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    memory = SharedMemory(name)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            numbers, offset = pipe.recv()
            try:
                slot = _arrays(memory, blank, offset)
                for place, number in enumerate(numbers):
                    example = load(number)
                    for key, array in slot.items():
                        array[place] = example[key]
                pipe.send(len(numbers))
            except InputError as error:
                pipe.send(error)
            except Exception as error:
                pipe.send(_picklable(error))


def _picklable(error: Exception) -> Exception:
    """Return the error, or one of its text, with the place where it happened as a note."""
    where = f"in a worker process:\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(where)
    error.add_note(where)
    return error


def _arrays(memory: SharedMemory, blank: dict[str, np.ndarray], offset: int) -> dict[str, np.ndarray]:
    """Return views of a slot."""
    views = {}
    for name, array in blank.items():
        views[name] = np.ndarray(array.shape, array.dtype, memory.buf, offset)
        offset += array.nbytes
    return views
