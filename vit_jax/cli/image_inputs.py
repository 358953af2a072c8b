"""Finds the images that a command was given: files, folders, URLs and standard input."""

import dataclasses
import os
import pathlib
import re
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence

from vit_jax.errors import InputError

TIMEOUT_SECONDS = 30.0
MAX_BYTES = 128 * 2**20
"""Largest encoded image that is taken from a URL or standard input."""
_CHUNK_BYTES = 2**16
_LONGEST_STEM = 150  # bytes; a file name has 255 at most


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """One image, which is read when it is needed.

    name: as the user gave it, or the path of a file in a folder that they gave.
    stem: what files about it are called, without an ending.
    read: gives a path, or encoded bytes; raises InputError if there is nothing to read.
    """

    name: str
    stem: str
    read: Callable[[], pathlib.Path | bytes]


def find_images(names: Sequence[str], *, on_error: Callable[[InputError], None]) -> Iterator[ImageInput]:
    """Return the images that a list of arguments names, in their order.

    Args:
        names: a file; a folder, which stands for all images in it and its folders; a URL that starts with `http://` or
            `https://`; or `-` for one encoded image on standard input.
        on_error: called for a folder without images or one that cannot be read, a URL of another scheme, an empty name.
    """
    for name in names:
        path = pathlib.Path(name)  # asked by os.path, which takes a name that is too long for one that is not there
        if not name:
            on_error(InputError("'' is no image; valid: a file, a folder, a URL, or -"))
        elif name == "-":
            yield ImageInput(name, "stdin", _read_stdin)
        elif re.match(r"https?://", name, re.IGNORECASE):
            yield ImageInput(name, _url_stem(name), _Download(name))
        elif re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) and not os.path.exists(name):
            on_error(InputError(f"{name} is not read; valid: a file, a folder, or a URL of http or https"))
        elif os.path.isdir(path):
            unreadable: list[InputError] = []
            found = False
            for file in files_of_images(path, on_error=unreadable.append):
                found = True
                yield ImageInput(str(file), _stem(file.stem), _File(file))
            for error in unreadable or ([] if found else [InputError(f"{name} holds no images that Pillow reads")]):
                on_error(error)
        else:
            yield ImageInput(name, _stem(path.stem), _File(path))


