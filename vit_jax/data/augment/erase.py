"""Random erasing."""

import dataclasses
from typing import ClassVar

import jax

from vit_jax.data.augment.stages import StepAugmentation
from vit_jax.errors import InputError
from vit_jax.ops.augment import random_erase
from vit_jax.ops.keys import example_keys
from vit_jax.types import Batch, Fields


@dataclasses.dataclass(frozen=True)
class Erase(StepAugmentation):
    """Replaces a random rectangle of an image by normal noise; see `ops.augment.random_erase`.

    probability: of each image to be erased, in [0, 1].
    """

    probability: float = 0.25

    order: ClassVar = 2
    moves: ClassVar = ("mask", "instances", "boxes")  # which stay where they are

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if not 0.0 <= self.probability <= 1.0:
            raise InputError(f"data.augment.erase.probability is {self.probability}; valid: 0 to 1")

    def __call__(self, key: jax.Array, batch: Batch, fields: Fields, axis_name: str | None) -> Batch:
        """Erase a part of some of the images."""
        keys = example_keys(key, batch["index"])
        return batch | {"image": random_erase(keys, batch["image"], self.probability)}


create = Erase
