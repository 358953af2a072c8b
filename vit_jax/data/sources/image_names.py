"""The images of a folder, found by what a table calls them."""

import os
import posixpath
from collections.abc import Sequence

from vit_jax.class_names import key_of
from vit_jax.data.sources.listing import IMAGES, some
from vit_jax.errors import InputError


class ImageNames:
    """Finds images by their paths from a folder, with or without their endings.

    root: absolute path of the folder.
    paths: of its images, from there.
    """

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        """Index the images by path, and by path without ending."""
        self.root = root
        self.paths = paths
        self._whole = {key_of(path): path for path in paths}
        self._stems: dict[str, list[str]] = {}
        for path in paths:
            self._stems.setdefault(key_of(os.path.splitext(path)[0]), []).append(path)

    def find(self, name: str, where: str) -> str | None:
        """Find the image of a name, from the folder or absolute; None if there is none.

        Args:
            name: path, with or without the ending; backslashes are taken for `/` if there is no such file.
            where: it is called so, for messages.

        Raises:
            InputError: no name, or one that several images have.
        """
        if not name:
            raise InputError(f"{where}: no image is named; valid: its path in {self.root}")
        for each in dict.fromkeys((name, name.replace("\\", "/"))):
            key = self._key(each)
            if key in self._whole:
                return self._whole[key]
            found = self._stems.get(key, [])
            if len(found) > 1:
                raise InputError(f"{where}: {name!r} may be {some(found)}; valid: the name with its ending")
            if found:
                return found[0]
        return None

    def why_not(self, name: str) -> str:
        """Say that there is no image of a name, and what there is."""
        path = os.path.join(self.root, name)
        if os.path.isfile(path):
            return f"{path} is no image by its ending; valid: {IMAGES}"
        stem = _simple(name)
        alike = [path for path in self.paths if _simple(path) == stem]
        hint = f"; is it {some(alike, 3)}" if alike else f"; valid: a path there, such as {self.paths[0]}"
        return f"{self.root} has no image {name!r}{hint}"

    def _key(self, name: str) -> str:
        if os.path.isabs(name):
            name = os.path.relpath(name, self.root)
        return key_of(posixpath.normpath(name))


def _simple(path: str) -> str:
    """Return the last part of a path, without its ending and in small letters."""
    return key_of(posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0]).casefold()
