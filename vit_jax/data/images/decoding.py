"""From an encoded image to pixels: the header first, then as many of the pixels as are needed."""

import contextlib
import dataclasses
import functools
import math
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from vit_jax.data.images import metadata
from vit_jax.data.images.opening import MAX_IMAGE_PIXELS, Opened
from vit_jax.errors import InputError

_MODES = {1: "L", 3: "RGB"}
_END_OF_JPEG = b"\xff\xd9"
_SEQUENTIAL = (0xC0, 0xC1)  # the frame headers of a JPEG whose rows come from the top to the bottom
_LARGEST_BLOCK = 32  # rows that a sequential JPEG codes together, at most
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # of TIFF

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read; by default every pixel of them as it is, which evaluation relies on.

    max_pixels: height times width of the largest image that is decoded.
    reduced: whether a JPEG file that will be shrunk to half of its size or less is decoded at 1/2, 1/4 or 1/8 of its
        size, the smallest that is not below what is needed. Of large photographs it saves more than half of the time.
        The pixels differ slightly from those of the whole image shrunk, since the decoder averages over squares.
    antialias: whether shrinking averages over all pixels, as torchvision and timm do, or else interpolates between the
        nearest ones, as TensorFlow does by default; that is done by OpenCV and simplejpeg, in half of the time.
    """

    max_pixels: int = MAX_IMAGE_PIXELS
    reduced: bool = False
    antialias: bool = True

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range, or libraries that are not installed.
        """
        if self.max_pixels < 1:
            raise InputError(f"data.max_image_pixels is {self.max_pixels}; valid: 1 or more")
        if not self.antialias:
            fast_libraries()

    def exact(self) -> "Reading":
        """Return the same limit, but every pixel."""
        return Reading(self.max_pixels)


