"""Class folders: a folder of images for each class."""

import os
from collections.abc import Iterable, Mapping

import numpy as np

from vit_jax import class_names
from vit_jax.data.images.formats import is_image
from vit_jax.data.sources.files import Files
from vit_jax.data.sources.listing import IMAGES, Endings, some
from vit_jax.data.sources.split_names import split_of
from vit_jax.data.sources.tree import Tree, walk
from vit_jax.errors import InputError
from vit_jax.types import Fields, class_fields

_Classes = dict[str, list[str]]
"""Name of a class, as `class_names.key_of` makes it -> paths of its images."""


def read_class_folders(
    tree: Tree, folders: Mapping[str, str], others: Endings, *, training: bool = True
) -> tuple[Fields, dict[str, Files]]:
    """List the images of class folders.

    Args:
        tree: where they lie.
        folders: split -> folder of the class folders; the classes are those of `train`, or of all if there is none.
        others: counts the files that are not images.
        training: whether to learn from them, for which there must be two or more classes, each with images, and every
            split's among those of `train`. Otherwise any classes will do.

    Returns:
        The fields, with the class folders' names sorted by their characters' code points, and split -> files.

    Raises:
        InputError: no images, images outside of a class folder, names that look the same; or in training an empty
            class, fewer than two classes, or classes that are not in train.
    """
    found = {split: _read_classes(tree, folder, others) for split, folder in folders.items()}
    for split, classes in found.items():
        if not any(classes.values()):
            where = tree.name(folders[split])
            raise InputError(f"{where} holds no images; valid: {where}/<class>/<image>, {IMAGES}")
    if training and "train" in folders:
        _check_to_train_on(tree, folders["train"], found["train"])
        names, known = sorted(found["train"]), {*found["train"]}
        for split, classes in found.items():
            unknown = [name for name, paths in classes.items() if paths and name not in known]
            if unknown:
                raise InputError(
                    f"{tree.name(folders[split])} has classes that {folders['train']} lacks: {some(unknown)}; valid: "
                    f"{some(names)}{class_names.written(unknown[0], names)}"
                )
    else:
        names = sorted({name for classes in found.values() for name, paths in classes.items() if paths})
    splits = {}
    for split, classes in found.items():
        labelled = [(path, label) for label, name in enumerate(names) for path in classes.get(name, ())]
        labels = np.array([label for _, label in labelled], np.int32)
        splits[split] = Files(tree.root, [path for path, _ in labelled], labels)
    return class_fields(names), splits


def _check_to_train_on(tree: Tree, folder: str, classes: _Classes) -> None:
    """Check that there are two or more classes, all with images.

    Raises:
        InputError: there are not.
    """
    where = tree.name(folder)
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise InputError(f"{where} has class folders without images: {some(empty)}; valid: images, or no such folder")
    if len(classes) == 1:
        [(name, paths)] = classes.items()
        nested = len({os.path.dirname(path) for path in paths}) > 1
        hint = f"; if those are the folders in it, {os.path.join(where, name)}" if nested else ""
        raise InputError(f"{where} has one class only, {name!r}; valid: a folder for each of two or more classes{hint}")


def _read_classes(tree: Tree, folder: str, others: Endings) -> _Classes:
    """List the images of each class, sorted.

    Raises:
        InputError: an image in no class folder, class names that are no text or look the same, or a folder that cannot
            be read.
    """
    where = tree.name(folder)
    names, files = tree.listed(folder)
    loose = [name for name in files if is_image(name)]
    if loose:
        path = os.path.join(where, loose[0])
        more = f", one of {len(loose)}," if len(loose) > 1 else ""
        raise InputError(f"{path}{more} lies in no class folder; valid: {os.path.join(where, '<class>', loose[0])}")
    others.update(os.path.splitext(name)[1].lower() for name in files)
    _check_names(where, names)
    for name in names:
        inside = [each for each in tree.listed(os.path.join(folder, name))[0] if split_of(each)]
        if len({split_of(each) for each in inside}) > 1:
            raise InputError(
                f"{os.path.join(where, name)} has folders of splits: {some(inside)}; valid: the splits above the "
                f"classes, as in {inside[0]}/{name}"
            )
    return {
        class_names.key_of(name): sorted(walk(tree, os.path.join(folder, name), others))
        for name in sorted(names, key=class_names.key_of)
    }


def _check_names(where: str, names: Iterable[str]) -> None:
    """Check that every class has a name that can be read, and told from the others.

    Raises:
        InputError: one has none.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"the name of the class folder {where}/{name!r} is not UTF-8; valid: one that is"
            ) from None
    if twins := class_names.twins(names):
        one, other = map(ascii, twins)
        raise InputError(f"{where} has two class folders whose names look the same, {one} and {other}; valid: one")
