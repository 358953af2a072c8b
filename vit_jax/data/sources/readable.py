"""Which of many image files cannot be decoded: found before a run starts, and remembered for the next one."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import stat
import sys
from collections.abc import Iterable, Sequence

import PIL
from tqdm import tqdm

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, decode
from vit_jax.errors import InputError
from vit_jax.system.atomic import writing

_CHUNK = 32
_MARK_BYTES = 16


def unreadable(root: str, paths: Sequence[str], *, name: str, max_pixels: int = MAX_IMAGE_PIXELS) -> dict[int, str]:
    """Decodes every image as the loaders do, and says which ones fail.

    Images that the same version of Pillow has decoded before, with the same path, size, time and limit, are taken as
    good.
    They are remembered in $XDG_CACHE_HOME/vit_jax (by default ~/.cache/vit_jax), 16 bytes an image; if nothing can be
    written there, nothing is remembered.

    Args:
        root: absolute path of the folder that the paths start from.
        paths: of the images.
        name: for the progress bar.
        max_pixels: of an image.

    Returns:
        Place in `paths` -> why, with the path; ascending.
    """
    memory = _memory(root)
    known, new, bad = _load(memory), set(), {}

    def check(chunk: range) -> tuple[list[bytes], dict[int, str]]:
        good, failed = [], {}
        for place in chunk:
            path = os.path.join(root, paths[place])
            try:
                mark = _mark(path, max_pixels)
                if mark not in known:
                    decode(path, 3, max_pixels=max_pixels)
                    good.append(mark)
            except InputError as error:
                failed[place] = str(error)
        return good, failed

    chunks = [range(start, min(start + _CHUNK, len(paths))) for start in range(0, len(paths), _CHUNK)]
    # Pillow lets other threads run while it decodes. A log that is no terminal gets a line a minute.
    pool = concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    seconds = 0.1 if sys.stderr.isatty() else 60.0
    bar = tqdm(total=len(paths), desc=f"checking {name}", unit=" images", mininterval=seconds, delay=1.0)
    try:
        for chunk, (good, failed) in zip(chunks, pool.map(check, chunks), strict=True):
            new.update(good)
            bad |= failed
            bar.update(len(chunk))
    finally:  # Ctrl-C neither waits for the rest nor loses what is done
        bar.close()
        pool.shutdown(cancel_futures=True)
        if new:
            _save(memory, known | new)
    return bad


def _mark(path: str, max_pixels: int) -> bytes:
    """Stands for a file as it is now.

    Raises:
        InputError: it is not there, or no file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):  # to read a pipe would take for ever
        raise InputError(f"{path} is no regular file")
    text = f"\0{status.st_size}\0{status.st_mtime_ns}\0{PIL.__version__}\0{max_pixels}"
    return hashlib.blake2b(os.fsencode(path) + text.encode(), digest_size=_MARK_BYTES).digest()


def _memory(root: str) -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.blake2b(os.fsencode(root), digest_size=_MARK_BYTES).hexdigest()
    return pathlib.Path(cache) / "vit_jax" / "readable" / name


def _load(memory: pathlib.Path) -> set[bytes]:
    """The marks of good files; a damaged memory has marks that fit no file."""
    try:
        marks = memory.read_bytes()
    except OSError:
        return set()
    return {marks[start : start + _MARK_BYTES] for start in range(0, len(marks), _MARK_BYTES)}


def _save(memory: pathlib.Path, marks: Iterable[bytes]) -> None:
    """Replaces the memory in one piece, or leaves it."""
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with writing(memory) as part:
            part.write_bytes(b"".join(marks))
