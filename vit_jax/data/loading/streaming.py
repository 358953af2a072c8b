"""A dataset that is decoded as it is read."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from vit_jax.data.loading import order
from vit_jax.data.loading.loader import Share, padded
from vit_jax.data.loading.pipeline import Pipeline
from vit_jax.data.loading.workers import batches_from_workers
from vit_jax.data.sources.labels import labels_of
from vit_jax.types import Batch


class Streaming:
    """A dataset that is decoded as it is read, in threads, by Grain, or in worker processes."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        repeats: int = 1,
        balance: str | None = None,
        num_workers: int = 0,
        num_threads: int = 8,
    ) -> None:
        """Take what batches are made of.

        Args:
            pipeline: of the examples.
            repeats: copies of each example in a row in training, each augmented in its own way.
            balance: field of kind `label` whose classes come equally often in training; None shows each example once
                an epoch.
            num_workers: processes that read and decode, a batch each at a time; 0 uses threads of this process.
            num_threads: examples that are read and decoded at once without workers.
        """
        self._pipeline = pipeline
        labels = None if balance is None else labels_of(pipeline.source, balance)
        self._order = order.create(len(pipeline.source), labels, repeats=repeats)
        self._num_workers, self._num_threads = num_workers, num_threads
        self.fields = pipeline.fields

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._pipeline.source)

    def train_batches(self, share: Share, *, seed: int, start_step: int, total_steps: int) -> Iterator[Batch]:
        """Return the batches of steps start_step .. total_steps - 1."""
        load = _LoadTrain(self._pipeline, self._order, seed)
        first, end = start_step * share.batch_size + share.index, total_steps * share.batch_size
        return self._read(load, range(first, end, share.count), share)

    def eval_batches(self, share: Share) -> Iterator[Batch]:
        """Return each example once over all processes."""
        batches = self._read(_LoadEval(self._pipeline), range(share.index, len(self), share.count), share)
        blank = self._pipeline.blank(share.batch_size // share.count)
        nothing = self._pipeline.blank(0)
        for _ in range(0, len(self), share.batch_size):
            yield padded(next(batches, nothing), blank, share)

    def _read(self, load: Callable[[int], dict[str, Any]], numbers: range, share: Share) -> Iterator[Batch]:
        """Return batches of examples in order, about two of them read ahead (two for each worker)."""
        size = share.batch_size // share.count
        if not self._num_workers:
            options = grain.ReadOptions(self._num_threads, max(2 * size, self._num_threads))
            examples = grain.MapDataset.range(numbers.start, max(numbers.stop, numbers.start), numbers.step).map(load)
            return iter(examples.to_iter_dataset(options).batch(size, drop_remainder=False))
        return batches_from_workers(load, numbers, blank=self._pipeline.blank(size), num_workers=self._num_workers)


@dataclasses.dataclass(frozen=True)
class _LoadTrain:
    """Position in the training stream -> example; a class, so that workers can get it."""

    pipeline: Pipeline
    order: order.Order
    seed: int

    def __call__(self, position: int) -> dict[str, Any]:
        record = int(self.order.records_at(np.array([position]), seed=self.seed)[0])
        example = self.pipeline.drawn(record, order.generator(self.seed, position))
        return example | {"index": np.uint32(position % 2**32)}


@dataclasses.dataclass(frozen=True)
class _LoadEval:
    """Record number -> example."""

    pipeline: Pipeline

    def __call__(self, record: int) -> dict[str, Any]:
        return self.pipeline.exact(record) | {"index": np.uint32(record % 2**32)}
