"""Augmentation policies: which operations of `augment` an image goes through, and how strongly.

A policy is a frozen dataclass that is called with a PIL image and the image's own generator, and gives a PIL
image of the same size and mode.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from vit_jax.data.augment import operations as augment
from vit_jax.data.augment.operations import OPS, Brush
from vit_jax.errors import InputError

Policy = Callable[[Image.Image, np.random.Generator], Image.Image]
NAMES = ("none", "randaugment", "autoaugment_cifar", "autoaugment_imagenet", "trivialaugment", "three_augment")

_PAPER = (
    *("Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"),
)
_TIMM = (*_PAPER[1:], "Invert", "SolarizeAdd")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of VARIANTS.

    ops: drawn from uniformly, with replacement.
    family: whose scales the magnitude has, a field of `augment.Op`.
    probability: of applying a drawn operation at all.
    resample: see `augment.Brush`.
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
class RandAugment:
    """A few operations, all of the same magnitude.

    fill: see `augment.Brush`.
    variant: a row of VARIANTS.
    num_ops: the paper's N.
    magnitude: the paper's M; 10 is strength 1, and google's scales go on beyond it.
    magnitude_std: of normal noise on each operation's magnitude, timm's `mstd`, which never goes beyond 0 and 10 (or
        the magnitude itself where that is higher).

    Source: Cubuk et al. 2019 (arXiv:1909.13719); see VARIANTS.
    """

    fill: tuple[int, ...] | int = (128, 128, 128)
    variant: str = "timm"
    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            InputError: a value out of its range.
        """
        if self.variant not in VARIANTS:
            raise InputError(f"data.randaugment_variant is {self.variant!r}; valid: {', '.join(VARIANTS)}")
        if self.num_ops < 1:
            raise InputError(f"data.randaugment_num_ops is {self.num_ops}; valid: 1 or more")
        most = 30 if VARIANTS[self.variant].family == "google" else 10
        if not 0 <= self.magnitude <= most:
            raise InputError(f"data.randaugment_magnitude is {self.magnitude}; valid: 0 to {most} for {self.variant!r}")
        if not 0.0 <= self.magnitude_std < float("inf"):
            raise InputError(f"data.randaugment_magnitude_std is {self.magnitude_std}; valid: 0 or more")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Applies `num_ops` drawn operations one after the other."""
        variant = VARIANTS[self.variant]
        brush = Brush(rng, self.fill, variant.resample)
        for _ in range(self.num_ops):
            op = OPS[variant.ops[rng.integers(len(variant.ops))]]
            if rng.random() >= variant.probability:
                continue
            magnitude = self.magnitude
            if self.magnitude_std:
                magnitude = min(max(rng.normal(magnitude, self.magnitude_std), 0.0), max(10.0, magnitude))
            image = op(image, family=variant.family, strength=magnitude / 10, brush=brush)
        return image


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of 25 learned pairs of operations, each with a probability and a magnitude of its own.

    policy: a key of AUTOAUGMENT, the dataset it was learned on.
    fill: see `augment.Brush`.

    Source: Cubuk et al. 2018 (arXiv:1805.09501), appendix. The paper leaves open what a magnitude in 0 .. 9 stands for;
    torchvision's scales are taken, but empty areas are filled with `fill` rather than black, and translations are
    rounded to the nearest pixel rather than down.
    """

    policy: str
    fill: tuple[int, ...] | int = (128, 128, 128)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Applies one pair."""
        pairs = AUTOAUGMENT[self.policy]
        brush = Brush(rng, self.fill)
        for name, probability, magnitude in pairs[rng.integers(len(pairs))]:
            if rng.random() < probability:
                image = OPS[name](image, family="autoaugment", strength=magnitude / 9, brush=brush)
        return image


@dataclasses.dataclass(frozen=True)
class TrivialAugment:
    """One operation of random strength.

    fill: see `augment.Brush`.

    Source: Müller and Hutter 2021 (arXiv:2103.10158), the wide search space with 31 strengths, as in torchvision's
    TrivialAugmentWide, but empty areas are filled with `fill` rather than black.
    """

    fill: tuple[int, ...] | int = (128, 128, 128)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Applies one operation."""
        op = OPS[_TRIVIAL[rng.integers(len(_TRIVIAL))]]
        return op(image, family="trivial", strength=rng.integers(31) / 30, brush=Brush(rng, self.fill))


