"""Which files are images: those whose format the installed Pillow decodes."""

import os
from typing import Any

from PIL import Image
from PIL.ImageFile import StubImageFile

_NOT_DECODED = ("EPS", "MPEG")  # Pillow has Ghostscript decode the one, and knows but the header of the other
_WITHIN = {"MPO": "JPEG"}
"""Formats that are opened as another one."""


def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are decoded."""
    _register()
    return tuple(name for name in Image.ID if is_decoded(name))


def is_decoded(name: str) -> bool:
    """Return whether a format is decoded, by Pillow's name of it, and not merely identified."""
    name = name.upper()
    factory: Any = Image.OPEN.get(_WITHIN.get(name, name), (None,))[0]
    stub = isinstance(factory, type) and issubclass(factory, StubImageFile)
    return factory is not None and not stub and name not in _NOT_DECODED


def is_image(name: str | os.PathLike) -> bool:
    """Return whether a file is an image by its ending, in small or capital letters.

    Example:
        >>> [is_image(name) for name in ("a.JPG", "b.tiff", "c.txt", "d")]
        [True, True, False, False]
    """
    _register()
    ending = os.path.splitext(os.fspath(name))[1].lower()
    return is_decoded(Image.registered_extensions().get(ending, ""))


def _register() -> None:
    """Let Pillow know all its formats, the frequent ones first, since it tries them in this order."""
    Image.preinit()
    Image.init()
