"""Which of many image files cannot be decoded: found before a run starts, and remembered for the next one."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import PIL

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, decode
from vit_jax.errors import InputError
from vit_jax.system.atomic import writing
from vit_jax.system.progress import progress_bar

_CHUNK = 32
_MARK_BYTES = 16


def unreadable(root: str, paths: Sequence[str], *, name: str, max_pixels: int = MAX_IMAGE_PIXELS) -> dict[int, str]:
    """Decode every image as the loaders do, and says which ones fail.

    Images that the same version of Pillow has decoded before, with the same path, size, time and limit, are taken as
    good.

    Args:
        root: absolute path of the folder that the paths start from.
        paths: of the images.
        name: for the progress bar.
        max_pixels: of an image.

    Returns:
        Place in `paths` -> why, with the path; ascending.
    """
    full = [os.path.join(root, path) for path in paths]
    return failures(
        len(full),
        lambda place: decode(full[place], 3, max_pixels=max_pixels),
        lambda place: mark_of(full[place], max_pixels),
        root=root,
        name=name,
    )


def failures(
    count: int, check: Callable[[int], Any], mark: Callable[[int], bytes], *, root: str, name: str
) -> dict[int, str]:
    """Check files in threads, but for those that passed before.

    What passes is remembered in $XDG_CACHE_HOME/vit_jax (by default ~/.cache/vit_jax), 16 bytes for each check; if
    nothing can be written there, nothing is remembered.

    Args:
        count: number of checks.
        check: called with 0 to count - 1; raises InputError for a fault.
        mark: 16 bytes that stand for what the check depends on; may raise InputError.
        root: folder whose checks are remembered together.
        name: for the progress bar.

    Returns:
        Number of the check -> its error's text, ascending.
    """
    memory = _memory(root)
    known, new, bad = _load(memory), set(), {}

    def check_chunk(chunk: range) -> tuple[list[bytes], dict[int, str]]:
        good, failed = [], {}
        for place in chunk:
            try:
                stamp = mark(place)
                if stamp not in known:
                    check(place)
                    good.append(stamp)
            except InputError as error:
                failed[place] = str(error)
        return good, failed

    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    # Pillow lets other threads run while it decodes.
    pool = concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    bar = progress_bar(f"checking {name}", count, " images")
    try:
        for chunk, (good, failed) in zip(chunks, pool.map(check_chunk, chunks), strict=True):
            new.update(good)
            bad |= failed
            bar.update(len(chunk))
    finally:  # Ctrl-C neither waits for the rest nor loses what is done
        bar.close()
        pool.shutdown(cancel_futures=True)
        if new:
            _save(memory, known | new)
    return bad


def mark_of(path: str, *checked: object) -> bytes:
    """Make 16 bytes that stand for a file as it is now, and for what it was checked against.

    Raises:
        InputError: it is not there, or no file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):  # to read a pipe would take for ever
        raise InputError(f"{path} is no regular file")
    text = f"\0{status.st_size}\0{status.st_mtime_ns}\0{PIL.__version__}" + "".join(f"\0{value}" for value in checked)
    return hashlib.blake2b(os.fsencode(path) + text.encode(), digest_size=_MARK_BYTES).digest()


def _memory(root: str) -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.blake2b(os.fsencode(root), digest_size=_MARK_BYTES).hexdigest()
    return pathlib.Path(cache) / "vit_jax" / "readable" / name


def _load(memory: pathlib.Path) -> set[bytes]:
    """Return the marks of good files; a damaged memory has marks that fit no file."""
    try:
        marks = memory.read_bytes()
    except OSError:
        return set()
    return {marks[start : start + _MARK_BYTES] for start in range(0, len(marks), _MARK_BYTES)}


def _save(memory: pathlib.Path, marks: Iterable[bytes]) -> None:
    """Replace the memory in one piece, or leaves it."""
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with writing(memory) as part:
            part.write_bytes(b"".join(marks))
