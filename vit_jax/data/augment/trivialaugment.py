"""TrivialAugment: one operation of random strength."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.augment.operations import OPS, Brush
from vit_jax.data.augment.randaugment import VARIANTS
from vit_jax.data.augment.stages import Fill, HostAugmentation, Policy
from vit_jax.data.images.geometry import Matrix


@dataclasses.dataclass(frozen=True)
class TrivialAugment(HostAugmentation):
    """Applies one operation of random strength.

    Source: Müller and Hutter 2021 (arXiv:2103.10158), the wide search space with 31 strengths, as in torchvision's
    TrivialAugmentWide, but empty areas get the mean colour rather than black.
    """

    order: ClassVar = 1

    def policy(self, fill: Fill) -> Policy:
        """Apply one operation."""
        return functools.partial(_apply, fill)


create = TrivialAugment

_OPERATIONS = (*VARIANTS["paper"].ops[:-2], "TranslateXPx", "TranslateYPx")


def _apply(fill: Fill, image: Image.Image, rng: np.random.Generator, moves: list[Matrix]) -> Image.Image:
    op = OPS[_OPERATIONS[rng.integers(len(_OPERATIONS))]]
    return op(image, family="trivial", strength=rng.integers(31) / 30, brush=Brush(rng, fill, moves=moves))
