"""Opens an image: its header, its limits, and one line for whatever is wrong with it."""

import contextlib
import io
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vit_jax.data.images import formats, metadata
from vit_jax.errors import InputError

MAX_IMAGE_PIXELS = 178_956_970
"""Beyond this Pillow, too, takes an image for a decompression bomb: half a GB of RGB."""


class Opened:
    """An image of which the header has been read.

    name: for messages.
    data: the encoded image; None of an array and of Pillow's own images.
    image: Pillow's, as it is stored.
    orientation: which way up that is, 1 to 8.
    """

    def __init__(self, image: Any, name: str, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
        """Read the header.

        Args:
            image: what `decoding.decode` takes.
            name: for messages.
            max_pixels: of the image.

        Raises:
            InputError: something that is no image, or is too large.
        """
        self.name, self._max_pixels = name, max_pixels
        self.orientation = 1
        with self.errors():
            # Pillow's own limit cannot be given image by image, and its warning names no file.
            if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
                Image.MAX_IMAGE_PIXELS = max_pixels
            self.data = _encoded(image)
            self.image = _pillows(image) if self.data is None else self._open(self.data)
            width, height = self.image.size
            if width * height > max_pixels:
                raise Image.DecompressionBombError(f"{width} x {height} pixels")
            if self.data is not None and not formats.is_decoded(self.image.format or ""):
                raise InputError(f"{name} is of the format {self.image.format}, which is not decoded")
            if self.data is None or self.image.format == "PNG":  # what turns an image may follow its pixels
                self.load()
            if self.orientation == 1:
                self.orientation = metadata.orientation(self.image)
            if self.orientation > 1 and self.data and self.image.format == "TIFF":  # else Pillow turns it
                self.image = self._without_metadata() or self.image

    def load(self, reduction: int = 1) -> Image.Image:
        """Decode the pixels; gives the image as it is stored.

        Args:
            reduction: of a JPEG, see `decoding.Picture.decode`.

        Raises:
            InputError: they cannot be decoded.
        """
        with self.errors():
            try:
                _load(self.image, reduction)
            except Exception:  # which may be about metadata that follow the pixels
                bare = self._without_metadata()
                if bare is None:
                    raise
                _load(bare, reduction)
                self.image = bare
            return self.image

    def _open(self, data: bytes) -> Image.Image:
        if not data:
            raise InputError(f"{self.name} is empty; valid: an image")
        try:
            return Image.open(io.BytesIO(data))
        except Image.DecompressionBombError:
            raise
        except Exception:  # which may be about its metadata
            bare = self._without_metadata()
            if bare is None:
                raise
            return bare

    def _without_metadata(self) -> Image.Image | None:
        """Open the file without its metadata; None if there are none. What they say of the orientation is kept."""
        bare = None if self.data is None else metadata.without(self.data)
        if bare is None:
            return None
        image = Image.open(io.BytesIO(bare.data))
        self.orientation = max(self.orientation, bare.orientation)
        return image

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn whatever Pillow raises into one line that names the image.

        Raises:
            InputError: anything was raised.
        """
        try:
            yield
        except InputError:
            raise
        except UnidentifiedImageError:
            raise InputError(f"{self.name} is not an image in a format that Pillow reads") from None
        except Image.DecompressionBombError as error:
            size = re.search(r"\d+( x \d+)? pixels", str(error))
            raise InputError(
                f"{self.name} is too large: {size[0] if size else error}; valid: at most {self._max_pixels} pixels "
                "(data.max_image_pixels, --max-image-pixels)"
            ) from None
        except Exception as error:  # whatever a damaged file leads Pillow to
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"{self.name} cannot be read: {reason}") from None


def _encoded(image: Any) -> bytes | None:
    if isinstance(image, bytes):
        return image
    return pathlib.Path(image).read_bytes() if isinstance(image, str | os.PathLike) else None


def _load(image: Image.Image, reduction: int) -> None:
    if reduction > 1:
        image.draft(None, (image.width // reduction, image.height // reduction))
    image.load()


def _pillows(image: Any) -> Image.Image:
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"a {type(image).__name__} is no image; valid: a path, a PIL image or a NumPy array of uint8")
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
