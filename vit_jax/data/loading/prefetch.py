"""Items of an iterator, taken a few ahead by a thread."""

import queue
import threading
from collections.abc import Callable, Iterator


class Prefetch:
    """Takes items from an iterator in a thread of its own, a few ahead.

    An error in the iterator is raised at the item where it happened.
    """

    def __init__(self, items: Iterator, transform: Callable = lambda item: item, *, size: int = 2) -> None:
        """Start at once.

        Args:
            items: what to take from.
            transform: applied to each item in the thread, such as the copy to a device.
            size: how many items to be ahead.
        """
        self._queue: queue.Queue = queue.Queue(maxsize=size)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items, transform), daemon=True, name="prefetch")
        self._thread.start()

    def __iter__(self) -> "Prefetch":
        """Itself."""
        return self

    def __next__(self):
        """Return the next item, as soon as it is there."""
        item, error = self._queue.get()
        if error is not None:
            self._put((None, error))  # and at every later call
            raise error
        return item

    def __enter__(self) -> "Prefetch":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, taking nothing more."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self, items: Iterator, transform: Callable) -> None:
        try:
            for item in items:
                if not self._put((transform(item), None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:  # it belongs to whoever takes the items
            self._put((None, error))

    def _put(self, entry: tuple) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
