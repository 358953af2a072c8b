"""DeiT III's augmentation: grey, solarised or blurred."""

import dataclasses
from typing import ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.augment import operations
from vit_jax.data.augment.operations import Brush
from vit_jax.data.augment.stages import Fill, HostAugmentation, Policy
from vit_jax.data.images.geometry import Matrix


@dataclasses.dataclass(frozen=True)
class ThreeAugment(HostAugmentation):
    """Grey, or solarised at 128, or blurred with a radius in [0.1, 2] pixels, each with probability 1/3.

    Source: Touvron et al. 2022 (DeiT III, arXiv:2204.07118), section 3 and deit/augment.py; its colour jitter of 0.3,
    0.3, 0.3, 0 and its flip are augmentations of their own here.
    """

    order: ClassVar = 1

    def policy(self, fill: Fill) -> Policy:
        """Apply one of the three."""
        return _apply


create = ThreeAugment


def _apply(image: Image.Image, rng: np.random.Generator, moves: list[Matrix]) -> Image.Image:
    choice = rng.integers(3)
    if choice == 0:
        return operations.grayscale(image)
    if choice == 1:
        return operations.solarize(image, 128, Brush(rng))
    return operations.gaussian_blur(image, rng.uniform(0.1, 2.0))
