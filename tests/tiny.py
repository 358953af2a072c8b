"""Tiny models, tasks and data that several tests share."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops.keys import example_keys
from vit_jax.tasks.classification import Classification
from vit_jax.types import Batch, Field, Fields, class_fields


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A tiny model of a family, `TINY` in the family's own test file, which tests/families.py finds.

    variant: a row of its VARIANTS.
    options: that make it small.
    sizes: heights and widths of images that it takes, the second not square.
    without: of the suite's checks, those that do not apply; the reason stands beside the row.
    """

    variant: str
    options: dict[str, Any]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    without: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """What tests/tasks/test_every_task.py gives a task: eight images of 8x8 pixels.

    fields: of the data.
    arrays: of the batch, without the images.
    options: of the task.
    companions: that it learns with.
    falls_to: share of its first loss that is left after 100 steps on the same eight images.
    """

    fields: Fields
    arrays: dict[str, np.ndarray]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    companions: dict[str, Any] = dataclasses.field(default_factory=dict)
    falls_to: float = 0.1


IMAGE_FIELD = {"image": Field("image", (8, 8, 3), "uint8")}
LABEL_FIELDS = class_fields("abcdefgh") | IMAGE_FIELD
LABELS = {"label": np.arange(8, dtype=np.int32)}


def classification(num_classes: int, *, several: bool = False, task: Any = Classification, **options: Any) -> Any:
    """A classification task of classes `0`, `1` and so on, or another task of the same fields."""
    return task(class_fields([str(label) for label in range(num_classes)], several=several), **options)


def scaled(key: Any, batch: Batch, axis_name: str | None = None) -> Batch:
    """Prepares a batch without anything random: images in [-1, 1]."""
    return batch | {"image": jnp.asarray(batch["image"], jnp.float32) / 127.5 - 1.0}


def flipped(key: Any, batch: Batch, axis_name: str | None = None) -> Batch:
    """Prepares a batch with a random flip of each image."""
    batch = scaled(key, batch)
    if key is None:
        return batch
    flip = jax.vmap(jax.random.bernoulli)(example_keys(key, batch["index"]))[:, None, None, None]
    return batch | {"image": jnp.where(flip, batch["image"][:, :, ::-1], batch["image"])}


@dataclasses.dataclass(frozen=True)
class ArrayLoader:
    """A dataset for evaluation that is held in arrays; the rest of its last batch is NaN where it can be.

    arrays: name -> `[N, ...]`.
    """

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def eval_batches(self, share: Any) -> Iterator[Batch]:
        """Batches in order, the last one filled up."""
        batch_size = share.batch_size
        for start in range(0, len(self), batch_size):
            index = np.arange(start, start + batch_size)
            there = index < len(self)
            batch = {name: x[np.minimum(index, len(self) - 1)] for name, x in self.arrays.items()}
            for x in batch.values():
                if np.issubdtype(x.dtype, np.floating):
                    x[~there] = np.nan
            yield batch | {"index": index.astype(np.uint32), "is_example": there.astype(np.float32)}
