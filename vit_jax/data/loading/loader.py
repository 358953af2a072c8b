"""What gives batches of NumPy arrays, and which part of a batch a process reads."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import jax
import numpy as np

from vit_jax.types import Batch, Fields


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of each global batch this process reads.

    Example i of a global batch belongs to process i % count, so that the global batches do not depend on
    the number of processes.
    """

    batch_size: int
    index: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls, batch_size: int) -> "Share":
        """Return the share of a global batch that falls to this JAX process; the processes must divide it."""
        return cls(batch_size, jax.process_index(), jax.process_count())


class Loader(Protocol):
    """A dataset that gives batches of NumPy arrays.

    fields: of the batches.
    """

    @property
    def fields(self) -> Fields:
        """The fields of the batches, whose shapes are settled."""
        ...

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def train_batches(self, share: Share, *, seed: int, start_step: int, total_steps: int) -> Iterator[Batch]:
        """Return the batches of steps start_step .. total_steps - 1, functions of seed, step and batch size alone."""
        ...

    def eval_batches(self, share: Share) -> Iterator[Batch]:
        """Return each example once over all processes; the last batch is filled up with rows whose mask is 0."""
        ...


def padded(batch: Batch, blank: Batch, share: Share) -> Batch:
    """Fill each array up to this process's share of a batch with blank rows, and adds the mask.

    Args:
        batch: arrays `[n, ...]`.
        blank: of as many examples as the share, or more.
        share: of the batch.
    """
    size, there = share.batch_size // share.count, len(batch["index"])
    filled = {name: np.concatenate([x, blank[name][: size - there]]) for name, x in batch.items()}
    return filled | {"is_example": (np.arange(size) < there).astype(np.float32)}
