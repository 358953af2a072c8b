"""Operations that augmentation policies draw from: PIL image in, PIL image of the same size and mode out.

One table, OPS, says what each operation does and, for each family of policies, what its strength means.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vit_jax.data.images.geometry import Matrix, rotation


@dataclasses.dataclass(frozen=True)
class Brush:
    """What an operation needs besides its value.

    rng: of this image alone.
    fill: colour of areas that an image does not cover, a number in [0, 255] for each channel; an int for one channel.
    resample: filter for pixels between others.
    moves: takes the matrix of each operation that moves pixels, so that masks and boxes can follow.
    """

    rng: np.random.Generator
    fill: tuple[int, ...] | int = (128, 128, 128)
    resample: Image.Resampling = Image.Resampling.NEAREST
    moves: list[Matrix] = dataclasses.field(default_factory=list)


def affine(image: Image.Image, matrix: Matrix, brush: Brush) -> Image.Image:
    """Move pixels: (x, y) of the result is (a x + b y + c, d x + e y + f) of the image; the matrix is a to f."""
    brush.moves.append(matrix)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=brush.resample, fillcolor=brush.fill)


def rotate(image: Image.Image, degrees: float, brush: Brush) -> Image.Image:
    """Turn about the centre, anticlockwise."""
    brush.moves.append(rotation(degrees, image.height, image.width))
    return image.rotate(degrees, resample=brush.resample, fillcolor=brush.fill)


def shear_x(image: Image.Image, slope: float, brush: Brush) -> Image.Image:
    """Move row y left by slope * y."""
    return affine(image, (1, slope, 0, 0, 1, 0), brush)


def shear_y(image: Image.Image, slope: float, brush: Brush) -> Image.Image:
    """Move column x up by slope * x."""
    return affine(image, (1, 0, 0, slope, 1, 0), brush)


def translate_x(image: Image.Image, fraction: float, brush: Brush) -> Image.Image:
    """Move left by a fraction of the width."""
    return affine(image, (1, 0, fraction * image.width, 0, 1, 0), brush)


def translate_y(image: Image.Image, fraction: float, brush: Brush) -> Image.Image:
    """Move up by a fraction of the height."""
    return affine(image, (1, 0, 0, 0, 1, fraction * image.height), brush)


def translate_x_px(image: Image.Image, pixels: float, brush: Brush) -> Image.Image:
    """Move left by a number of pixels."""
    return affine(image, (1, 0, pixels, 0, 1, 0), brush)


def translate_y_px(image: Image.Image, pixels: float, brush: Brush) -> Image.Image:
    """Move up by a number of pixels."""
    return affine(image, (1, 0, 0, 0, 1, pixels), brush)


def cutout(image: Image.Image, fraction: float, brush: Brush) -> Image.Image:
    """Fill a square around a random pixel that reaches `fraction` of the shorter side each way, clipped at the edges.

    Source: DeVries and Taylor 2017, arXiv:1708.04552.
    """
    reach = round(fraction * min(image.size))
    x, y = int(brush.rng.integers(image.width)), int(brush.rng.integers(image.height))
    box = (max(x - reach, 0), max(y - reach, 0), min(x + reach, image.width), min(y + reach, image.height))
    image = image.copy()
    image.paste(brush.fill, box)
    return image


def posterize(image: Image.Image, bits: float, _: Brush) -> Image.Image:
    """Keep the highest bits of each value: 0 of them give a black image, 8 and more the image itself."""
    step = 2 ** max(8 - round(bits), 0)  # Pillow's own refuses 0 bits
    return image.point([value // step * step for value in range(256)] * len(image.getbands()))


def solarize(image: Image.Image, threshold: float, _: Brush) -> Image.Image:
    """Invert each value of at least `threshold`."""
    return ImageOps.solarize(image, threshold)  # pyright: ignore[reportArgumentType]  # any number works


def solarize_add(image: Image.Image, addition: float, _: Brush) -> Image.Image:
    """Add to each value below 128, up to 255."""
    table = [min(255, value + int(addition)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def color(image: Image.Image, factor: float, _: Brush) -> Image.Image:
    """Blend with the grey image: 0 is grey, 1 the image itself."""
    return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float, _: Brush) -> Image.Image:
    """Blend with the image's mean grey: 0 is all grey, 1 the image itself."""
    return ImageEnhance.Contrast(image).enhance(factor)


def brightness(image: Image.Image, factor: float, _: Brush) -> Image.Image:
    """Blend with black: 0 is black, 1 the image itself."""
    return ImageEnhance.Brightness(image).enhance(factor)


def sharpness(image: Image.Image, factor: float, _: Brush) -> Image.Image:
    """Blend with the smoothed image: 0 is smooth, 1 the image itself."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a part of its circle, in [-0.5, 0.5]; a grey image stays as it is."""
    if image.mode == "L":
        return image
    h, s, v = image.convert("HSV").split()
    h = h.point([(value + int(turn * 255)) % 256 for value in range(256)])
    return Image.merge("HSV", (h, s, v)).convert("RGB")


def grayscale(image: Image.Image) -> Image.Image:
    """Remove the colour; the number of channels stays."""
    return image.convert("L").convert(image.mode)


