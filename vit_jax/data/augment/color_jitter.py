"""Random brightness, contrast, saturation and hue."""

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.augment import operations
from vit_jax.data.augment.operations import Brush
from vit_jax.data.augment.stages import Fill, HostAugmentation, Policy
from vit_jax.data.images.geometry import Matrix
from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ColorJitter(HostAugmentation):
    """Changes brightness, contrast, saturation and hue by random amounts, in random order.

    brightness: x, where the factor is uniform in [max(0, 1 - x), 1 + x]; 0 changes nothing.
    contrast: likewise.
    saturation: likewise.
    hue: x, where the turn of the colour circle is uniform in [-x, x]; at most 0.5.

    Source: torchvision's ColorJitter.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    order: ClassVar = 2

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        for name, most in (("brightness", math.inf), ("contrast", math.inf), ("saturation", math.inf), ("hue", 0.5)):
            value = getattr(self, name)
            if not (0 <= value <= most and math.isfinite(value)):
                valid = "0 to 0.5" if name == "hue" else "0 or more"
                raise InputError(f"data.augment.color_jitter.{name} is {value}; valid: {valid}")

    def policy(self, fill: Fill) -> Policy:
        """Apply the four that are not 0."""
        return functools.partial(_apply, self)


create = ColorJitter


def _apply(self: ColorJitter, image: Image.Image, rng: np.random.Generator, moves: list[Matrix]) -> Image.Image:
    brush = Brush(rng)
    factors = (
        (self.brightness, operations.brightness),
        (self.contrast, operations.contrast),
        (self.saturation, operations.color),
    )
    for i in rng.permutation(4):
        if i == 3:
            if self.hue:
                image = operations.hue(image, rng.uniform(-self.hue, self.hue))
            continue
        amount, op = factors[i]
        if amount:
            image = op(image, rng.uniform(max(0.0, 1.0 - amount), 1.0 + amount), brush)
    return image
