"""A dataset that was decoded once and is kept in memory."""

import concurrent.futures
import copy
import os
from collections.abc import Iterator

import numpy as np

from vit_jax.data.loading import order
from vit_jax.data.loading.loader import Share, padded
from vit_jax.data.loading.pipeline import Pipeline
from vit_jax.errors import InputError
from vit_jax.types import Batch


class InMemory:
    """A dataset that was decoded once; a batch is gathered from arrays.

    For data that fit in memory and need no random geometry.
    """

    def __init__(self, pipeline: Pipeline, *, repeats: int = 1, balance: str | None = None) -> None:
        """Decode every example.

        Args:
            pipeline: of the examples.
            repeats: copies of each example in a row in training, each augmented in its own way.
            balance: field of kind `label` whose classes come equally often in training; None shows each example once
                an epoch.

        Raises:
            InputError: an example that cannot be decoded, named by its path or its record number; or a pipeline that
                draws the geometry, which would have to decode each time.
        """
        if pipeline.placing is not None:
            raise InputError(
                "data.augment.random_crop decodes each image again in each epoch; valid with data.in_memory=false"
            )
        self._pipeline, self._num_examples = pipeline, len(pipeline.source)
        self.fields = pipeline.fields
        self._records: np.ndarray | None = None  # those of the arrays' rows that are examples; None is all
        self._arrays = {
            name: np.empty((self._num_examples, *_known(field.shape)), field.dtype)
            for name, field in pipeline.fields.items()
        }

        def fill(record: int) -> None:
            for name, value in pipeline.exact(record).items():
                self._arrays[name][record] = value

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, range(self._num_examples)):  # raises what a thread raised
                pass
        labels = None if balance is None else self._arrays[balance]
        self._order = order.create(self._num_examples, labels, repeats=repeats)

    def chosen(self, records: np.ndarray | None = None) -> "InMemory":
        """Return some of the examples for evaluation, or all; their values stay in memory once.

        Args:
            records: `[n]` int, their numbers; None is all.
        """
        part = copy.copy(self)
        if records is not None:
            part._records, part._num_examples = records, len(records)
        return part

    def __len__(self) -> int:
        """Return the number of examples."""
        return self._num_examples

    def train_batches(self, share: Share, *, seed: int, start_step: int, total_steps: int) -> Iterator[Batch]:
        """Return the batches of steps start_step .. total_steps - 1."""
        for step in range(start_step, total_steps):
            positions = np.arange(step * share.batch_size + share.index, (step + 1) * share.batch_size, share.count)
            records = self._order.records_at(positions, seed=seed)
            batch = self._gather(records, positions)
            if self._pipeline.policies:
                batch |= self._augmented(batch, seed, positions)
            yield batch

    def eval_batches(self, share: Share) -> Iterator[Batch]:
        """Return each example once over all processes."""
        blank = self._pipeline.blank(share.batch_size // share.count)
        for start in range(0, len(self), share.batch_size):
            records = np.arange(start + share.index, min(start + share.batch_size, len(self)), share.count)
            yield padded(self._gather(records, records), blank, share)

    def _augmented(self, batch: Batch, seed: int, positions: np.ndarray) -> Batch:
        examples = [
            self._pipeline.augmented({name: batch[name][row] for name in self.fields}, order.generator(seed, position))
            for row, position in enumerate(positions.tolist())
        ]
        return {name: np.stack([example[name] for example in examples]) for name in self.fields}

    def _gather(self, records: np.ndarray, index: np.ndarray) -> Batch:
        rows = records if self._records is None else self._records[records]
        batch = {name: array.take(rows, axis=0) for name, array in self._arrays.items()}
        return batch | {"index": index.astype(np.uint32)}


def _known(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(size or 0 for size in shape)
