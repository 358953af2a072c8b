"""Image files on disk as records of a source, and the splits that a folder of them has."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS
from vit_jax.data.sources.examples import Examples
from vit_jax.data.sources.listing import chosen, some
from vit_jax.data.sources.readable import unreadable
from vit_jax.data.sources.split_names import ALL
from vit_jax.errors import InputError
from vit_jax.types import Fields


@dataclasses.dataclass(frozen=True)
class Files:
    """Images on disk, which are read when they are asked for.

    root: the folder that the paths start from.
    paths: of the images.
    labels: `[n]` int32, their classes; or `[n]` objects, a tuple of classes for each; None where they have none.
    masks: paths of their masks; None where they have none.
    """

    root: str
    paths: Sequence[str]
    labels: np.ndarray | None = None
    masks: Sequence[str] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """`image`, the file's bytes; `path`; and what there is of `label` and `mask`, the file's bytes.

        Raises:
            InputError: a file that cannot be read.
        """
        path = os.path.join(self.root, self.paths[record])
        example: dict[str, Any] = {"image": _read(path), "path": path}
        if self.labels is not None:
            example["label"] = self.labels[record]
        if self.masks is not None:
            example["mask"] = _read(os.path.join(self.root, self.masks[record]))
        return example

    def take(self, records: Sequence[int]) -> "Files":
        """Return the images of the given numbers."""
        return Files(
            self.root,
            [self.paths[record] for record in records],
            None if self.labels is None else self.labels[list(records)],
            None if self.masks is None else [self.masks[record] for record in records],
        )


def together(parts: Sequence[Files]) -> Files:
    """Join files of one folder, which all have labels and masks or all have none."""
    labels = [part.labels for part in parts if part.labels is not None]
    masks = [part.masks for part in parts if part.masks is not None]
    return Files(
        parts[0].root,
        [path for part in parts for path in part.paths],
        np.concatenate(labels) if labels else None,
        [path for each in masks for path in each] if masks else None,
    )


def hold_out(files: Files, fraction: float, seed: int) -> dict[str, Files]:
    """Split images into `train` and `test`, each class by itself where there are classes.

    Args:
        files: all images; those with any number of classes are not split class by class.
        fraction: of `test`; see `listing.chosen`. There is no `test` if nothing is chosen.
        seed: see `listing.chosen`.
    """
    labels = _single_labels(files)
    labels = np.zeros(len(files), np.int32) if labels is None else labels
    test: set[str] = set()
    for label in np.unique(labels):
        test |= chosen([files.paths[record] for record in np.flatnonzero(labels == label).tolist()], fraction, seed)
    is_test = np.array([path in test for path in files.paths], bool)
    splits = {"train": files.take(np.flatnonzero(~is_test).tolist())}
    return splits | ({"test": files.take(np.flatnonzero(is_test).tolist())} if test else {})


def _single_labels(files: Files) -> np.ndarray | None:
    """`[n]` int32, the class of each; None where they have none, or any number of them."""
    return None if files.labels is None or files.labels.dtype == object else files.labels


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def accept_all(files: Files, *, name: str, max_pixels: int) -> None:
    """Find nothing to object to."""


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """What a folder holds.

    name: the folder as the user wrote it.
    fields: of an example; the names of the classes are among them.
    splits: what there is of `train`, `val` and `test`; each sorted by path.
    check: looks for further faults in the readable files of a split, and raises InputError.
    is_one_tree: whether the folder names no splits, so that `train` and `test` were drawn from all its images.
    """

    name: str
    fields: Fields
    splits: Mapping[str, Files]
    check: Callable[..., None] = accept_all
    is_one_tree: bool = False

    def source(self, split: str, *, skip_corrupt: bool = False, max_pixels: int = MAX_IMAGE_PIXELS) -> Examples:
        """Open a split, of which every file was decoded once, now or in an earlier run.

        Args:
            split: one of `splits`, or `all`, the examples of all of them.
            skip_corrupt: leave out images that cannot be decoded, or whose masks cannot.
            max_pixels: of an image.

        Warns:
            UserWarning: images were left out.

        Raises:
            InputError: a split that the folder lacks; images that cannot be decoded: any, or with `skip_corrupt`
                all of a class to train on or of a split; or what `check` finds.
        """
        if split not in self.splits and split != ALL:
            raise InputError(f"{self.name} has no split {split!r}; valid: {', '.join(self.splits)}")
        files = together([*self.splits.values()]) if split == ALL else self.splits[split]
        name = f"{self.name} {split}"
        bad = unreadable(files.root, files.paths, name=name, max_pixels=max_pixels)
        if files.masks is not None:
            bad = unreadable(files.root, files.masks, name=f"{name}, masks", max_pixels=max_pixels) | bad
        if bad:
            files = self._without(files, bad, split=split, skip_corrupt=skip_corrupt)
        self.check(files, name=name, max_pixels=max_pixels)
        return Examples(name, self.fields, files)

    def _without(self, files: Files, bad: Mapping[int, str], *, split: str, skip_corrupt: bool) -> Files:
        name = f"{self.name} {split}"
        reasons = f"{len(bad)} of {len(files):,} images of {name}: {some([*bad.values()], 3, separator='; ')}"
        if not skip_corrupt:
            raise InputError(
                f"unreadable: {reasons}; valid: without them, or with data.skip_corrupt=true (evaluate --skip-corrupt)"
            )
        kept = files.take([record for record in range(len(files)) if record not in bad])
        before, after = _single_labels(files), _single_labels(kept)
        lost = np.setdiff1d([] if before is None else before, [] if after is None else after)
        if not len(kept) or (len(lost) and split == "train"):
            what = f"{name}, class {self.fields['label'].names[int(lost[0])]!r}" if len(kept) else name
            raise InputError(f"nothing is left of {what}; skipped {reasons}")
        warnings.warn(f"skipped {reasons}", stacklevel=3)
        return kept
