"""Writes files and folders that have their names only once they are complete."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from vit_jax.system import os_errors


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Add the path that is being written to an OSError that names no file.

    Raises:
        OSError: with the path; also where a library (safetensors, array_record, TensorStore) reports the system's error
            by one of its own.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        number = os_errors.number_of(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Return a path beside `path` to write to, which is renamed to `path` at the end.

    Args:
        path: of a file, or of a folder that does not exist or is empty.

    Yields:
        A hidden path in the same folder. A failure removes what is there and leaves `path` as it was.

    Example:
        >>> import tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with writing(file) as part:
        ...     _ = part.write_text("done")
        >>> file.read_text()
        'done'
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with named(path):
            yield part
            part.replace(path)
    except OSError as error:
        if not isinstance(error.filename, str) or not error.filename.startswith(str(part)):
            raise
        name = str(path) + error.filename.removeprefix(str(part))  # the user never sees the other
        raise OSError(error.errno, error.strerror, name) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
