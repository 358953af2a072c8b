"""Zip archives of images, read in place: nothing of them is ever unpacked to files."""

import contextlib
import dataclasses
import lzma
import pathlib
import posixpath
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator

from vit_jax.data.prepare.archives import member_name
from vit_jax.data.prepare.image_archives import Archive, Member, check_ratio
from vit_jax.errors import InputError

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ENCRYPTED, _IS_UTF8 = 0x1, 0x800
_UNIX = 3
_MAX_LINK_BYTES = 4096


def is_zip(path: pathlib.Path) -> bool:
    """Return whether a path is a zip archive, whole or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in _STARTS or zipfile.is_zipfile(path)


@dataclasses.dataclass(frozen=True)
class ZipArchive(Archive):
    """A zip archive that is open for reading, from several threads too.

    name: for messages.
    size: in bytes.
    """

    opened: zipfile.ZipFile
    name: str
    size: int

    def members(self) -> Iterator[Member]:
        """List all members.

        Raises:
            InputError: one whose path leaves the archive, or files that unpack to far more than images do.
        """
        total = 0
        for info in self.opened.infolist():
            path = member_name(_name(info), self.name)
            mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
            if info.is_dir() or _name(info).endswith("/"):
                yield Member(path, is_folder=True)
                continue
            if stat.S_ISLNK(mode):
                yield self._link(path, info)
                continue
            total += info.file_size
            check_ratio(f"{self.name}: {path}", info.file_size, info.compress_size)
            check_ratio(self.name, total, self.size)
            yield Member(path, info.file_size, info, problem=_problem(info))

    def read(self, member: Member) -> bytes:
        """Read a file, and compare its checksum.

        Raises:
            InputError: it is damaged.
        """
        try:
            return self.opened.read(member.place)
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            raise InputError(f"{self.name}: {member.path} cannot be read: {error or type(error).__name__}") from None

    def _link(self, path: str, info: zipfile.ZipInfo) -> Member:
        problem = _problem(info)
        if problem or info.file_size > _MAX_LINK_BYTES:
            return Member(path, problem=problem or "is a link whose target is too long")
        target = self.read(Member(path, info.file_size, info)).decode(errors="surrogateescape")
        return Member(path, link=posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))


def open_zip_of_images(path: pathlib.Path) -> ZipArchive:
    """Open a zip archive.

    Raises:
        InputError: it is damaged or cut off.
    """
    try:
        return ZipArchive(zipfile.ZipFile(path), str(path), path.stat().st_size)
    except UnicodeDecodeError:
        raise InputError(f"{path} is damaged: a member's name is said to be UTF-8, and is not") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged or cut off: {error}") from None


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's path, with `/` between folders.

    Names that are not marked as UTF-8 should be in code page 437. Many programs write UTF-8 all the same, whose bytes
    hardly ever are text in that code page.
    """
    name = info.filename
    if not info.flag_bits & _IS_UTF8 and not name.isascii():
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    name = name.replace("\\", "/")  # some programs on Windows
    return re.sub(r"^[A-Za-z]:/", "/", name)


def _problem(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted; valid: an archive without a password"
    if info.compress_type not in _METHODS:
        return f"is packed by method {info.compress_type}; valid: stored, deflate, bzip2 or lzma"
    return ""
