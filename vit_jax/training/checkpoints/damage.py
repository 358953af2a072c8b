"""What is damage to a checkpoint, and what only hinders reading it.

A damaged checkpoint is passed over for the one before. Where the disk fails, memory is short or access is denied, the
checkpoint may be whole, and passing it over would lose the work since the one before: the command ends instead.
"""

import errno
import json
import pathlib
import re
import stat
from typing import Any

from vit_jax.errors import InputError
from vit_jax.system import os_errors

_INDICES = ("_METADATA", "manifest.ocdbt")
"""Files that Orbax and TensorStore read into memory at once."""
_MOST_INDEX_BYTES = 1 << 28
_MISSING = {errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.ENXIO}
"""What the system says if a file is not there or is something else."""
_PARSING = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, NotImplementedError, RecursionError),
    *(TypeError, ValueError),
)
"""What Python, Orbax and TensorStore raise for content that they cannot make sense of."""
_PASSING = re.compile(
    r"(ABORTED|CANCELLED|DEADLINE_EXCEEDED|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE):"
)
"""Kinds of errors of TensorStore that say nothing of the content."""


class Damaged(ValueError):
    """A checkpoint that does not hold what was saved."""


def is_damage(error: BaseException) -> bool:
    """Return whether an error, raised by reading a checkpoint, comes from its content."""
    error = _root(error)
    number = os_errors.number_of(error)
    if number is not None:
        return number in _MISSING
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):  # Orbax's own have no number
        return True
    return isinstance(error, _PARSING) and not _PASSING.match(str(error))


def hindrance(folder: pathlib.Path, error: Exception) -> InputError:
    """Return what to raise for an error that is no damage."""
    number = os_errors.number_of(_root(error))
    reason = brief(error) if number is None else f"{errno.errorcode.get(number, number)}, {_first_line(_root(error))}"
    return InputError(
        f"{folder} cannot be read, which may pass ({reason}); valid: the same command once that is mended, or move the "
        "folder away to use the checkpoint before"
    )


def brief(error: BaseException) -> str:
    """Return an error's type and the first line of its message; of damage found here, the message alone."""
    error = _root(error)
    line = _first_line(error)
    return line if isinstance(error, Damaged) else f"{type(error).__name__}: {line}" if line else type(error).__name__


def _root(error: BaseException) -> BaseException:
    """Return what Orbax wraps into an exception of no kind where it reads a shard."""
    while type(error) is Exception and error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""


def read_json(file: pathlib.Path) -> Any:
    """Read a JSON file of a checkpoint.

    Raises:
        Damaged: it is not there, is no regular file or no JSON, or is too large or too deep for any of ours.
        OSError: it cannot be read for another reason.
    """
    name = f"{file.parent.name}/{file.name}"
    try:
        mode, size = file.stat().st_mode, file.stat().st_size
    except OSError as error:
        if error.errno in _MISSING:
            raise Damaged(f"{name} is missing") from None
        raise
    if not stat.S_ISREG(mode):
        raise Damaged(f"{name} is no file")
    if size > _MOST_INDEX_BYTES:
        raise Damaged(f"{name} has {size:,} bytes")
    try:
        return json.loads(file.read_bytes())
    except (RecursionError, ValueError):
        raise Damaged(f"{name} is no JSON that was saved here") from None


def check_files(folder: pathlib.Path) -> None:
    """Make sure that a checkpoint holds files and folders alone, and no index too large to read.

    Raises:
        Damaged: a pipe, a device, a broken link, or an index that would fill the memory.
        OSError: it cannot be looked at.
    """
    for path in folder.rglob("*"):
        try:
            found = path.stat()
        except OSError as error:
            if error.errno in _MISSING:
                raise Damaged(f"{path.relative_to(folder)} is missing") from None
            raise
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise Damaged(f"{path.relative_to(folder)} is no file")
        if path.name in _INDICES and found.st_size > _MOST_INDEX_BYTES:
            raise Damaged(f"{path.relative_to(folder)} has {found.st_size:,} bytes")
