"""How fast a run trains."""

import dataclasses
import time


class Stopwatch:
    """Counts seconds since `restart`, leaving out the time inside `with stopwatch:`."""

    def __init__(self) -> None:
        """Start to count."""
        self.restart()

    def restart(self) -> None:
        """Start to count from zero."""
        self._start, self._paused_at = time.perf_counter(), 0.0

    def seconds(self) -> float:
        """Return the seconds so far."""
        return time.perf_counter() - self._start

    def __enter__(self) -> None:
        self._paused_at = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._start += time.perf_counter() - self._paused_at


@dataclasses.dataclass(frozen=True)
class Point:
    """A moment of a run.

    step: done.
    seconds: that training took so far.
    wait_seconds: of these, spent waiting for data.
    """

    step: int
    seconds: float
    wait_seconds: float


def speed_between(start: Point, end: Point, *, batch_size: int) -> dict[str, float]:
    """Return `images_per_second` and `data_wait_fraction` between two moments; empty if no step or no time is between.

    Example:
        >>> speed_between(Point(0, 0.0, 0.0), Point(10, 2.0, 0.5), batch_size=8)
        {'images_per_second': 40.0, 'data_wait_fraction': 0.25}
    """
    seconds = end.seconds - start.seconds
    if end.step <= start.step or seconds <= 0:
        return {}
    return {
        "images_per_second": (end.step - start.step) * batch_size / seconds,
        "data_wait_fraction": (end.wait_seconds - start.wait_seconds) / seconds,
    }