def files_of_images(folder: pathlib.Path, *, on_error: Callable[[InputError], None]) -> Iterator[pathlib.Path]:
    """Return the images of a folder and the folders in it, in the order of their names; hidden ones are left out.

    A file counts by its ending, so that a damaged image is not passed over in silence, or else by its content.
    Links are followed, but to no folder a second time.

    Args:
        folder: where to look.
        on_error: called for a folder that cannot be read.
    """
    paths, seen = [], set()

    def unreadable(error: OSError) -> None:
        on_error(InputError(f"{error.filename} cannot be read: {error.strerror}"))

    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        paths += [pathlib.Path(parent, file) for file in sorted(files) if not file.startswith(".")]
    # No pipe, which would be waited for; a link to nowhere is one that cannot be read.
    paths = [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    # All are listed before the first is used, so that pictures written into the folder are not taken for its images.
    yield from filter(_is_image, paths)


def named_error(error: InputError, name: str) -> InputError:
    """Say whose error it is where the image came as bytes, which have no name."""
    text = str(error)
    return InputError(f"{name} {text.removeprefix('the image ')}") if text.startswith("the image ") else error


class FreeNames:
    """Names for files that replace neither an input nor one another."""

    def __init__(self, folder: pathlib.Path, inputs: Sequence[str]) -> None:
        """Take the folder to write to, and the names of the inputs."""
        self._folder = folder
        self._inputs = [pathlib.Path(name).resolve() for name in inputs if name != "-" and "://" not in name]
        self._written: set[pathlib.Path] = set()

    def find(self, stem: str, endings: Sequence[str]) -> list[pathlib.Path]:
        """Return a path for each ending: `cat.png` and `cat.mask.png`, or if one is taken `cat_2.png` and so on."""
        number = 1
        while True:
            start = stem if number == 1 else f"{stem}_{number}"
            files = [self._folder / f"{start}.{ending}" for ending in endings]
            if not any(self._is_taken(file.resolve()) for file in files):
                self._written |= {file.resolve() for file in files}
                return files
            number += 1

    def _is_taken(self, file: pathlib.Path) -> bool:
        inside = any(folder in file.parents for folder in self._inputs)  # an input that is a folder of images
        return file in self._written or file in self._inputs or (inside and file.exists())


def _stem(text: str) -> str:
    name = re.sub(r"[/\\\x00-\x1f]", "_", text)
    return os.fsencode(name)[:_LONGEST_STEM].decode(errors="ignore") or "image"


def _url_stem(url: str) -> str:
    """Return the last part of a URL's path without its ending, or else its host."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # which reading it says again, as an error of this image
        return _stem("")
    return _stem(pathlib.PurePosixPath(urllib.parse.unquote(parts.path)).stem or parts.netloc)


def _is_image(path: pathlib.Path) -> bool:
    from PIL import Image

    from vit_jax.data.images import formats

    if formats.is_image(path):
        return True
    try:
        with Image.open(path, formats=formats.formats()):
            return True
    except Exception:  # Pillow raises many kinds for what is no image
        return False


class _File:
    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def __call__(self) -> pathlib.Path | bytes:
        """Return the path; of a pipe or a device, which may have no end, what it gives.

        Raises:
            InputError: it gives too much.
        """
        if not os.path.exists(self._path) or os.path.isfile(self._path):
            return self._path
        try:
            with self._path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror}") from None
        return _checked(content, str(self._path))


class _Download:
    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self) -> bytes:
        """Download the image.

        Raises:
            InputError: it cannot be had, is too large, or takes too long.
        """
        found: list[bytes | Exception] = []

        def download() -> None:
            try:
                found.append(self._content())
            except Exception as error:  # which belongs to the thread that waits
                found.append(error)

        # The socket's own time is that of one piece: a server that sends a byte now and then would never end.
        thread = threading.Thread(target=download, daemon=True, name="download")
        thread.start()
        thread.join(TIMEOUT_SECONDS)
        content = found[0] if found else TimeoutError()
        if isinstance(content, Exception):
            raise content if isinstance(content, InputError) else self._unreadable(content) from None
        return content

    def _content(self) -> bytes:
        request = urllib.request.Request(_escaped(self._url), headers={"User-Agent": "vit-jax"})
        with _opener().open(request, timeout=TIMEOUT_SECONDS) as response:
            length, kind = response.headers.get("Content-Length", ""), response.headers.get_content_type()
            expected = int(length) if length.isascii() and length.isdigit() else None
            content = bytearray()
            while (expected or 0) <= MAX_BYTES and (chunk := response.read1(_CHUNK_BYTES)):
                content += chunk
                if len(content) > MAX_BYTES:
                    break
        if max(len(content), expected or 0) > MAX_BYTES:
            raise InputError(f"{self._url} has more than {MAX_BYTES:,} bytes, the most that are taken")
        if expected is not None and len(content) < expected:
            raise InputError(f"{self._url} cannot be read: it ended after {len(content):,} of {expected:,} bytes")
        if not content:
            raise InputError(f"{self._url} is empty; valid: one encoded image")
        if content.lstrip()[:1] == b"<":  # no image begins like a page
            raise InputError(f"{self._url} is no image: the server sent {kind}")
        return bytes(content)

    def _unreadable(self, error: Exception) -> InputError:
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            reason = f"{error.code} {error.reason}"
        elif isinstance(error, TimeoutError) or isinstance(reason, TimeoutError):
            reason = f"no answer within {TIMEOUT_SECONDS:g} seconds"
        return InputError(f"{self._url} cannot be read: {str(reason) or type(error).__name__}")


def _escaped(url: str) -> str:
    """Write a URL in ASCII, as a browser does: letters and spaces of its path are escaped, and its host is encoded.

    Raises:
        InputError: a name and a password in it, which would not be sent.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None:
        raise InputError(f"{parts.hostname} is not asked with a name and a password; valid: a URL without them")
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    path, query = (urllib.parse.quote(part, safe="/%:@!$&'()*+,;=~?[]") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens http and https URLs alone, wherever they are redirected to."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _read_stdin() -> bytes:
    """Read one encoded image.

    Raises:
        InputError: there is nothing, or too much.
    """
    return _checked(sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin else b"", "standard input")


def _checked(content: bytes, name: str) -> bytes:
    if not content:
        raise InputError(f"{name} is empty; valid: one encoded image")
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES:,} bytes, the most that are taken")
    return content