def decode(image: Any, channels: int, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Open an image, turns it as its EXIF data say, and brings it to 1 (grey) or 3 (RGB) channels of 8 bits.

    Of an animation it is the first frame; transparency is dropped, as transformers and timm do; of 16 bits the upper 8
    are taken.

    Args:
        image: encoded bytes, a path, a PIL image, or a uint8 array `[H, W]`, `[H, W, 1]` or `[H, W, 3]`.
        channels: 1 or 3.
        max_pixels: of an image; one that has more is refused before it is decoded.

    Raises:
        InputError: something that is no image, is too large, is cut off, has pixels of 32 bits, or cannot be read; it
            is named if it has a name.
    """
    return Picture(image, channels, max_pixels).decode()


def decode_numbers(value: Any, *, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Read a map of numbers, such as a mask: a file of one channel or a palette, whose numbers are kept as they are.

    Its EXIF data are ignored: a mask belongs to the upright image.

    Args:
        value: encoded bytes, a path, or an integer array `[H, W]` or `[H, W, 1]`.
        max_pixels: of the largest map that is decoded.

    Returns:
        `[H, W]` of an integer type.

    Raises:
        InputError: a colour image without a palette, an array of another shape or type, or a file that is too large or
            cannot be read.
    """
    if isinstance(value, np.ndarray):
        array = value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value
        if array.ndim != 2 or array.dtype.kind not in "iub":
            raise InputError(
                f"the mask is an array of shape {value.shape} and type {value.dtype}; valid: whole numbers [H, W]"
            )
        return array
    name = "the mask" if isinstance(value, bytes) else str(value)
    mask = Opened(value, name, max_pixels)
    if mask.image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
        raise InputError(
            f"{name} has the colours of mode {mask.image.mode}; valid: a number for each pixel, grey or with a palette"
        )
    return np.asarray(mask.load()).astype(np.int32)


class Picture:
    """An image of which the header has been read.

    height, width: in pixels, turned as its EXIF data say.
    """

    def __init__(self, image: Any, channels: int, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
        """Read the header; see `decode`."""
        if channels not in _MODES:
            raise InputError(
                f"the model takes images of {channels} channels, which are not decoded; valid: 1 (grey), 3 (RGB), or "
                "arrays of them, normalised, given to the model itself"
            )
        self._mode = _MODES[channels]
        name = "the image" if isinstance(image, bytes | np.ndarray | Image.Image) else str(image)
        self._opened = Opened(image, name, max_pixels)
        self.width, self.height = self._opened.image.size
        if self._opened.orientation in metadata.QUARTER_TURNS:
            self.height, self.width = self.width, self.height

    def decode(self, reduction: int = 1) -> Image.Image:
        """Return the pixels, once.

        Args:
            reduction: 1, 2, 4 or 8. Only an encoded JPEG can be reduced, see `largest_reduction`; each pixel is then
                the mean of so many squared, and those at the lower and right edge may stand for less.
        """
        stored = self._opened.load(reduction)
        with self._opened.errors():
            image = metadata.turned(_eight_bits(stored), self._opened.orientation)
            return image if image.mode == self._mode else image.convert(self._mode)

    def pixels(self, reduction: int = 1, *, bottom: int | None = None) -> np.ndarray:
        """Return the same as an array `[H, W, C]` uint8, of a plain JPEG without going through Pillow.

        Args:
            reduction: see `decode`.
            bottom: rows of the whole image from this one on are not needed, and may be missing.
        """
        stored, data = self._opened.image, self._opened.data
        plain = isinstance(stored, JpegImageFile) and stored.mode in ("RGB", "L") and self._opened.orientation == 1
        # One that is cut off is left to Pillow, which refuses it.
        if plain and self._mode == "RGB" and data is not None and data.endswith(_END_OF_JPEG):
            simplejpeg = fast_libraries()[1]
            data, height = _cut_below(data, bottom or self.height, self.height)
            sides = {"min_height": -(-height // reduction), "min_width": -(-self.width // reduction), "min_factor": 1}
            with contextlib.suppress(ValueError):  # Pillow then says what is wrong
                return simplejpeg.decode_jpeg(data, "RGB", strict=False, **sides)
        array = np.asarray(self.decode(reduction))
        return array[:, :, None] if array.ndim == 2 else array

    def largest_reduction(self, ratio: float) -> int:
        """Return the largest of 1, 2, 4 and 8 that is at most `ratio`; 1 for what cannot be reduced while decoding."""
        if self._opened.data is None or not isinstance(self._opened.image, JpegImageFile):
            return 1
        return next(reduction for reduction in (8, 4, 2, 1) if reduction <= max(ratio, 1))

    def in_reduced(self, box: Box, reduction: int) -> Box:
        """Return where a box of the image lies in what `decode` and `pixels` give.

        The pixels that stand for less are the last ones as the image is stored. Where it is stored from the right to
        the left, or upwards, these come first, and all others are moved by what is missing of them.

        Args:
            box: left, top, right, bottom in pixels of the image.
            reduction: see `decode`.
        """
        x, y = (math.ceil(side / reduction) - side / reduction for side in (self.width, self.height))
        x = x if self._opened.orientation in metadata.FROM_THE_RIGHT else 0
        y = y if self._opened.orientation in metadata.FROM_THE_BOTTOM else 0
        left, top, right, bottom = box
        return left / reduction + x, top / reduction + y, right / reduction + x, bottom / reduction + y


@functools.cache
def fast_libraries() -> tuple[ModuleType, ModuleType]:
    """OpenCV and simplejpeg.

    Raises:
        InputError: they are not installed.
    """
    try:
        import cv2  # pyright: ignore[reportMissingImports]
        import simplejpeg  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"data.antialias=false needs {error.name}, which is not installed; valid: pip install 'vit-jax[fast]'"
        ) from None
    cv2.setNumThreads(0)  # the loader has its own
    return cv2, simplejpeg


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return what `Image.convert` would cut off at 255 or warn of, in a form that it turns to grey or RGB as it is."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        tags = getattr(image, "tag_v2", {})
        levels = np.asarray(image) >> (tags.get(_BITS_PER_SAMPLE, (16,))[0] - 8)
        inverted = tags.get(_PHOTOMETRIC) == 0  # of 16 bits Pillow does not see to it
        return Image.fromarray((255 - levels if inverted else levels).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are signed or 32-bit numbers, whose range is not known; valid: 8 or 16 bits")
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA")
    return image


def _cut_below(data: bytes, bottom: int, height: int) -> tuple[bytes, int]:
    """Shorten a JPEG in its header to what is soon below a row, so that no decoder works on what follows.

    Source: ITU-T T.81, B.2.2: a frame header is marker, length (2 bytes), precision (1), number of lines (2).
    """
    new = -(-bottom // _LARGEST_BLOCK) * _LARGEST_BLOCK + _LARGEST_BLOCK  # chroma looks at the rows below, too
    place = 2
    while new < height and place + 7 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in _SEQUENTIAL:
            return data[: place + 5] + new.to_bytes(2) + data[place + 7 :], new
        if 0xC2 <= data[place + 1] <= 0xCF and data[place + 1] not in (0xC4, 0xC8, 0xCC):
            break  # progressive and others
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return data, height
