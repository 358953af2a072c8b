"""Archives of a folder of images, tar or zip, read by the rules for the folder; nothing is unpacked to files."""

import collections
import dataclasses
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vit_jax.data.images.formats import is_image
from vit_jax.data.prepare.archives import Contents, Split
from vit_jax.data.sources import folder, masks
from vit_jax.data.sources.class_folders import read_class_folders
from vit_jax.data.sources.files import hold_out
from vit_jax.data.sources.listing import Endings, is_data
from vit_jax.data.sources.split_names import split_of
from vit_jax.data.sources.tree import Tree
from vit_jax.errors import InputError

_MAX_LINKS = 40
MAX_RATIO = 100
FREE_BYTES = 2**26
"""What may be unpacked of a packed byte, and besides: images hardly shrink, but small ones may."""


@dataclasses.dataclass(frozen=True)
class Member:
    """A file or folder in an archive.

    path: within the archive; None of its parts is `..`.
    size: in bytes, unpacked.
    place: where the archive's reader finds it.
    link: path of the member that it stands for; None if it is none.
    is_folder: whether it is a folder.
    problem: why it cannot be read, if it cannot.
    """

    path: str
    size: int = 0
    place: Any = None
    link: str | None = None
    is_folder: bool = False
    problem: str = ""


class Archive(Protocol):
    """An open archive."""

    name: str

    def members(self) -> Iterable[Member]:
        """List all members; of two with the same path the later one counts."""
        ...

    def read(self, member: Member) -> bytes:
        """Read a file."""
        ...


def check_ratio(name: str, size: int, packed: int) -> None:
    """Refuse what unpacks to far more bytes than images do.

    Raises:
        InputError: it does.
    """
    if size > MAX_RATIO * packed + FREE_BYTES:
        raise InputError(
            f"{name} has {packed:,} bytes and unpacks to {size:,} or more; valid: at most {MAX_RATIO} times as much"
        )


def read_archive(archive: Archive, *, eval_fraction: float) -> Contents:
    """List an archive of class folders, as `folder.open_folder` reads the folder.

    Folders that only hold another one, as at the top of many archives, are passed over.

    Args:
        archive: which.
        eval_fraction: see `folder.open_folder`.

    Warns:
        UserWarning: there are files that are not images by their endings.

    Raises:
        InputError: an archive that is damaged, or has members that leave it or cannot be read; or what `open_folder`
            refuses.
    """
    files, folders = _sorted_out(archive)
    tree: Tree = _ArchiveTree(archive.name, _listings(files, folders))
    while len(inside := tree.listed("")[0]) == 1 and not any(map(is_image, tree.listed("")[1])):
        if split_of(inside[0]) or not tree.listed(inside[0])[0]:
            break
        tree = tree.below(inside[0])
    others: Endings = collections.Counter()
    tree, parts = folder.read_parts(tree)
    if masks.are_in(tree, next(iter(parts.values()), "")):
        raise InputError(
            f"{archive.name} holds images with masks; valid: class folders; a folder of masks is read as it is"
        )
    fields, splits = read_class_folders(tree, parts or {"train": ""}, others)
    if not parts:
        splits = hold_out(splits["train"], eval_fraction, 0)
    folder.warn_of(others, archive.name)
    contents = {}
    for split, listed in splits.items():
        found = [files[posixpath.join(tree.root, path)] for path in listed.paths]
        for member in found:
            if member.problem:
                raise InputError(f"{archive.name}: {member.path} {member.problem}")
        labels = np.asarray(listed.labels, np.int64)
        contents[split] = Images(archive, found, labels).split()
    return Contents(fields["label"].names, contents)


@dataclasses.dataclass(frozen=True)
class Images:
    """Images in an archive, read when they are asked for.

    labels: `[n]` int, their classes.
    """

    archive: Archive
    members: Sequence[Member]
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.members)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """`image`, the file's bytes; `label`; `file_name`; `path`."""
        member = self.members[record]
        names = {"file_name": posixpath.basename(member.path), "path": f"{self.archive.name}: {member.path}"}
        return {"image": self.archive.read(member), "label": int(self.labels[record])} | names

    def split(self) -> Split:
        """All of them."""
        return Split(self, self.labels, np.array([member.size for member in self.members], np.int64))


@dataclasses.dataclass(frozen=True)
class _ArchiveTree(Tree):
    """The folders of an archive; see `Tree`.

    listings: path of a folder -> folders and files in it.
    """

    archive: str
    listings: Mapping[str, tuple[list[str], list[str]]]
    root: str = ""

    def name(self, path: str = "") -> str:
        path = posixpath.join(self.root, path).rstrip("/")
        return f"{self.archive}: {path}" if path else self.archive

    def listed(self, folder: str) -> tuple[list[str], list[str]]:
        return self.listings[posixpath.join(self.root, folder).rstrip("/")]

    def identity(self, folder: str) -> str:
        return posixpath.join(self.root, folder).rstrip("/")

    def below(self, folder: str) -> "_ArchiveTree":
        return dataclasses.replace(self, root=posixpath.join(self.root, folder))


def _sorted_out(archive: Archive) -> tuple[dict[str, Member], set[str]]:
    """Return the files that count, those that links lead to in the links' place, and the folders.

    Raises:
        InputError: a link that leads to no file of the archive.
    """
    members = {member.path: member for member in archive.members() if member.path != "."}
    files, folders = {}, set()
    for path, member in members.items():
        if not all(map(is_data, path.split("/"))):
            continue
        if member.is_folder:
            folders.add(path)
        elif is_image(path) or not posixpath.splitext(path)[1] or member.link is None:
            files[path] = dataclasses.replace(_target(archive, members, member), path=path)
    return files, folders


def _target(archive: Archive, members: Mapping[str, Member], member: Member) -> Member:
    """Follow a link to its file."""
    found: Member | None = member
    for _ in range(_MAX_LINKS):
        if found is None or found.link is None:
            break
        found = members.get(found.link)
    if found is None or found.link is not None or found.is_folder:
        raise InputError(
            f"{archive.name}: {member.path} is a link to {member.link}, which is no file in it; valid: the files "
            "themselves"
        )
    return found


def _listings(files: Iterable[str], folders: Iterable[str]) -> dict[str, tuple[list[str], list[str]]]:
    inside: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
    for kind, paths in ((1, files), (0, folders)):
        for path in paths:
            if kind == 0:
                inside.setdefault(path, (set(), set()))
            here = kind
            while path:
                path, _, name = path.rpartition("/")
                inside.setdefault(path, (set(), set()))[here].add(name)
                here = 0
    return {path: (sorted(names), sorted(others - names)) for path, (names, others) in inside.items()}
