"""A folder of images as a dataset: class folders, images with masks, or images alone; in one tree or by splits."""

import collections
import os
import warnings
from collections.abc import Mapping

from vit_jax.data.sources import masks
from vit_jax.data.sources.class_folders import read_class_folders
from vit_jax.data.sources.files import Files, ImageFolder, accept_all, hold_out
from vit_jax.data.sources.listing import IMAGES, Endings, some, split_folders, walk
from vit_jax.errors import InputError
from vit_jax.types import Field, Fields


def open_folder(folder: str, *, eval_fraction: float = 0.2, split_seed: int = 0, labelled: bool = True) -> ImageFolder:
    """List a folder of images, and decides by what lies there which kind it is.

    The layouts of one tree:

    - `<folder>/<class>/**/image`;
    - `<folder>/images/**` with `<folder>/masks/**` and `<folder>/classes.txt`, see `masks.read_masks`;
    - with `labelled=False`, images anywhere below the folder.

    A share of the images, of each class where there are classes, is kept as the split `test`; the rest is `train`.

    By splits: if there is a train folder and every folder is named after a split (`train` or `training`, `val`, `valid`
    or `validation`, `test` or `testing`), each is laid out as one tree. A train folder alone is split as one tree is.

    Hidden files and folders are left out. Links are followed, but not to a folder that the class holds already.

    Args:
        folder: path; `~` is the home folder.
        eval_fraction: share of the images for `test`, rounded, in [0, 1): at least one of a class and not all of them.
            A class of one image has it in `train`. With 0 there is no `test`.
        split_seed: which images those are, 0 or more. An image's place depends on the seed and its path in the folder,
            so that images that come later hardly move the others.
        labelled: whether to read classes or masks, or the images alone, as for self-supervision.

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
    parts, base, check = split_folders(root), root, accept_all
    if parts.keys() == {"train"}:
        base, parts = os.path.join(root, parts["train"]), {}
    folders = parts or {"train": ""}
    if not labelled:
        fields, splits = _read_images(base, folders, others)
    elif masks.are_in(os.path.join(base, folders["train"])):
        fields, splits = masks.read_masks(base, folders, others, classes_in=root)
        check = masks.MaskCheck(fields["mask"])
    else:
        fields, splits = read_class_folders(base, folders, others)
    if not parts:
        splits = hold_out(splits["train"], eval_fraction, split_seed)
    if others:
        endings = some([ending or "none" for ending, _ in others.most_common()], 5)
        warnings.warn(f"{folder}: ignored what is no image by its ending: {others.total()} ({endings})", stacklevel=2)
    return ImageFolder(folder, fields, splits, check)


def _read_images(root: str, folders: Mapping[str, str], others: Endings) -> tuple[Fields, dict[str, Files]]:
    """List images without labels, in any folders; see `read_class_folders`."""
    splits = {split: Files(root, sorted(walk(root, folder, others))) for split, folder in folders.items()}
    for split, files in splits.items():
        if not len(files):
            raise InputError(f"{os.path.join(root, folders[split])} holds no images; valid: {IMAGES}")
    return {"image": Field("image", (None, None, None), "uint8")}, splits
