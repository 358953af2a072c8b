"""A folder of images as a dataset: class folders, images with masks, or images alone; in one tree or by splits."""

import collections
import os
import warnings
from collections.abc import Mapping

from vit_jax.data.sources import masks
from vit_jax.data.sources.class_folders import read_class_folders
from vit_jax.data.sources.files import Files, ImageFolder, accept_all, hold_out
from vit_jax.data.sources.image_names import ImageNames
from vit_jax.data.sources.label_file import LabelFile, read_labels
from vit_jax.data.sources.listing import IMAGES, Endings, some
from vit_jax.data.sources.split_names import split_folders
from vit_jax.data.sources.tree import Folder, Tree, walk
from vit_jax.errors import InputError
from vit_jax.types import Field, Fields


def open_folder(
    folder: str,
    *,
    eval_fraction: float = 0.2,
    split_seed: int = 0,
    labelled: bool = True,
    labels: LabelFile | None = None,
    training: bool = True,
) -> ImageFolder:
    """List a folder of images, and decides by what lies there which kind it is.

    The layouts of one tree:

    - `<folder>/<class>/**/image`;
    - `<folder>/images/**` with `<folder>/masks/**` and `<folder>/classes.txt`, see `masks.read_masks`;
    - with `labelled=False`, images anywhere below the folder.

    A share of the images, of each class where there are classes, is kept as the split `test`; the rest is `train`.

    By splits: if every folder is named after a split, as `split_names.split_folders` has it, each is laid out as one
    tree. A train folder alone is split as one tree is.

    Hidden files and folders are left out. Links are followed, but not to a folder that the class holds already.

    Args:
        folder: path; `~` is the home folder.
        eval_fraction: share of the images for `test`, rounded, in [0, 1): at least one of a class and not all of them.
            A class of one image has it in `train`. With 0 there is no `test`.
        split_seed: which images those are, 0 or more. An image's place depends on the seed and its path in the folder,
            so that images that come later hardly move the others.
        labelled: whether to read classes or masks, or the images alone, as for self-supervision.
        labels: a CSV file of the images' labels and splits; the images may then lie anywhere below the folder.
        training: whether to learn from it, or only to evaluate a model: see `class_folders.read_class_folders`.

    Warns:
        UserWarning: there are files that are not images by their endings.

    Raises:
        InputError: no such folder, one that cannot be read or holds no images; or what the layout's reader refuses.
    """
    if not 0.0 <= eval_fraction < 1.0:
        raise InputError(f"data.eval_fraction is {eval_fraction}; valid: at least 0 (no test split) and less than 1")
    if split_seed < 0:
        raise InputError(f"data.split_seed is {split_seed}; valid: 0 or more")
    if "://" in folder:
        raise InputError(f"data.folder is {folder}; valid: a folder on this machine, or on a disk mounted there")
    root = os.path.abspath(os.path.expanduser(folder))
    if not folder or not os.path.isdir(root):
        is_what = "is a file, not a folder" if folder and os.path.exists(root) else "does not exist"
        raise InputError(f"data.folder: {folder or repr(folder)} {is_what}; valid: a folder of class folders")
    others: Endings = collections.Counter()
    if labels is not None:
        return _open_labelled(folder, Folder(root), labels, eval_fraction, split_seed, training)
    tree, parts = read_parts(Folder(root), labelled=labelled)
    folders = parts or {"train": ""}
    check = accept_all
    if not labelled:
        fields, splits = _read_images(tree, folders, others)
    elif masks.are_in(tree, next(iter(folders.values()))):
        fields, splits = masks.read_masks(tree, folders, others, classes_in=root)
        check = masks.MaskCheck(fields["mask"])
    else:
        fields, splits = read_class_folders(tree, folders, others, training=training)
    if not parts:
        splits = hold_out(splits["train"], eval_fraction, split_seed)
    warn_of(others, folder)
    return ImageFolder(folder, fields, splits, check=check, is_one_tree=not parts)


def _open_labelled(
    name: str, tree: Tree, labels: LabelFile, eval_fraction: float, split_seed: int, training: bool
) -> ImageFolder:
    """Open a folder whose labels are in a file; see `open_folder`."""
    path = labels.find(tree.root)
    others: Endings = collections.Counter()
    images = ImageNames(tree.root, sorted(walk(tree, "", others)))
    if not images.paths:
        raise InputError(f"{tree.root} holds no images; valid: {IMAGES}")
    fields, splits, is_one_tree = read_labels(labels, path, images, training=training)
    if is_one_tree:
        splits = hold_out(splits["train"], eval_fraction, split_seed)
    return ImageFolder(name, fields, splits, is_one_tree=is_one_tree)


def read_parts(tree: Tree, *, labelled: bool = True) -> tuple[Tree, dict[str, str]]:
    """Find out whether a dataset lies in one tree or by splits.

    Args:
        tree: the dataset.
        labelled: whether the folders name classes.

    Returns:
        Where the classes or the splits lie, and split -> folder; none if it is one tree, as one of train alone is.
    """
    parts = split_folders(tree.listed("")[0], tree.name(), labelled=labelled)
    return (tree.below(parts["train"]), {}) if parts.keys() == {"train"} else (tree, parts)


def warn_of(others: Endings, name: str) -> None:
    """Warn of files that are not images, which were counted by their endings."""
    if others:
        endings = some([ending or "none" for ending, _ in others.most_common()], 5)
        warnings.warn(f"{name}: ignored what is no image by its ending: {others.total()} ({endings})", stacklevel=3)


def _read_images(tree: Tree, folders: Mapping[str, str], others: Endings) -> tuple[Fields, dict[str, Files]]:
    """List images without labels, in any folders; see `read_class_folders`."""
    splits = {split: Files(tree.root, sorted(walk(tree, folder, others))) for split, folder in folders.items()}
    for split, files in splits.items():
        if not len(files):
            raise InputError(f"{tree.name(folders[split])} holds no images; valid: {IMAGES}")
    return {"image": Field("image", (None, None, None), "uint8")}, splits
