"""RandAugment: a few random operations of one magnitude."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from PIL import Image

from vit_jax.data.augment.operations import OPS, Brush
from vit_jax.data.augment.stages import Fill, HostAugmentation, Policy
from vit_jax.data.images.geometry import Matrix
from vit_jax.errors import InputError

_PAPER = (
    *("Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"),
)
_TIMM = (*_PAPER[1:], "Invert", "SolarizeAdd")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of VARIANTS.

    ops: drawn from uniformly, with replacement.
    family: whose scales the magnitude has, a field of `operations.Op`.
    probability: of applying a drawn operation at all.
    resample: see `operations.Brush`.
    """

    ops: tuple[str, ...]
    family: str
    probability: float
    resample: Image.Resampling


VARIANTS = {
    "paper": Variant(_PAPER, "google", 1.0, Image.Resampling.NEAREST),
    "google": Variant((*_TIMM, "Cutout"), "google", 1.0, Image.Resampling.NEAREST),
    "timm": Variant(_TIMM, "timm", 0.5, Image.Resampling.BICUBIC),
    "timm_increasing": Variant(_TIMM, "timm_increasing", 0.5, Image.Resampling.BICUBIC),
}
"""The RandAugments in use.

paper: the fourteen operations of the paper (section 3).
google: those of big_vision and of TPU's EfficientNet, which AugReg was trained with.
timm: `rand-m<magnitude>-n<num_ops>`.
timm_increasing: `rand-m<magnitude>-n<num_ops>-inc1`, as in DeiT. timm draws bicubic or bilinear unless told; DeiT says
    bicubic, and so do both rows.
"""


@dataclasses.dataclass(frozen=True)
class RandAugment(HostAugmentation):
    """Applies a few operations of one magnitude.

    variant: which RandAugment, a row of VARIANTS: `paper`, `google`, `timm` or `timm_increasing`.
    num_ops: operations per image, the paper's N.
    magnitude: the paper's M, 0 to 10, which is full strength; the scales of paper and google go on to 30.
    magnitude_std: standard deviation of normal noise on each operation's magnitude, timm's `mstd`; the sum is clipped
        to [0, 10], or to the magnitude itself where that is higher.

    Source: Cubuk et al. 2019 (arXiv:1909.13719); see VARIANTS.
    """

    variant: str = "timm"
    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.0

    order: ClassVar = 1

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if self.variant not in VARIANTS:
            raise InputError(f"data.augment.randaugment.variant is {self.variant!r}; valid: {', '.join(VARIANTS)}")
        if self.num_ops < 1:
            raise InputError(f"data.augment.randaugment.num_ops is {self.num_ops}; valid: 1 or more")
        most = 30 if VARIANTS[self.variant].family == "google" else 10
        if not 0 <= self.magnitude <= most:
            raise InputError(
                f"data.augment.randaugment.magnitude is {self.magnitude}; valid: 0 to {most} for {self.variant!r}"
            )
        if not 0.0 <= self.magnitude_std < float("inf"):
            raise InputError(f"data.augment.randaugment.magnitude_std is {self.magnitude_std}; valid: 0 or more")

    def policy(self, fill: Fill) -> Policy:
        """Apply `num_ops` drawn operations one after the other."""
        return functools.partial(_apply, self, fill)


create = RandAugment


def _apply(
    self: RandAugment, fill: Fill, image: Image.Image, rng: np.random.Generator, moves: list[Matrix]
) -> Image.Image:
    variant = VARIANTS[self.variant]
    brush = Brush(rng, fill, variant.resample, moves)
    for _ in range(self.num_ops):
        op = OPS[variant.ops[rng.integers(len(variant.ops))]]
        if rng.random() >= variant.probability:
            continue
        magnitude = self.magnitude
        if self.magnitude_std:
            magnitude = min(max(rng.normal(magnitude, self.magnitude_std), 0.0), max(10.0, magnitude))
        image = op(image, family=variant.family, strength=magnitude / 10, brush=brush)
    return image
