"""Turns any image into a model's input: decoding, resizing and cropping, on the host, before batching."""

import dataclasses
import math
from typing import Any

import numpy as np

from vit_jax.data.images.decoding import Picture, Reading
from vit_jax.data.images.geometry import Geometry
from vit_jax.data.images.resizing import INTERPOLATION, placed
from vit_jax.errors import InputError

RESIZE = ("exact", "shortest_edge", "shortest_edge_nearest")
CROP_OFFSET = ("floor", "nearest")
EXACTLY = Reading()


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns any image into a model's input. It travels with the checkpoint.

    image_size: height and width in pixels that the model takes.
    channels: 1 (grey) or 3 (RGB); images of any other number cannot be decoded.
    resize: `exact` (to `resize_to`, changing the aspect ratio) or `shortest_edge` (keeping it, so that the image just
        covers `resize_to`; the other side is rounded down, or for `shortest_edge_nearest` to the nearest pixel, as timm
        does where `resize_to` is no square). Then the centre is cropped.
    crop_fraction: share of each side that the crop keeps after `shortest_edge` without `resize_to`, in (0, 1].
    resize_to: height and width before the crop, at least image_size; None is image_size for `exact`, and
        image_size / crop_fraction, rounded down, for `shortest_edge`.
    crop_offset: rounding where the margins of the crop are uneven: `floor` to the top and left (Hugging Face),
        `nearest` to the even number of pixels (torchvision and timm).
    interpolation: `bilinear`, `bicubic`, `nearest`, `box`, `hamming` or `lanczos`, all but `nearest` with the filter
        widened when shrinking (antialiasing).
    width_first: whether an image is resized to its new width before its new height, as transformers does with
        torchvision's tensors, or in the order that Pillow chooses, by the work, as in timm. Pixels are rounded and cut
        off at 0 and 255 in between. Without antialiasing there is no order.
    mean, std: of each channel, for pixels on the scale [0, 1].
    """

    image_size: tuple[int, int]
    channels: int = 3
    resize: str = "exact"
    crop_fraction: float = 1.0
    resize_to: tuple[int, int] | None = None
    crop_offset: str = "floor"
    interpolation: str = "bilinear"
    width_first: bool = False
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        for name in ("image_size", "resize_to", "mean", "std"):  # lists, when read from JSON
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise InputError(f"data.image_size is {self.image_size}; valid: height and width in pixels, as in 224,224")
        if self.channels < 1:
            raise InputError(f"data.channels is {self.channels}; valid: 1 (grey), 3 (RGB)")
        if self.resize not in RESIZE:
            raise InputError(f"data.resize is {self.resize!r}; valid: {', '.join(RESIZE)}")
        if self.interpolation not in INTERPOLATION:
            raise InputError(f"data.interpolation is {self.interpolation!r}; valid: {', '.join(INTERPOLATION)}")
        if not 0.0 < self.crop_fraction <= 1.0:
            raise InputError(f"data.crop_fraction is {self.crop_fraction}; valid: more than 0, at most 1")
        if self.resize_to is not None and (
            len(self.resize_to) != 2 or any(a < b for a, b in zip(self.resize_to, self.image_size, strict=True))
        ):
            raise InputError(f"data.resize_to is {self.resize_to}; valid: height and width of at least data.image_size")
        if self.crop_offset not in CROP_OFFSET:
            raise InputError(f"data.crop_offset is {self.crop_offset!r}; valid: {', '.join(CROP_OFFSET)}")
        if not isinstance(self.width_first, bool):
            raise InputError(f"data.width_first is {self.width_first!r}; valid: true, false")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not all(isinstance(x, int | float) and math.isfinite(x) for x in values):
                raise InputError(f"data.{name} is {values}; valid: {self.channels} numbers")
        if min(self.std) <= 0:
            raise InputError(f"data.std is {self.std}; valid: numbers above 0")

    def __call__(self, image: Any, reading: Reading = EXACTLY) -> np.ndarray:
        """Decode, resizes and crops; gives `[height, width, channels]` uint8, not yet normalised.

        Args:
            image: what `decode` takes.
            reading: how it is decoded.
        """
        picture = Picture(image, self.channels, reading.max_pixels)
        return self.place(picture, self.geometry(picture.height, picture.width), reading)

    def geometry(self, height: int, width: int) -> Geometry:
        """Return what becomes of an image of this height and width in pixels."""
        size = self._size_before_crop(height, width)
        rows, columns = self.image_size
        top, left = (self._offset(margin) for margin in (size[0] - rows, size[1] - columns))
        return Geometry((height, width), (0, 0, width, height), size, (top, left, rows, columns))

    def place(self, picture: Picture, geometry: Geometry, reading: Reading = EXACTLY) -> np.ndarray:
        """Decode and places an image; gives `[height, width, channels]` uint8, not yet normalised."""
        return placed(picture, geometry, self.interpolation, reading, width_first=self.width_first)

    @property
    def resize_target(self) -> tuple[int, int]:
        """Height and width that an image is resized to, or so that it just covers them, before the cut."""
        if self.resize_to is not None:
            return self.resize_to
        if self.resize == "exact":
            return self.image_size
        height, width = (math.floor(side / self.crop_fraction) for side in self.image_size)
        return height, width

    def _size_before_crop(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to resize an image of the given height and width to."""
        rows, columns = self.resize_target
        if self.resize == "exact":
            return rows, columns
        if self.resize == "shortest_edge_nearest":  # in timm's steps, since 0.5 is rounded to the even number
            ratio = min(height / rows, width / columns)
            return max(round(height / ratio), rows), max(round(width / ratio), columns)
        if rows * width >= columns * height:
            return rows, max(rows * width // height, columns)
        return max(columns * height // width, rows), columns

    def _offset(self, margin: int) -> int:
        return margin // 2 if self.crop_offset == "floor" else round(margin / 2)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a random part of an image and resizes it to the model's input.

    min_area: the least share of the image's area, in (0, 1].
    max_aspect: width over height of the part is between 1 / max_aspect and max_aspect, log-uniformly.

    Source: Szegedy et al. 2014 (arXiv:1409.4842), section 6; after ten failed draws the largest centred part
    with a valid aspect is taken, as in torchvision's RandomResizedCrop.
    """

    preprocessing: Preprocessing
    min_area: float = 0.08
    max_aspect: float = 4 / 3

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if not 0.0 < self.min_area <= 1.0:
            raise InputError(f"data.augment.random_crop.min_area is {self.min_area}; valid: more than 0, at most 1")

    def __call__(self, image: Any, rng: np.random.Generator, reading: Reading = EXACTLY) -> np.ndarray:
        """Return `[height, width, channels]` uint8, not yet normalised."""
        picture = Picture(image, self.preprocessing.channels, reading.max_pixels)
        geometry = self.geometry(picture.height, picture.width, rng)
        return self.preprocessing.place(picture, geometry, reading)

    def geometry(self, height: int, width: int, rng: np.random.Generator) -> Geometry:
        """Draw a part of an image of this height and width in pixels."""
        top, left, rows, columns = self.box(height, width, rng)
        size = self.preprocessing.image_size
        return Geometry((height, width), (left, top, left + columns, top + rows), size, (0, 0, *size))

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width) in pixels of a part of an image of the given size."""
        for _ in range(10):
            area = height * width * rng.uniform(self.min_area, 1.0)
            aspect = math.exp(rng.uniform(-math.log(self.max_aspect), math.log(self.max_aspect)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        w = min(width, round(height * self.max_aspect))
        h = min(height, round(width * self.max_aspect))
        return (height - h) // 2, (width - w) // 2, h, w
