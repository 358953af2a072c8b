"""Random shifts."""

import dataclasses
from typing import ClassVar

import jax

from vit_jax.data.augment.stages import StepAugmentation
from vit_jax.errors import InputError
from vit_jax.ops import augment
from vit_jax.ops.keys import example_keys
from vit_jax.types import Batch, Fields


@dataclasses.dataclass(frozen=True)
class Shift(StepAugmentation):
    """Pads an image with black and crops it back at a uniformly random place, with what has a place in it.

    pixels: of padding on each side; the image moves by at most as many.

    Source: the usual CIFAR augmentation, e.g. He et al. 2015 (arXiv:1512.03385), section 4.2.
    """

    pixels: int = 4

    order: ClassVar = 0
    normalised: ClassVar = False
    moves: ClassVar = ("mask", "instances", "boxes")

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if self.pixels < 0:
            raise InputError(f"data.augment.shift.pixels is {self.pixels}; valid: 0 or more")

    def __call__(self, key: jax.Array, batch: Batch, fields: Fields, axis_name: str | None) -> Batch:
        """Shift each example."""
        if not self.pixels:
            return batch
        keys = example_keys(key, batch["index"])
        corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, 2 * self.pixels + 1))(keys)
        size = augment.size_of(batch, fields)
        return augment.map_placed(batch, fields, lambda kind, x: augment.shift(corners, kind, x, self.pixels, size))


create = Shift
