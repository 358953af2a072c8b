"""Writing in one piece: a file or folder has its name only once it is complete."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


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
        yield part
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