_TRIVIAL = (*_PAPER[:-2], "TranslateXPx", "TranslateYPx")


@dataclasses.dataclass(frozen=True)
class ThreeAugment:
    """Grey, or solarised at 128, or blurred with a radius in [0.1, 2] pixels, each with probability 1/3.

    Source: Touvron et al. 2022 (DeiT III, arXiv:2204.07118), section 3 and deit/augment.py; its colour jitter of 0.3,
    0.3, 0.3, 0 and its flip are keys of their own here.
    """

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Applies one of the three."""
        choice = rng.integers(3)
        if choice == 0:
            return augment.grayscale(image)
        if choice == 1:
            return augment.solarize(image, 128, Brush(rng))
        return augment.gaussian_blur(image, rng.uniform(0.1, 2.0))


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue changed by random amounts, in random order.

    brightness, contrast, saturation: the factor is uniform in [max(0, 1 - x), 1 + x]; 0 is no change.
    hue: the turn is uniform in [-x, x] of the colour circle; at most 0.5.

    Source: torchvision's ColorJitter.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            InputError: a value out of its range.
        """
        values = dataclasses.astuple(self)
        if min(values) < 0 or self.hue > 0.5:
            raise InputError(
                f"data.color_jitter is {values}; valid: brightness, contrast, saturation of at least 0 and a hue in "
                "[0, 0.5]"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Applies the four that are not 0."""
        brush = Brush(rng)
        factors = (
            (self.brightness, augment.brightness),
            (self.contrast, augment.contrast),
            (self.saturation, augment.color),
        )
        for i in rng.permutation(4):
            if i == 3:
                if self.hue:
                    image = augment.hue(image, rng.uniform(-self.hue, self.hue))
                continue
            amount, op = factors[i]
            if amount:
                image = op(image, rng.uniform(max(0.0, 1.0 - amount), 1.0 + amount), brush)
        return image


def create(
    name: str, *, mean: Sequence[float], color_jitter: Sequence[float], **randaugment: float | str
) -> tuple[Policy, ...]:
    """Makes the policies that each training image goes through, in their order; none is an empty tuple.

    Args:
        name: one of NAMES.
        mean: of each channel, in [0, 1]; what images do not cover is filled with it, as in timm.
        color_jitter: the four fields of ColorJitter; it comes last.
        **randaugment: fields of RandAugment.

    Raises:
        InputError: an unknown name, or a value out of its range.
    """
    fill = tuple(round(255 * x) for x in mean) if len(mean) > 1 else round(255 * mean[0])
    policies: list[Policy] = []
    if name == "randaugment":
        policies.append(RandAugment(fill, **randaugment))  # pyright: ignore[reportArgumentType]
    elif name.startswith("autoaugment_") and name in NAMES:
        policies.append(AutoAugment(name.removeprefix("autoaugment_"), fill))
    elif name == "trivialaugment":
        policies.append(TrivialAugment(fill))
    elif name == "three_augment":
        policies.append(ThreeAugment())
    elif name != "none":
        raise InputError(f"data.augment is {name!r}; valid: {', '.join(NAMES)}")
    if len(color_jitter) != 4 or not all(math.isfinite(x) for x in color_jitter):
        raise InputError(f"data.color_jitter is {color_jitter}; valid: brightness, contrast, saturation, hue")
    if any(color_jitter):
        policies.append(ColorJitter(*color_jitter))
    return tuple(policies)


def apply(policies: Sequence[Policy], image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes an image through the policies.

    Args:
        policies: see `create`; without any the image itself is given back.
        image: `[H, W, C]` uint8 with 1 or 3 channels; it is not written to.
        rng: of this image alone.

    Returns:
        `[H, W, C]` uint8.
    """
    if not policies:
        return image
    pil = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    for policy in policies:
        pil = policy(pil, rng)
    return np.asarray(pil).reshape(image.shape)


# (operation, probability, magnitude in 0 .. 9), two by two; operations without a value have magnitude 0 here.
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
