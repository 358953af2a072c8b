"""Random crops, resized to the model's input."""

import dataclasses

import numpy as np

from vit_jax.data.augment.stages import PlacingAugmentation
from vit_jax.data.images.geometry import Geometry
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class RandomCrop(PlacingAugmentation):
    """Cuts out a random part of an image and resizes it to the model's input; see `RandomResizedCrop`.

    min_area: least share of the image's area, in (0, 1].
    max_aspect: width over height of the part is between 1 / max_aspect and max_aspect, log-uniformly; 1 or more.
    """

    min_area: float = 0.08
    max_aspect: float = 4 / 3

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if not 0.0 < self.min_area <= 1.0:
            raise InputError(f"data.augment.random_crop.min_area is {self.min_area}; valid: more than 0, at most 1")
        if not 1.0 <= self.max_aspect < float("inf"):
            raise InputError(f"data.augment.random_crop.max_aspect is {self.max_aspect}; valid: 1 or more")

    def geometry(self, preprocessing: Preprocessing, height: int, width: int, rng: np.random.Generator) -> Geometry:
        """Draw the part."""
        return RandomResizedCrop(preprocessing, self.min_area, self.max_aspect).geometry(height, width, rng)


create = RandomCrop
