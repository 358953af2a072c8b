"""Class folders: a folder of images for each class."""

import os
from collections.abc import Mapping

import numpy as np

from vit_jax.data.images.formats import is_image
from vit_jax.data.sources.files import Files
from vit_jax.data.sources.listing import IMAGES, Endings, list_folder, some, walk
from vit_jax.errors import InputError
from vit_jax.types import Fields, class_fields


def read_class_folders(root: str, folders: Mapping[str, str], others: Endings) -> tuple[Fields, dict[str, Files]]:
    """List the images of class folders.

    Args:
        root: absolute path.
        folders: split -> folder of the class folders, from `root`; the classes are those of `train`.
        others: counts the files that are not images.

    Returns:
        The fields, with the class folders' names sorted by their characters' code points, and split -> files.

    Raises:
        InputError: no images, images outside of a class folder, an empty class, fewer than two classes, or classes
            that are not in train.
    """
    trees = {split: _read_classes(root, name, others) for split, name in folders.items()}
    names = _class_names(os.path.join(root, folders["train"]).rstrip("/"), trees["train"])
    splits = {}
    for split, tree in trees.items():
        where = os.path.join(root, folders[split])
        unknown = [name for name, paths in tree.items() if paths and name not in names]
        if unknown:
            raise InputError(
                f"{where} has classes that {folders['train']} lacks: {some(unknown)}; valid: {some(names)}"
            )
        labelled = [(path, label) for label, name in enumerate(names) for path in tree.get(name, ())]
        labels = np.array([label for _, label in labelled], np.int32)
        splits[split] = Files(root, [path for path, _ in labelled], labels)
        if not labelled:
            raise _no_images(where)
    return class_fields(names), splits


def _class_names(where: str, tree: dict[str, list[str]]) -> tuple[str, ...]:
    """Return the classes to train on, sorted.

    Raises:
        InputError: there are not two or more with images.
    """
    empty = [name for name, paths in tree.items() if not paths]
    if len(empty) == len(tree):
        raise _no_images(where)
    if empty:
        raise InputError(f"{where} has class folders without images: {some(empty)}; valid: images, or no such folder")
    if len(tree) == 1:
        [(name, paths)] = tree.items()
        nested = len({os.path.dirname(path) for path in paths}) > 1
        hint = f"; if those are the folders in it, {os.path.join(where, name)}" if nested else ""
        raise InputError(f"{where} has one class only, {name!r}; valid: a folder for each of two or more classes{hint}")
    return tuple(sorted(tree))


def _no_images(where: str) -> InputError:
    return InputError(f"{where} holds no images; valid: {where}/<class>/<image>, {IMAGES}")


def _read_classes(root: str, folder: str, others: Endings) -> dict[str, list[str]]:
    """Class -> paths of its images, from `root`, sorted.

    Raises:
        InputError: an image in no class folder, a class name that is no text, or a folder that cannot be read.
    """
    where = os.path.join(root, folder)
    classes, files = list_folder(where)
    loose = [name for name in files if is_image(name)]
    if loose:
        path = os.path.join(where, loose[0])
        more = f", one of {len(loose)}," if len(loose) > 1 else ""
        raise InputError(f"{path}{more} lies in no class folder; valid: {os.path.join(where, '<class>', loose[0])}")
    others.update(os.path.splitext(name)[1].lower() for name in files)
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"the name of the class folder {where}/{name!r} is not UTF-8; valid: one that is"
            ) from None
    return {name: sorted(walk(root, os.path.join(folder, name), others)) for name in sorted(classes)}
