"""Tiny models, tasks and data that several tests share."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops.keys import example_keys
from vit_jax.tasks.classification import Classification
from vit_jax.types import Batch, class_fields


@dataclasses.dataclass(frozen=True)
class Tiny:
    """One family's.

    variant: a row of its VARIANTS.
    options: that make it small.
    sizes: heights and widths of images that it takes, the second not square.
    without: of the suite's checks, those that do not apply; the reason stands beside the row.
    """

    variant: str
    options: dict[str, Any]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    without: tuple[str, ...] = ()


TINY = {
    "deit": Tiny("Ti/4", {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}, ((16, 16), (8, 20))),
    "pvt": Tiny(
        "B0",
        {
            "hidden_dims": (8, 16, 24, 32),
            "depths": (1, 2, 1, 1),
            "num_heads": (1, 2, 3, 4),
            "mlp_ratios": (2, 2, 2, 2),
        },
        ((64, 64), (64, 36)),  # smaller ones are reduced to a single key, which attention learns nothing from
    ),
    "swin": Tiny(
        "T/2", {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "mlp_ratio": 2.0}, ((32, 32), (24, 44))
    ),
    "vit": Tiny("Ti/4", {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}, ((16, 16), (8, 20))),
    "hybrid": Tiny(
        "R50+B/16",
        {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "resnet_stages": (1, 1), "resnet_width": 32},
        ((32, 32), (16, 48)),
    ),
    # Its random features, like a softmax, are computed in float32, with matrix products.
    "t2t": Tiny(
        "14",
        {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "token_dim": 8},
        ((32, 32), (16, 48)),
        without=("bfloat16 in all products",),
    ),
}


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
