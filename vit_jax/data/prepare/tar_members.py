"""Images inside a tar archive, read in place: nothing of it is ever unpacked to files."""

import bz2
import dataclasses
import gzip
import io
import lzma
import os
import pathlib
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images.formats import is_image
from vit_jax.data.prepare.archives import Contents, Split, damaged_as_input_error, member_name
from vit_jax.data.sources.listing import IMAGES, chosen
from vit_jax.data.sources.split_names import split_of
from vit_jax.errors import InputError
from vit_jax.system.progress import progress_bar

_PACKED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}

Member = tuple[str, int, int]
"""Path in the archive, where it begins and how long it is, in bytes."""


@dataclasses.dataclass(frozen=True)
class TarMembers:
    """Images inside a tar archive that is not packed, read when they are asked for.

    archive: the file that is read.
    name: of the archive, for messages.
    members: the images.
    labels: `[n]` int, their classes.
    """

    archive: str
    name: str
    members: Sequence[Member]
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.members)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """`image`, the file's bytes; `label`; `file_name`; `path`."""
        path, offset, size = self.members[record]
        with open(self.archive, "rb") as file:
            file.seek(offset)
            image = file.read(size)
        names = {"file_name": posixpath.basename(path), "path": f"{self.name}: {path}"}
        return {"image": image, "label": int(self.labels[record])} | names

    def split(self) -> Split:
        """All of them."""
        return Split(self, self.labels, np.array([size for _, _, size in self.members], np.int64))


def members_in(file: io.BufferedReader, name: str, start: int, size: int) -> Iterator[Member]:
    """Return the files in a tar archive that takes up `size` bytes of an open file from `start` on.

    Raises:
        InputError: the archive is damaged, cut off, or has a member whose path leaves it.
    """
    file.seek(start)
    end = min(start + size, os.fstat(file.fileno()).st_size)
    with damaged_as_input_error(name), tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            path = member_name(member, name)
            if member.offset_data + member.size > end:
                raise InputError(f"{name} is damaged or cut off: {path} ends after the archive does")
            if member.isfile():
                yield path, member.offset_data, member.size


def read_image_tar(path: pathlib.Path, scratch: pathlib.Path, *, eval_fraction: float) -> Contents:
    """List a tar archive of a folder of images, in either layout that `folder.open_folder` reads.

    Args:
        path: the archive; one that is packed (gzip, bzip2, xz) is first unpacked to a plain one.
        scratch: the folder for that.
        eval_fraction: see `folder.open_folder`.

    Raises:
        InputError: an archive that is damaged, holds no images, images outside of class folders, fewer than two
            classes, or classes that are not in train.
    """
    plain = _plain(path, scratch)
    with open(plain, "rb") as file:
        found = [x for x in members_in(file, str(path), 0, os.path.getsize(plain)) if _is_image(x[0])]
    if not found:
        raise InputError(f"{path} holds no images; valid: <class>/<image> in it, {IMAGES}")
    folders = {posixpath.dirname(member[0]) for member in found}
    top = posixpath.commonpath(folders)
    if folders == {top}:
        raise InputError(
            f"{path} has all images in {top or 'no folder'}; valid: a folder for each of two or more classes"
        )
    top = f"{top}/" if top else ""
    trees = _trees(path, sorted(found), top)
    class_names = tuple(sorted(trees["train"]))
    if len(class_names) < 2:
        raise InputError(f"{path} has one class only, {class_names!r}; valid: a folder for each of two or more classes")
    if trees.keys() == {"train"}:
        trees = _halves(trees["train"], top, eval_fraction)
    splits = {}
    for split, tree in trees.items():
        for name in tree.keys() - set(class_names):
            raise InputError(f"{path} has the class {name!r} in {split}, which train lacks")
        labelled = [(member, label) for label, name in enumerate(class_names) for member in tree.get(name, ())]
        labels = np.array([label for _, label in labelled], np.int64)
        splits[split] = TarMembers(str(plain), str(path), [member for member, _ in labelled], labels).split()
    return Contents(class_names, splits)


def _trees(archive: pathlib.Path, found: Sequence[Member], top: str) -> dict[str, dict[str, list[Member]]]:
    """Split -> class -> images; all in `train` if the folders at the top are not splits."""
    inside = [member[0].removeprefix(top).split("/") for member in found]
    named = {parts[0]: split_of(parts[0]) or "" for parts in inside if len(parts) > 1}
    are_splits = all(named.values()) and "train" in named.values()
    trees: dict[str, dict[str, list[Member]]] = {}
    for member, parts in zip(found, inside, strict=True):
        split = named.get(parts[0], "") if are_splits else "train"
        class_name, *rest = parts[1:] if are_splits else parts
        if not rest:
            raise InputError(f"{archive}: {member[0]} lies in no class folder")
        trees.setdefault(split, {}).setdefault(class_name, []).append(member)
    return {split: trees[split] for split in ("train", "val", "test") if split in trees}


def _halves(tree: dict[str, list[Member]], top: str, eval_fraction: float) -> dict[str, dict[str, list[Member]]]:
    """Split train and test, as `folder.open_folder` makes them of the unpacked archive."""
    halves = {"train": {}, "test": {}}
    for name, members in tree.items():
        paths = [member[0].removeprefix(top) for member in members]
        test = chosen(paths, eval_fraction, 0)
        for path, member in zip(paths, members, strict=True):
            halves["test" if path in test else "train"].setdefault(name, []).append(member)
    return {split: half for split, half in halves.items() if half}


def _is_image(path: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
    return is_image(path) and not hidden


def _plain(archive: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    """Return the archive, unpacked if it is packed; once, if it does not change."""
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
        new.rename(plain)
    return plain
