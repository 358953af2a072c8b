"""Writing in one piece: a file or folder has its name only once it is complete."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def named(path: pathlib.Path) -> Iterator[None]:
    """Lets errors of the system name what is being written, if they name no file.

    Raises:
        OSError: also for a full disk that a library (safetensors, array_record) reports in an error of its own.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        for number in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from error
        raise


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path beside `path` to write to, which takes its place at the end.

    Args:
        path: of a file, or of a folder that does not exist or is empty.

    Yields:
        A hidden path in the same folder. A failure removes what is there, and leaves `path` as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with named(path):
            yield part
            part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
