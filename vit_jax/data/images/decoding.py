"""From an encoded image to pixels: the header first, then as many of the pixels as are needed."""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from vit_jax.errors import InputError

MAX_IMAGE_PIXELS = 178_956_970
"""Beyond this Pillow, too, takes an image for a decompression bomb: half a GB of RGB."""

_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112
_END_OF_JPEG = b"\xff\xd9"
_SEQUENTIAL = (0xC0, 0xC1)  # the frame headers of a JPEG whose rows come from the top to the bottom
_LARGEST_BLOCK = 32  # rows that a sequential JPEG codes together, at most


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
    try:
        image = _opened(value)
        if image.width * image.height > max_pixels:
            raise InputError(
                f"{name} is too large: {image.width} x {image.height} pixels; valid: at most {max_pixels} "
                "(data.max_image_pixels)"
            )
        if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
            raise InputError(
                f"{name} has the colours of mode {image.mode}; valid: a number for each pixel, grey or with a palette"
            )
        return np.asarray(image).astype(np.int32)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file leads Pillow to
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason}") from None


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
        self._name = "the image" if isinstance(image, bytes | np.ndarray | Image.Image) else str(image)
        self._bytes = image if isinstance(image, bytes) else None
        with self._errors(max_pixels):
            # A limit that is raised has to be above Pillow's own, which cannot be given image by image.
            if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
                Image.MAX_IMAGE_PIXELS = max_pixels
            self._image = _opened(image)
            self.width, self.height = self._image.size
            if self.width * self.height > max_pixels:
                raise Image.DecompressionBombError(f"{self.width} x {self.height} pixels")
            self._orientation = self._image.getexif().get(_ORIENTATION, 1)
        if self._orientation in (5, 6, 7, 8):
            self.height, self.width = self.width, self.height

    def decode(self, reduction: int = 1) -> Image.Image:
        """Return the pixels, once.

        Args:
            reduction: 1, 2, 4 or 8. Only an encoded JPEG can be reduced, see `largest_reduction`; each pixel is then
                the mean of so many squared, and those at the lower and right edge may stand for less.
        """
        with self._errors():
            if reduction > 1:
                self._image.draft(None, (self._image.width // reduction, self._image.height // reduction))
            image, file_format = self._image, self._image.format
            image.load()
            if self._orientation in range(2, 9):
                image = ImageOps.exif_transpose(image)
            image = _eight_bits(image, file_format)
            return image if image.mode == self._mode else image.convert(self._mode)

    def pixels(self, reduction: int = 1, *, bottom: int | None = None) -> np.ndarray:
        """Return the same as an array `[H, W, C]` uint8, of a plain JPEG without going through Pillow.

        Args:
            reduction: see `decode`.
            bottom: rows of the whole image from this one on are not needed, and may be missing.
        """
        plain = isinstance(self._image, JpegImageFile) and self._image.mode in ("RGB", "L") and self._orientation == 1
        # One that is cut off is left to Pillow, which refuses it.
        if plain and self._mode == "RGB" and self._bytes is not None and self._bytes.endswith(_END_OF_JPEG):
            simplejpeg = fast_libraries()[1]
            data, height = _cut_below(self._bytes, bottom or self.height, self.height)
            sides = {"min_height": -(-height // reduction), "min_width": -(-self.width // reduction), "min_factor": 1}
            with contextlib.suppress(ValueError):  # Pillow then says what is wrong
                return simplejpeg.decode_jpeg(data, "RGB", strict=False, **sides)
        array = np.asarray(self.decode(reduction))
        return array[:, :, None] if array.ndim == 2 else array

    def largest_reduction(self, ratio: float) -> int:
        """Return the largest of 1, 2, 4 and 8 that is at most `ratio`; 1 for what cannot be reduced while decoding."""
        if self._bytes is None or not isinstance(self._image, JpegImageFile):
            return 1
        return next(reduction for reduction in (8, 4, 2, 1) if reduction <= max(ratio, 1))

    @contextlib.contextmanager
    def _errors(self, max_pixels: int = MAX_IMAGE_PIXELS) -> Iterator[None]:
        name = self._name
        try:
            yield
        except InputError:
            raise
        except UnidentifiedImageError:
            raise InputError(f"{name} is not an image in a format that Pillow reads") from None
        except Image.DecompressionBombError as error:
            raise InputError(
                f"{name} is too large: {error}; valid: at most {max_pixels} pixels (data.max_image_pixels, "
                "--max-image-pixels)"
            ) from None
        except Exception as error:  # whatever a damaged file, or its damaged EXIF data, leads Pillow to
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"{name} cannot be read: {reason}") from None


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


def _opened(image: Any) -> Image.Image:
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, bytes):
        return Image.open(io.BytesIO(image))
    if isinstance(image, str | os.PathLike):
        return Image.open(io.BytesIO(pathlib.Path(image).read_bytes()))
    if not isinstance(image, Image.Image):
        raise InputError(f"a {type(image).__name__} is no image; valid: a path, a PIL image or a NumPy array of uint8")
    return image


def _eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Return what `Image.convert` would cut off at 255 or warn of, in a form that it turns to grey or RGB as it is."""
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
