"""A folder of images as a dataset: one folder a class, in one tree or in a tree a split."""

import collections
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS
from vit_jax.data.sources.readable import unreadable
from vit_jax.data.sources.tfds import Source
from vit_jax.errors import InputError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
"""Of image files, in small or capital letters."""

SPLITS = {"train": "train", "training": "train"}
SPLITS |= {"val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test", "testing": "test"}
"""Of a folder's name, in small letters."""
_NOT_DATA = ("__MACOSX", "@eaDir")  # what archives from a Mac and network disks add; with copies of images inside


@dataclasses.dataclass(frozen=True)
class Files:
    """Images on disk that are read when they are asked for.

    root: the folder that the paths start from.
    paths: of the images.
    labels: `[n]` int32, their classes' numbers.
    """

    root: str
    paths: Sequence[str]
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """`image`, the file's bytes; `label`; `path`.

        Raises:
            InputError: a file that cannot be read.
        """
        path = os.path.join(self.root, self.paths[record])
        try:
            with open(path, "rb") as file:
                return {"image": file.read(), "label": self.labels[record], "path": path}
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None

    def take(self, records: Sequence[int]) -> "Files":
        """The images of the given numbers."""
        return Files(self.root, [self.paths[record] for record in records], self.labels[list(records)])


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """What a folder holds.

    name: the folder as the user wrote it.
    class_names: the class folders' names, sorted by their characters' code points.
    splits: `train`, and what there is of `val` and `test`; each sorted by path.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Files]

    def source(self, split: str, *, skip_corrupt: bool = False, max_pixels: int = MAX_IMAGE_PIXELS) -> Source:
        """The images of a split, every one of them decoded once, now or in an earlier run.

        Args:
            split: `train`, `val` or `test`.
            skip_corrupt: leave out images that cannot be decoded.
            max_pixels: of an image; one that has more cannot be decoded.

        Warns:
            UserWarning: images were left out.

        Raises:
            InputError: a split the folder lacks, or images that cannot be decoded: any, or with `skip_corrupt` all of
                a class to train on or of a split.
        """
        if split not in self.splits:
            raise InputError(f"{self.name} has no split {split!r}; valid: {', '.join(self.splits)}")
        files, name = self.splits[split], f"{self.name} {split}"
        bad = unreadable(files.root, files.paths, name=name, max_pixels=max_pixels)
        if not bad:
            return Source(name, self.class_names, files)
        reasons = f"{len(bad)} of {len(files):,} images of {name}: {_some([*bad.values()], 3, separator='; ')}"
        if not skip_corrupt:
            raise InputError(
                f"unreadable: {reasons}; valid: without them, or with data.skip_corrupt=true (evaluate --skip-corrupt)"
            )
        kept = files.take([record for record in range(len(files)) if record not in bad])
        lost = np.setdiff1d(files.labels, kept.labels)
        if not len(kept) or (len(lost) and split == "train"):
            what = f"{name}, class {self.class_names[lost[0]]!r}" if len(kept) else name
            raise InputError(f"nothing is left of {what}; skipped {reasons}")
        warnings.warn(f"skipped {reasons}", stacklevel=2)
        return Source(name, self.class_names, kept)


def open_folder(folder: str, *, eval_fraction: float = 0.2, split_seed: int = 0) -> ImageFolder:
    """Lists a folder of images.

    There are two layouts:

    - `<folder>/<class>/**/image`: a share of each class is kept as the split `test`, the rest is `train`.
    - `<folder>/<split>/<class>/**/image`: if there is a train folder and every folder is named after a split (`train`
      or `training`, `val`, `valid` or `validation`, `test` or `testing`). A train folder alone is split as above.

    Hidden files and folders are left out. Links are followed, but not to a folder that the class holds already.

    Args:
        folder: path; `~` is the home folder.
        eval_fraction: share of each class's images for `test`, rounded, in [0, 1): at least one image and not all of
            them. A class of one image has it in `train`. With 0 there is no `test`.
        split_seed: which images those are, 0 or more. An image's place depends on the seed and its path in the folder,
            so that images that come later hardly move the others.

    Warns:
        UserWarning: there are files that are not images by their endings.

    Raises:
        InputError: no such folder, one that cannot be read, no images, images outside of a class folder, an empty
            class, fewer than two classes, or classes that are not in train.
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
    others: collections.Counter[str] = collections.Counter()
    split_folders = _split_folders(root)
    if split_folders.keys() == {"train"}:
        root = os.path.join(root, split_folders["train"])
    if len(split_folders) > 1:
        class_names, splits = _read_splits(root, split_folders, others)
    else:
        class_names, splits = _read_one_tree(root, eval_fraction, split_seed, others)
    if others:
        endings = _some([ending or "none" for ending, _ in others.most_common()], 5)
        warnings.warn(f"{folder}: ignored what is no image by its ending: {others.total()} ({endings})", stacklevel=2)
    return ImageFolder(folder, class_names, splits)