def gaussian_blur(image: Image.Image, radius_px: float) -> Image.Image:
    """Smooth with a Gaussian whose standard deviation is the radius."""
    return image.filter(ImageFilter.GaussianBlur(radius_px))


@dataclasses.dataclass(frozen=True)
class Scale:
    """Gives an operation's value as a linear function of a strength of 0 or more: start + span * strength.

    signed: half of the time - span * strength.
    whole: span * strength is rounded towards 0.
    """

    start: float
    span: float
    signed: bool = False
    whole: bool = False

    def value(self, strength: float, rng: np.random.Generator) -> float:
        """Return the value for a strength."""
        change = self.span * strength
        if self.whole:
            change = int(change)
        if self.signed and rng.random() < 0.5:
            change = -change
        return self.start + change


@dataclasses.dataclass(frozen=True)
class Op:
    """A row of OPS: what is done, and the value's scale in each family; None where the family lacks it.

    google: RandAugment as in big_vision's pp/autoaugment.py, forked from TPU's EfficientNet; its constants in
        pixels are for 224 x 224.
    timm: timm's RandAugment, auto_augment.py, `rand-m9`.
    timm_increasing: the same with `inc1`, where a higher magnitude always changes an image more.
    autoaugment: torchvision's AutoAugment, with magnitudes 0 .. 9 as strengths 0 .. 1.
    trivial: torchvision's TrivialAugmentWide.
    """

    name: str
    function: Callable[[Image.Image, float, Brush], Image.Image]
    google: Scale | None
    timm: Scale | None
    timm_increasing: Scale | None
    autoaugment: Scale | None
    trivial: Scale | None

    def __call__(self, image: Image.Image, *, family: str, strength: float, brush: Brush) -> Image.Image:
        """Change the image as strongly as the family says."""
        scale: Scale = getattr(self, family)
        return self.function(image, scale.value(strength, brush.rng), brush)


def _without_value(
    function: Callable[[Image.Image], Image.Image],
) -> Callable[[Image.Image, float, Brush], Image.Image]:
    return lambda image, value, brush: function(image)


_ANY = Scale(0, 0)  # of operations that take no value
_FACTOR = Scale(0.1, 1.8)
_AROUND_ONE = Scale(1, 0.9, signed=True)
_AROUND_ONE_WIDE = Scale(1, 0.99, signed=True)
_TURN = Scale(0, 30, signed=True)
_SLOPE = Scale(0, 0.3, signed=True)
_SLOPE_WIDE = Scale(0, 0.99, signed=True)
_SHIFT_GOOGLE = Scale(0, 100 / 224, signed=True)
_SHIFT_TIMM = Scale(0, 0.45, signed=True)
_SHIFT = Scale(0, 150 / 331, signed=True)
_SHIFT_PX = Scale(0, 32, signed=True, whole=True)
_BITS = Scale(0, 4, whole=True)
_THRESHOLD = Scale(0, 256, whole=True)
_ADDITION = Scale(0, 110, whole=True)

_ENHANCE = (_FACTOR, _FACTOR, _AROUND_ONE, _AROUND_ONE, _AROUND_ONE_WIDE)
_SHEAR = (_SLOPE, _SLOPE, _SLOPE, _SLOPE, _SLOPE_WIDE)
_TRANSLATE = (_SHIFT_GOOGLE, _SHIFT_TIMM, _SHIFT_TIMM, _SHIFT, None)

OPS = {
    op.name: op
    for op in (
        Op("Identity", _without_value(lambda image: image), _ANY, _ANY, _ANY, _ANY, _ANY),
        Op("AutoContrast", _without_value(ImageOps.autocontrast), _ANY, _ANY, _ANY, _ANY, _ANY),
        Op("Equalize", _without_value(ImageOps.equalize), _ANY, _ANY, _ANY, _ANY, _ANY),
        Op("Invert", _without_value(ImageOps.invert), _ANY, _ANY, _ANY, _ANY, _ANY),
        Op("Rotate", rotate, _TURN, _TURN, _TURN, _TURN, Scale(0, 135, signed=True)),
        Op("Posterize", posterize, _BITS, _BITS, Scale(4, -4, whole=True), Scale(8, -4), Scale(8, -6)),
        Op("Solarize", solarize, _THRESHOLD, _THRESHOLD, Scale(256, -256, whole=True), *[Scale(255, -255)] * 2),
        Op("SolarizeAdd", solarize_add, _ADDITION, _ADDITION, _ADDITION, None, None),
        Op("Color", color, *_ENHANCE),
        Op("Contrast", contrast, *_ENHANCE),
        Op("Brightness", brightness, *_ENHANCE),
        Op("Sharpness", sharpness, *_ENHANCE),
        Op("ShearX", shear_x, *_SHEAR),
        Op("ShearY", shear_y, *_SHEAR),
        Op("TranslateX", translate_x, *_TRANSLATE),
        Op("TranslateY", translate_y, *_TRANSLATE),
        Op("TranslateXPx", translate_x_px, None, None, None, None, _SHIFT_PX),
        Op("TranslateYPx", translate_y_px, None, None, None, None, _SHIFT_PX),
        Op("Cutout", cutout, Scale(0, 40 / 224), None, None, None, None),
    )
}
