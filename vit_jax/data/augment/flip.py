"""Random mirroring."""

import dataclasses
from typing import ClassVar

import jax

from vit_jax.data.augment.stages import StepAugmentation
from vit_jax.errors import InputError
from vit_jax.ops import augment
from vit_jax.ops.keys import example_keys
from vit_jax.types import Batch, Fields


@dataclasses.dataclass(frozen=True)
class Flip(StepAugmentation):
    """Mirrors an image left to right, with what has a place in it.

    probability: of each image to be mirrored, in [0, 1].
    """

    probability: float = 0.5

    order: ClassVar = 1
    normalised: ClassVar = False
    moves: ClassVar = ("mask", "instances", "boxes")

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if not 0.0 <= self.probability <= 1.0:
            raise InputError(f"data.augment.flip.probability is {self.probability}; valid: 0 to 1")

    def __call__(self, key: jax.Array, batch: Batch, fields: Fields, axis_name: str | None) -> Batch:
        """Mirror each example or leaves it."""
        keys = example_keys(key, batch["index"])
        flipped = jax.vmap(lambda key: jax.random.bernoulli(key, self.probability))(keys)
        width = augment.size_of(batch, fields)[1]
        return augment.map_placed(batch, fields, lambda kind, x: augment.flip(flipped, kind, x, width))


create = Flip
