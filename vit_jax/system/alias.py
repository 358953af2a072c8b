"""Another path to a folder whose own path some libraries take for a pattern or for an address."""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterator

from vit_jax.errors import InputError

_PLAIN = re.compile(r"[\w ./+@~,=-]*")


@contextlib.contextmanager
def plain(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    r"""Yield a path to a folder in which no character has a meaning of its own (`*`, `?`, `[1]`, `\`, `gs:`).

    Args:
        folder: absolute; it need not exist yet.

    Yields:
        The path itself where it is plain, and else a symbolic link to it, which is gone at the end.

    Raises:
        InputError: the folder for temporary files has no plain path either.

    Example:
        >>> with plain(pathlib.Path("/runs/a[1]")) as path:
        ...     print(path == pathlib.Path("/runs/a[1]"), path.readlink())
        False /runs/a[1]
    """
    if _PLAIN.fullmatch(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vit_jax_") as links:
        link = pathlib.Path(links).absolute() / "folder"
        if not _PLAIN.fullmatch(str(link)):
            raise InputError(
                f"neither {folder} nor the folder for temporary files, {links}, has a plain path; valid: letters, "
                "digits and any of ' ./+@~,=_-' in one of them, the latter by TMPDIR"
            )
        link.symlink_to(folder, target_is_directory=True)
        yield link
