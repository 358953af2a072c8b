"""Keeping the devices busy: the host stays a few steps ahead of them, and no more than that."""

import collections
import time
from collections.abc import Iterator
from typing import Any

import jax

from vit_jax.types import Batch


class Pace:
    """Hands out batches and keeps track of the steps that were handed to the devices.

    Steps run asynchronously. Too few of them under way would leave the devices idle, too many would fill their
    memory with batches that wait for their turn.
    """

    def __init__(self, batches: Iterator[Batch], *, steps_ahead: int = 2) -> None:
        """Take placed batches, and how many steps may be under way besides the oldest."""
        self._batches, self._steps_ahead = batches, steps_ahead
        self._under_way: collections.deque = collections.deque()
        self.wait_seconds = 0.0
        """How long the devices may have had nothing to do because the next batch was not there."""

    def next_batch(self) -> Batch:
        """Return the next batch, as soon as it is there."""
        start = time.perf_counter()
        with jax.profiler.TraceAnnotation("wait for the batch"):
            batch = next(self._batches)
        # While a step is still under way nothing is lost by waiting.
        if not self._under_way or all(x.is_ready() for x in jax.tree.leaves(self._under_way[-1])):
            self.wait_seconds += time.perf_counter() - start
        return batch

    def submitted(self, result: Any) -> None:
        """Take what the newest step returns, and waits for the oldest if too many are under way."""
        self._under_way.append(result)
        if len(self._under_way) > self._steps_ahead:
            with jax.profiler.TraceAnnotation("wait for an earlier step"):
                jax.block_until_ready(self._under_way.popleft())
