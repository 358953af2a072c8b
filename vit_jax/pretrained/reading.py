"""Reads JSON, safetensors and `.npz` files that anyone may have written: what is wrong with one is said in a line.

What a file says of its size is checked before memory is taken for it.
"""

import json
import pathlib
import stat
import struct
import zipfile
from typing import Any

import ml_dtypes  # noqa: F401  gives NumPy the bfloat16 that some safetensors files hold
import numpy as np
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open

from vit_jax.errors import InputError

MAX_JSON_BYTES = 16 * 2**20
"""Of a config or index: names of 22,000 classes, or of 100,000 tensors, take a tenth of it."""
_KINDS = {"p": "pipe", "c": "device", "b": "device", "d": "directory", "s": "socket"}
_BOMB_BYTES, _BOMB_RATIO = 2**30, 50
"""An `.npz` that unpacks to more bytes than the first, and to more times its size than the second, holds no weights."""


def regular_file(path: pathlib.Path) -> pathlib.Path | None:
    """Return the path if a file is there, and None if nothing is.

    Raises:
        InputError: something else is there, such as a pipe, from which a read might never return, or a broken link; or
            the path cannot be looked up.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise InputError(f"{path} is a link to a file that does not exist") from None
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{_short(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a {_KINDS.get(stat.filemode(mode)[0], 'special file')}; valid: a file")
    return path


def _short(path: pathlib.Path) -> str:
    """Return a path for a message, which no file system may have in full."""
    text = str(path)
    return text if len(text) < 500 else f"{text[:200]}..."


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: something else, or more of it than a config has.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes; valid: a config of up to {MAX_JSON_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{path} is not valid JSON: it is nested too deeply") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object")
    return content


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read all tensors of a file; halves and doubles become float32.

    Raises:
        InputError: another file, or tensors that hold no real numbers.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _float32(path, name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except InputError:
        raise
    # Its readers raise what NumPy and Rust do of a header that says what cannot be.
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from None
    except MemoryError:
        raise InputError(f"{path} cannot be read as safetensors: its tensors do not fit in memory") from None


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read all arrays of a file; halves and doubles become float32.

    Raises:
        InputError: another file, or members that are no arrays of real numbers.
    """
    try:
        _check_members(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: _float32(path, name, file[name]) for name in file.files}
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} cannot be read as .npz: its arrays do not fit in memory") from None
    except Exception as error:  # zipfile and zlib have many of their own for damage
        raise InputError(f"{path} cannot be read as .npz: {error}") from None


def _check_members(path: pathlib.Path) -> None:
    """Check what each member says of itself against the bytes that it has, before any is read whole.

    Raises:
        InputError: a member that is no array, or claims what it does not have.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > _BOMB_BYTES and total > _BOMB_RATIO * path.stat().st_size:
            raise InputError(f"{path} would unpack from {path.stat().st_size:,} to {total:,} bytes; valid: weights")
        for member in members:
            with archive.open(member) as stream:
                _check_member(path, member, stream)


def _check_member(path: pathlib.Path, member: zipfile.ZipInfo, stream: Any) -> None:
    where = f"{path} cannot be read as .npz: its member {member.filename!r}"
    try:
        version = npy.read_magic(stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(stream)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, struct.error) as error:
        raise InputError(f"{where} is no array: {' '.join(str(error).split())[:200]}") from None
    if dtype.hasobject:
        raise InputError(
            f"{path} cannot be read as .npz without pickles: it holds pickled objects, which can run any code"
        )
    claimed, there = dtype.itemsize, member.file_size - stream.tell()
    for side in shape:
        claimed *= side
    if claimed != there:
        raise InputError(f"{where} claims the shape {list(shape)} of {dtype}, {claimed:,} bytes, and has {there:,}")


def _float32(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    """Turn halves and doubles into float32; whole numbers (a counter that some files hold) stay."""
    kind = array.dtype.kind
    if kind in "iub":
        return array
    if kind in "OSUMmc" or array.dtype.type is np.void:
        raise InputError(f"{path}: {name!r} holds {array.dtype}; valid: real numbers")
    return array.astype(np.float32, copy=False)
