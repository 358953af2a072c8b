"""Reads paths as users write them."""

import os
import pathlib


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return a path whose `~` or `~user` at the start is that user's home folder.

    A `~` whose home folder is not known stays as it is, where `Path.expanduser` raises.

    Example:
        >>> expanded("runs/digits"), expanded("~no such user/a")
        (PosixPath('runs/digits'), PosixPath('~no such user/a'))
    """
    return pathlib.Path(os.path.expanduser(path))


def is_folder(path: pathlib.Path) -> bool:
    """Tell whether a folder is there; no error where that cannot be told, as of a name that is too long."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_utf8(path: str | os.PathLike[str]) -> bool:
    r"""Tell whether the bytes of a path are UTF-8, as they need not be on Linux.

    Example:
        >>> is_utf8("zoë"), is_utf8(os.fsdecode(b"zo\xeb"))
        (True, False)
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True
