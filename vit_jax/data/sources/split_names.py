"""Folders that are named after the splits of a dataset: `train`, `Validation`, `test_set`, `train2017`."""

import re
from collections.abc import Mapping, Sequence

from vit_jax.data.sources.listing import some
from vit_jax.errors import InputError

ORDER = ("train", "val", "test")
ALL = "all"
"""Name of the split that has every example."""

_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing", "tst"),
}
_WEAK = {
    "val": ("dev", "devel", "development", "eval", "evaluation"),
    "test": ("holdout", "heldout"),
}
"""Words that name splits beside one of the other words, and may name classes elsewhere."""
_FILLING = ("data", "dataset", "folder", "image", "img", "photo", "picture", "sample", "set", "split", "subset")
"""What is said of a split besides its name: `test_set`, `train-images`."""
VALID = ", ".join(ORDER)

_Parsed = tuple[str | None, bool, tuple[str, ...]]


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, among other names of splits; None if it stands for none.

    Example:
        >>> split_of("Training_Set"), split_of("val2017"), split_of("dev"), split_of("train station")
        ('train', 'val', 'val', None)
    """
    split, _, rest = _parsed(name)
    return None if rest else split


def split_folders(names: Sequence[str], where: str, *, labelled: bool = True) -> dict[str, str]:
    """Find out whether the folders of a dataset are its splits.

    They are if all are named after splits, or alike but for the name of a split (`seg_train`, `seg_test`).

    Args:
        names: of the folders.
        where: they lie, for messages.
        labelled: whether the other folders name classes; if not, one split may lie beside them.

    Returns:
        Split -> folder, in the order train, val, test; empty if none is named after a split.

    Raises:
        InputError: two folders for one split, or folders of splits and others side by side.
    """
    parsed = {name: _parsed(name) for name in names}
    groups: dict[tuple[str, ...], list[str]] = {}  # what is left of the names -> names of splits
    for name, (split, _, rest) in parsed.items():
        if split is not None:
            groups.setdefault(rest, []).append(name)
    group = next((each for rest, each in sorted(groups.items()) if _are_splits(rest, each, parsed)), [])
    if not group and len(groups.get((), ())) == len(names):
        group = [*names]  # all of them words that may name classes elsewhere
    others = [name for name in names if name not in group]
    if others and not labelled and len({parsed[name][0] for name in group}) < 2:
        return {}
    if group and others:
        raise InputError(
            f"{where} has folders of splits and others beside them: {some(others)}; valid: splits alone ({VALID}), or "
            f"class folders alone; a class that is called {group[0]!r} may lie in a split, train/{group[0]}"
        )
    folders: dict[str, str] = {}
    for name in group:
        split = parsed[name][0] or ""
        if split in folders:
            raise InputError(
                f"{where} has two folders for the split {split!r}, {folders[split]} and {name}; valid: one for each of "
                f"{VALID}"
            )
        folders[split] = name
    return {split: folders[split] for split in ORDER if split in folders}


def _are_splits(rest: tuple[str, ...], names: Sequence[str], parsed: Mapping[str, _Parsed]) -> bool:
    """Return whether names that have the same besides the split are those of splits."""
    certain = any(not parsed[name][1] for name in names)
    return certain and (not rest or len({parsed[name][0] for name in names}) > 1)


def _parsed(name: str) -> _Parsed:
    """Return the split that a name speaks of, whether its word is a weak one, and what else is in the name."""
    split, weak, rest = None, False, []
    spaced = re.sub(r"(?i)(hold|held)[\W_]+out", "holdout", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    for word in re.findall(r"[^\W\d_]+", spaced):
        found = None if split else _split_of_word(word.lower())
        if found:
            split, weak = found
        elif word.lower().removesuffix("s") not in _FILLING:
            rest.append(word.lower())
    return split, weak, tuple(rest)


def _split_of_word(word: str) -> tuple[str, bool] | None:
    stem = re.sub(f"(?<=.)({'|'.join(_FILLING)})?s?$", "", word)
    for words, weak in ((_WORDS, False), (_WEAK, True)):
        for split, each in words.items():
            if word in each or stem in each:
                return split, weak
    return None
