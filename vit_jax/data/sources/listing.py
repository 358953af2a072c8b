"""Which image files lie in a folder, and which of them are held out."""

import collections
import hashlib
import os
from collections.abc import Iterator, Sequence

from vit_jax.data.images.formats import is_image
from vit_jax.errors import InputError

IMAGES = "images by their endings (.jpg, .png, .webp, .tif and whatever else Pillow reads)"
"""What counts, for messages."""

SPLITS = {"train": "train", "training": "train"}
SPLITS |= {"val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test", "testing": "test"}
"""Name of a folder, in small letters -> the split that it holds."""
_NOT_DATA = ("__MACOSX", "@eaDir")  # archives from a Mac and network disks add these, with copies of images inside

Endings = collections.Counter[str]
"""Ending -> number of files that were ignored."""


def split_folders(root: str) -> dict[str, str]:
    """Find the split folders: split -> name of its folder; empty unless all folders are splits.

    Raises:
        InputError: two folders for one split, or other folders beside those of several splits.
    """
    names = list_folder(root)[0]
    splits = {SPLITS[name.lower()] for name in names if name.lower() in SPLITS}
    others = [name for name in names if name.lower() not in SPLITS]
    if others and "train" in splits and len(splits) > 1:
        raise InputError(
            f"{root} has folders of splits and others beside them: {some(others)}; valid: splits alone "
            f"({', '.join(SPLITS)}), or class folders alone"
        )
    if others:
        return {}
    found: dict[str, str] = {}
    for name in names:
        split = SPLITS[name.lower()]
        if split in found:
            raise InputError(f"{root} has two folders for the split {split!r}, {found[split]} and {name}; valid: one")
        found[split] = name
    return {split: found[split] for split in ("train", "val", "test") if split in found} if "train" in found else {}


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


def walk(root: str, folder: str, others: Endings) -> Iterator[str]:
    """List all images below a folder.

    Args:
        root: the paths start from here.
        folder: path from `root`.
        others: counts the files that are not images.

    Yields:
        Paths from `root`.
    """
    above = (root, os.path.dirname(os.path.join(root, folder))) if folder else ()
    seen = {_identity(path) for path in above}  # for links that lead back up
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        identity = _identity(os.path.join(root, here))
        if identity in seen:
            continue
        seen.add(identity)
        folders, files = list_folder(os.path.join(root, here))
        waiting += [os.path.join(here, name) for name in reversed(folders)]
        for name in files:
            if is_image(name):
                yield os.path.join(here, name)
            else:
                others[os.path.splitext(name)[1].lower()] += 1


def list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Name of the folders and of the files in a folder, without hidden ones, each sorted.

    Raises:
        InputError: it cannot be read.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in _NOT_DATA:
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(folders), sorted(files)


def some(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """Join the first few of many names, and says how many there are beyond them."""
    more = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None
    return status.st_dev, status.st_ino
