"""Folders and the files in them, on disk or in an archive, read by the same rules."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, Protocol

from vit_jax.data.images.formats import is_image
from vit_jax.data.sources.listing import Endings, is_data
from vit_jax.errors import InputError


class Tree(Protocol):
    """Folders within one another; a path starts from the top, and has `/` between folders.

    root: path of the top.
    """

    root: str

    def name(self, path: str = "") -> str:
        """Name a file or folder for messages."""
        ...

    def listed(self, folder: str) -> tuple[list[str], list[str]]:
        """Name the folders and the files in a folder, each sorted; those that hold no data are left out.

        Raises:
            InputError: it cannot be read.
        """
        ...

    def identity(self, folder: str) -> Any:
        """Return what is the same for two paths of one folder."""
        ...

    def below(self, folder: str) -> "Tree":
        """Return the tree whose top is a folder of this one."""
        ...


@dataclasses.dataclass(frozen=True)
class Folder(Tree):
    """A folder on disk; links are followed."""

    root: str

    def name(self, path: str = "") -> str:
        """Return the whole path."""
        return os.path.join(self.root, path) if path else self.root

    def listed(self, folder: str) -> tuple[list[str], list[str]]:
        """Name the folders and the files in a folder; see `Tree.listed`."""
        folders, files = [], []
        try:
            with os.scandir(self.name(folder)) as entries:
                for entry in entries:
                    if is_data(entry.name):
                        (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            raise InputError(f"{self.name(folder)} cannot be read: {error.strerror}") from None
        return sorted(folders), sorted(files)

    def identity(self, folder: str) -> tuple[int, int]:
        """Return the numbers of the device and the folder on it."""
        try:
            status = os.stat(self.name(folder))
        except OSError as error:
            raise InputError(f"{self.name(folder)} cannot be read: {error.strerror}") from None
        return status.st_dev, status.st_ino

    def below(self, folder: str) -> "Folder":
        """Return the tree whose top is a folder of this one."""
        return Folder(self.name(folder))


def walk(tree: Tree, folder: str, others: Endings) -> Iterator[str]:
    """List all images below a folder.

    Args:
        tree: where it lies.
        folder: its path.
        others: counts the files that are not images.

    Yields:
        Their paths.
    """
    above = ("", os.path.dirname(folder)) if folder else ()
    seen = {tree.identity(path) for path in above}  # for links that lead back up
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        identity = tree.identity(here)
        if identity in seen:
            continue
        seen.add(identity)
        folders, files = tree.listed(here)
        waiting += [os.path.join(here, name) for name in reversed(folders)]
        for name in files:
            if is_image(name):
                yield os.path.join(here, name)
            else:
                others[os.path.splitext(name)[1].lower()] += 1


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