def _split_folders(root: str) -> dict[str, str]:
    """Split -> name of its folder, where all folders are splits; else nothing."""
    names = _list(root)[0]
    splits = {SPLITS[name.lower()] for name in names if name.lower() in SPLITS}
    others = [name for name in names if name.lower() not in SPLITS]
    if others and "train" in splits and len(splits) > 1:
        raise InputError(
            f"{root} has folders of splits and others beside them: {_some(others)}; valid: splits alone "
            f"({', '.join(SPLITS)}), or class folders alone"
        )
    if others:
        return {}
    found: dict[str, str] = {}
    for name in names:
        split = SPLITS[name.lower()]
        if split in found:
            raise InputError(f"{root} has two folders for the split {split!r}, {found[split]} and {name}; valid: one")
        found[split] = name
    return {split: found[split] for split in ("train", "val", "test") if split in found} if "train" in found else {}


def _read_splits(root: str, folders: dict[str, str], others: collections.Counter) -> tuple:
    trees = {split: _read_classes(root, name, others) for split, name in folders.items()}
    class_names = _class_names(os.path.join(root, folders["train"]), trees["train"])
    splits = {}
    for split, tree in trees.items():
        where = os.path.join(root, folders[split])
        unknown = [name for name, paths in tree.items() if paths and name not in class_names]
        if unknown:
            raise InputError(
                f"{where} has classes that {folders['train']} lacks: {_some(unknown)}; valid: {_some(class_names)}"
            )
        splits[split] = _files(root, class_names, tree)
        if not len(splits[split]):
            raise _no_images(where)
    return class_names, splits


def _read_one_tree(root: str, eval_fraction: float, seed: int, others: collections.Counter) -> tuple:
    tree = _read_classes(root, "", others)
    class_names = _class_names(root, tree)
    test = {name: chosen(paths, eval_fraction, seed) for name, paths in tree.items()}
    train = {name: [path for path in paths if path not in test[name]] for name, paths in tree.items()}
    splits = {"train": _files(root, class_names, train)}
    if any(test.values()):
        splits["test"] = _files(root, class_names, test)
    return class_names, splits


def chosen(paths: Sequence[str], fraction: float, seed: int) -> set[str]:
    """A share of a class, the same on every machine: those that come first in the order of their hashes."""
    if not fraction or len(paths) < 2:
        return set()
    count = min(max(int(fraction * len(paths) + 0.5), 1), len(paths) - 1)
    key = str(seed).encode()
    return set(sorted(paths, key=lambda path: hashlib.blake2b(os.fsencode(path), key=key).digest())[:count])


def _files(root: str, class_names: Sequence[str], tree: dict[str, Any]) -> Files:
    labelled = [(path, label) for label, name in enumerate(class_names) for path in sorted(tree.get(name, ()))]
    return Files(root, [path for path, _ in labelled], np.array([label for _, label in labelled], np.int32))


def _class_names(where: str, tree: dict[str, list[str]]) -> tuple[str, ...]:
    """The classes to train on, sorted.

    Raises:
        InputError: there are not two or more with images.
    """
    empty = [name for name, paths in tree.items() if not paths]
    if len(empty) == len(tree):
        raise _no_images(where)
    if empty:
        raise InputError(f"{where} has class folders without images: {_some(empty)}; valid: images, or no such folder")
    if len(tree) == 1:
        [(name, paths)] = tree.items()
        nested = len({os.path.dirname(path) for path in paths}) > 1
        hint = f"; if those are the folders in it, {os.path.join(where, name)}" if nested else ""
        raise InputError(f"{where} has one class only, {name!r}; valid: a folder for each of two or more classes{hint}")
    return tuple(sorted(tree))


def _no_images(where: str) -> InputError:
    return InputError(f"{where} holds no images; valid: {where}/<class>/<image>, of {', '.join(ENDINGS)}")


def _read_classes(root: str, folder: str, others: collections.Counter) -> dict[str, list[str]]:
    """Class -> paths of its images, from `root`, sorted.

    Raises:
        InputError: an image in no class folder, a class name that is no text, or a folder that cannot be read.
    """
    where = os.path.join(root, folder)
    classes, files = _list(where)
    loose = [name for name in files if _is_image(name)]
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
    return {name: sorted(_walk(root, os.path.join(folder, name), others)) for name in sorted(classes)}


def _walk(root: str, folder: str, others: collections.Counter) -> Iterator[str]:
    """Paths of all images below `folder`, from `root`."""
    seen = {_identity(root), _identity(os.path.dirname(os.path.join(root, folder)))}  # for links that lead back up
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        identity = _identity(os.path.join(root, here))
        if identity in seen:
            continue
        seen.add(identity)
        folders, files = _list(os.path.join(root, here))
        waiting += [os.path.join(here, name) for name in reversed(folders)]
        for name in files:
            if _is_image(name):
                yield os.path.join(here, name)
            else:
                others[os.path.splitext(name)[1].lower()] += 1


def _list(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder, without hidden ones, each sorted."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name not in _NOT_DATA:
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from None
    return status.st_dev, status.st_ino


def _some(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first few of many names."""
    more = f"{separator}and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
