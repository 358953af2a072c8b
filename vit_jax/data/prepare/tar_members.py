"""Tar archives of images, read in place: nothing of them is ever unpacked to files."""

import bz2
import dataclasses
import gzip
import io
import lzma
import os
import pathlib
import posixpath
import tarfile
from collections.abc import Iterator

from vit_jax.data.prepare.archives import damaged_as_input_error, member_name
from vit_jax.data.prepare.image_archives import Archive, Member, check_ratio
from vit_jax.errors import InputError
from vit_jax.system.progress import progress_bar

_PACKED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}


@dataclasses.dataclass(frozen=True)
class TarArchive(Archive):
    """A tar archive that is not packed.

    file: that is read.
    name: for messages.
    """

    file: str
    name: str

    def members(self) -> Iterator[Member]:
        """List all members; see `members_in`."""
        with open(self.file, "rb") as file:
            yield from members_in(file, self.name, 0, os.path.getsize(self.file))

    def read(self, member: Member) -> bytes:
        """Read a file."""
        with open(self.file, "rb") as file:
            file.seek(member.place)
            return file.read(member.size)


def members_in(file: io.BufferedReader, name: str, start: int, size: int) -> Iterator[Member]:
    """List the members of a tar archive that takes up `size` bytes of an open file from `start` on.

    Raises:
        InputError: the archive is damaged, cut off, or has a member whose path leaves it.
    """
    file.seek(start)
    end = min(start + size, os.fstat(file.fileno()).st_size)
    with damaged_as_input_error(name), tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            path = member_name(member.name, name)
            if member.isdir():
                yield Member(path, is_folder=True)
            elif member.issym():
                yield Member(path, link=posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname)))
            elif member.islnk():
                yield Member(path, link=posixpath.normpath(member.linkname))
            elif not member.isfile():
                yield Member(path, problem="is no regular file")
            elif member.issparse():
                yield Member(path, problem="is stored as a sparse file; valid: an archive made without --sparse")
            elif member.offset_data + member.size > end:
                raise InputError(f"{name} is damaged or cut off: {path} ends after the archive does")
            else:
                yield Member(path, member.size, member.offset_data)


def files_in(file: io.BufferedReader, name: str, start: int, size: int) -> Iterator[Member]:
    """List the files of a tar archive; see `members_in`.

    Raises:
        InputError: also a link, or a member that cannot be read.
    """
    for member in members_in(file, name, start, size):
        if member.link is not None or member.problem:
            raise InputError(f"{name}: {member.path} {member.problem or 'is a link; valid: files alone'}")
        if not member.is_folder:
            yield member


def open_tar_of_images(path: pathlib.Path, scratch: pathlib.Path) -> TarArchive:
    """Open a tar archive; one that is packed (gzip, bzip2, xz) is first unpacked to a plain one.

    Args:
        path: the archive.
        scratch: the folder for the plain one, which stays there for the next time.

    Raises:
        InputError: it is damaged, or unpacks to far more than images do.
    """
    return TarArchive(str(_plain(path, scratch)), str(path))


def _plain(archive: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    with open(archive, "rb") as file:
        opener = _PACKED.get(file.read(2))
    if opener is None:
        return archive
    status = archive.stat()
    plain = scratch / f"{status.st_size}-{status.st_mtime_ns}.tar"
    if not plain.exists():
        new = scratch / "unpacking"
        with (
            damaged_as_input_error(archive),
            opener(archive) as packed,
            new.open("wb") as unpacked,
            progress_bar(f"unpacking {archive.name}", 0, "B") as bar,
        ):
            while block := packed.read(2**20):
                unpacked.write(block)
                bar.update(len(block))
                check_ratio(str(archive), unpacked.tell(), status.st_size)
        new.rename(plain)
    return plain
