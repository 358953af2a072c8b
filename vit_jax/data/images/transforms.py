"""Turns any image into a model's input: decoding, resizing and cropping, on the host, before batching."""

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.data.images.decoding import Picture, Reading, fast_libraries
from vit_jax.data.images.geometry import Geometry
from vit_jax.errors import InputError

RESIZE = ("exact", "shortest_edge")
CROP_OFFSET = ("floor", "nearest")
INTERPOLATION = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
EXACTLY = Reading()
WITHOUT_ANTIALIAS = {"bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC", "nearest": "INTER_NEAREST"}
"""Names in OpenCV."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns any image into a model's input. It travels with the checkpoint.

    image_size: height and width in pixels that the model takes.
    channels: 1 (grey) or 3 (RGB); images of any other number cannot be decoded.
    resize: `exact` (to `resize_to`, changing the aspect ratio) or `shortest_edge` (keeping it, so that the image just
        covers `resize_to`; the other side is rounded down). Then the centre is cropped.
    crop_fraction: share of each side that the crop keeps after `shortest_edge` without `resize_to`, in (0, 1].
    resize_to: height and width before the crop, at least image_size; None is image_size for `exact`, and
        image_size / crop_fraction, rounded down, for `shortest_edge`.
    crop_offset: rounding where the margins of the crop are uneven: `floor` to the top and left (Hugging Face),
        `nearest` to the even number of pixels (torchvision and timm).
    interpolation: `bilinear`, `bicubic`, `nearest`, `box`, `hamming` or `lanczos`, all but `nearest` with the filter
        widened when shrinking (antialiasing).
    mean, std: of each channel, for pixels on the scale [0, 1].
    """

    image_size: tuple[int, int]
    channels: int = 3
    resize: str = "exact"
    crop_fraction: float = 1.0
    resize_to: tuple[int, int] | None = None
    crop_offset: str = "floor"
    interpolation: str = "bilinear"
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
        pixels = _resized(picture, geometry.box, geometry.resized, self.interpolation, reading)
        top, left, height, width = geometry.cut
        return pixels[top : top + height, left : left + width]

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


def _resized(
    picture: Picture, box: tuple[int, int, int, int], size: tuple[int, int], interpolation: str, reading: Reading
) -> np.ndarray:
    """Resize the part `box` (left, top, right, bottom) to size (height, width); gives `[height, width, C]` uint8."""
    left, top, right, bottom = box
    ratio = min((bottom - top) / size[0], (right - left) / size[1])
    reduction = picture.largest_reduction(ratio) if reading.reduced else 1
    if not reading.antialias:
        # Of a reduced image the nearest whole pixels.
        left, top, right, bottom = (round(side / reduction) for side in box)
        cv2 = fast_libraries()[0]
        part = picture.pixels(reduction, bottom=box[3])[top:bottom, left:right]
        part = cv2.resize(part, (size[1], size[0]), interpolation=getattr(cv2, WITHOUT_ANTIALIAS[interpolation]))
        return part[:, :, None] if part.ndim == 2 else part
    image = picture.decode(reduction)
    if (image.width, image.height) != (right - left, bottom - top) or (image.height, image.width) != size:
        part = (left / reduction, top / reduction, right / reduction, bottom / reduction)
        image = image.resize((size[1], size[0]), INTERPOLATION[interpolation], box=part)
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
