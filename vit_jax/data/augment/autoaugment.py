"""AutoAugment: one of 25 learned pairs of operations."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.augment.operations import OPS, Brush
from vit_jax.data.augment.stages import Fill, HostAugmentation, Policy
from vit_jax.data.images.geometry import Matrix
from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class AutoAugment(HostAugmentation):
    """Applies one of 25 learned pairs of operations, each with a probability and a magnitude of its own.

    learned_on: the dataset that the pairs were learned on, `cifar` or `imagenet`.

    Source: Cubuk et al. 2018 (arXiv:1805.09501), appendix. The paper leaves open what a magnitude in 0 .. 9 stands for;
    the scales are torchvision's, but empty areas get the mean colour rather than black, and translations are
    rounded to the nearest pixel rather than down.
    """

    learned_on: str = "imagenet"

    order: ClassVar = 1

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: an unknown dataset.
        """
        if self.learned_on not in AUTOAUGMENT:
            raise InputError(
                f"data.augment.autoaugment.learned_on is {self.learned_on!r}; valid: {', '.join(AUTOAUGMENT)}"
            )

    def policy(self, fill: Fill) -> Policy:
        """Apply one pair."""
        return functools.partial(_apply, AUTOAUGMENT[self.learned_on], fill)


create = AutoAugment


def _apply(pairs: tuple, fill: Fill, image: Image.Image, rng: np.random.Generator, moves: list[Matrix]) -> Image.Image:
    brush = Brush(rng, fill, moves=moves)
    for name, probability, magnitude in pairs[rng.integers(len(pairs))]:
        if rng.random() < probability:
            image = OPS[name](image, family="autoaugment", strength=magnitude / 9, brush=brush)
    return image


# (operation, probability, magnitude in 0 .. 9), in pairs; operations without a value have magnitude 0 here.
AUTOAUGMENT = {
    "cifar": (
        (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
        (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
        (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
        (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
    ),
    "imagenet": (
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
        (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
        (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
        (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
        (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
        (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
        (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    ),
}
"""Cubuk et al. 2018, appendix."""
