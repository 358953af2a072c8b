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
