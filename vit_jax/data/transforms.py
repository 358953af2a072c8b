"""Decoding and what changes an image's shape: done per example on the host, before batching."""

import dataclasses
import io
import math
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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
_MODES = {1: "L", 3: "RGB"}


def decode(image: Any, channels: int) -> Image.Image:
    """Opens an image, turns it as its EXIF data say, and brings it to 1 (grey) or 3 (RGB) channels of 8 bits.

    Of an animation it is the first frame; transparency is dropped, as transformers and timm do; of 16 bits the upper 8
    are taken.

    Args:
        image: encoded bytes, a path, a PIL image, or a uint8 array `[H, W]`, `[H, W, 1]` or `[H, W, 3]`.
        channels: 1 or 3.

    Raises:
        InputError: something that is no image, is cut off, has pixels of 32 bits, or cannot be read; it is named if it
            has a name.
    """
    if channels not in _MODES:
        raise InputError(
            f"the model takes images of {channels} channels, which are not decoded; valid: 1 (grey), 3 (RGB), or "
            "arrays of them, normalised, given to the model itself"
        )
    name = "the image" if isinstance(image, bytes | np.ndarray | Image.Image) else str(image)
    try:
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        elif isinstance(image, bytes):
            image = Image.open(io.BytesIO(image))
        elif isinstance(image, str | os.PathLike):
            image = Image.open(io.BytesIO(pathlib.Path(image).read_bytes()))
        elif not isinstance(image, Image.Image):
            raise InputError(
                f"a {type(image).__name__} is no image; valid: a path, a PIL image or a NumPy array of uint8"
            )
        return _eight_bits(ImageOps.exif_transpose(image), image.format).convert(_MODES[channels])
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image in a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is too large: {error}") from None
    except Exception as error:  # whatever a damaged file, or its damaged EXIF data, leads Pillow to
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason}") from None


def _eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """What `Image.convert` would cut off at 255 or warn of, in a form that it turns to grey or RGB as it is."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers, whose range is not known; valid: 8 or 16 bits")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA")
    return image


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (
        array.size == 0
        or array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] != 3)
    ):
        raise InputError(
            f"an image array of shape {array.shape} and type {array.dtype} is not valid; "
            "valid: uint8 of shape [H, W], [H, W, 1] or [H, W, 3]"
        )
    return Image.fromarray(array)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From any image to a model's input. It travels with the checkpoint.

    image_size: height and width in pixels that the model takes.
    channels: 1 (grey) or 3 (RGB); images of any other number cannot be decoded.
    resize: `exact` (to `resize_to`, whatever the proportions) or `shortest_edge` (keeping them, so that the image just
        covers `resize_to`; the other side is rounded down). Then the middle is cut out.
    crop_fraction: the share of each side that `shortest_edge` keeps where there is no `resize_to`, in (0, 1].
    resize_to: height and width before the cut, at least image_size; None is image_size for `exact`, and
        image_size / crop_fraction, rounded down, for `shortest_edge`.
    crop_offset: which way half a pixel goes where the cut's margins are uneven: `floor` to the top and left (Hugging
        Face), `nearest` to the even number of pixels (torchvision and timm).
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
        """Checks the fields.

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
            if len(getattr(self, name)) != self.channels:
                raise InputError(f"data.{name} is {getattr(self, name)}; valid: {self.channels} numbers")
        if min(self.std) <= 0:
            raise InputError(f"data.std is {self.std}; valid: numbers above 0")

    def __call__(self, image: Any) -> np.ndarray:
        """Decodes, resizes and crops; gives `[height, width, channels]` uint8, not yet normalised.

        Args:
            image: whatever `decode` takes.
        """
        pil = decode(image, self.channels)
        size = self._size_before_crop(pil.height, pil.width)
        pil = _resized(pil, size, None, INTERPOLATION[self.interpolation])
        if size != self.image_size:
            height, width = self.image_size
            top, left = (self._offset(margin) for margin in (size[0] - height, size[1] - width))
            pil = pil.crop((left, top, left + width, top + height))
        return _to_array(pil)

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
        """Checks the fields.

        Raises:
            InputError: a value out of its range.
        """
        if not 0.0 < self.min_area <= 1.0:
            raise InputError(f"data.crop_min_area is {self.min_area}; valid: more than 0, at most 1")

    def __call__(self, image: Any, rng: np.random.Generator) -> np.ndarray:
        """Gives `[height, width, channels]` uint8, not yet normalised."""
        pil = decode(image, self.preprocessing.channels)
        top, left, height, width = self.box(pil.height, pil.width, rng)
        method = INTERPOLATION[self.preprocessing.interpolation]
        box = (left, top, left + width, top + height)
        return _to_array(_resized(pil, self.preprocessing.image_size, box, method))

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws (top, left, height, width) in pixels of a part of an image of the given size."""
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
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[int, int, int, int] | None,
    method: Image.Resampling,
) -> Image.Image:
    """Resizes the part `box` (left, top, right, bottom; None is all) to size (height, width)."""
    if box is None and (image.height, image.width) == size:
        return image
    return image.resize((size[1], size[0]), method, box=box)


def _to_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
