"""Which files of a dataset are images, and which of them are held out."""

import collections
import hashlib
import os
from collections.abc import Sequence

IMAGES = "images by their endings (.jpg, .png, .webp, .tif and whatever else Pillow reads)"
"""What counts, for messages."""

_NOT_DATA = frozenset(
    {
        *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
        *("system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    }
)
"""What systems, network disks and archives add, some with copies of images inside; in small letters."""

Endings = collections.Counter[str]
"""Ending -> number of files that were ignored."""


def chosen(paths: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Choose the paths to hold out: those whose hashes come first, the same on every machine.

    Args:
        paths: at least one of two or more is held out, but never all of them.
        fraction: share to hold out, in [0, 1); rounded to whole files.
        seed: key of the hashes.
    """
    if not fraction or len(paths) < 2:
        return set()
    count = min(max(int(fraction * len(paths) + 0.5), 1), len(paths) - 1)
    key = str(seed).encode()
    return set(sorted(paths, key=lambda path: hashlib.blake2b(os.fsencode(path), key=key).digest())[:count])


def is_data(name: str) -> bool:
    """Return whether a file or folder counts: it is not hidden, and nothing that a system has put there."""
    return not name.startswith(".") and name.lower() not in _NOT_DATA


def some(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """Join the first few of many names, and says how many there are beyond them."""
    more = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
