"""Which classes of a model other names may stand for: synonyms, and ImageNet's WordNet numbers."""

import functools
import pathlib
import re
from collections.abc import Iterable, Sequence

from vit_jax.class_names import key_of

_NUMBER = re.compile(r"(LABEL_)?\d+")


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Return WordNet number and names, `("n01443537", "goldfish, Carassius auratus")`, of each class of ImageNet-1k.

    Source: ImageNet's classes in the order of their WordNet numbers, with WordNet 3.0's words for them.
    """
    lines = (pathlib.Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple((number, names) for number, _, names in (line.partition("\t") for line in lines))


def numbers_of(names: Iterable[str], of: Sequence[str]) -> list[tuple[int, ...]]:
    """Find the classes that each of some names stands for.

    A name stands for the class of the same name, whatever its Unicode form; if there is none, for one of whose names,
    between commas, it is one; and then for one of such names that it differs from in capital letters, hyphens and
    underscores alone. A class of ImageNet-1k is known by its names there and by its WordNet number, whichever the model
    calls it by. A class with one name has that name alone: `Cat` is not `cat`.

    Args:
        names: to look up.
        of: the model's classes.

    Returns:
        For each name the numbers of the classes: none if it is unknown, several if it cannot be told which is meant.

    Example:
        >>> model = ["tench, Tinca tinca", "goldfish, Carassius auratus", "my cat"]
        >>> numbers_of(["Goldfish", "n01440764", "my cat", "My_Cat"], model)
        [(1,), (0,), (2,), ()]
    """
    levels: tuple[dict[str, set[int]], ...] = ({}, {}, {}, {})
    for number, (name, others) in enumerate(zip(of, _imagenet_names(of), strict=True)):
        synonyms = [each for text in (name, *others) for each in (text, *text.split(", "))]
        loose = map(_loose, synonyms) if len(set(synonyms)) > 1 else ()
        keys_of_levels = ([key_of(name)], map(key_of, others), map(key_of, synonyms), loose)
        for level, keys in zip(levels, keys_of_levels, strict=True):
            for key in keys:
                level.setdefault(key, set()).add(number)
    found = []
    for name in names:
        keys = (*[key_of(name)] * 3, _loose(name))
        known = (level[key] for level, key in zip(levels, keys, strict=True) if key in level)
        found.append(tuple(sorted(next(known, ()))))
    return found


def are_numbers(names: Sequence[str]) -> bool:
    """Tell whether classes have no names but their numbers, `0` or `LABEL_0`, as libraries call them then.

    Example:
        >>> are_numbers(["LABEL_0", "LABEL_1"]), are_numbers(["0", "cat"])
        (True, False)
    """
    return all(_NUMBER.fullmatch(name) for name in names)


def _imagenet_names(of: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the further names of each class: those of ImageNet-1k of the classes that are in it."""
    classes = imagenet_classes()
    by_names: dict[str, set[int]] = {}
    for place, (number, names) in enumerate(classes):
        for key in (number, names):
            by_names.setdefault(key_of(key), set()).add(place)
    places = [by_names.get(key_of(name), set()) for name in of]
    # Two classes are called crane; in ImageNet's own order it is the place that tells them apart.
    in_order = len(of) == len(classes) and all(place in found for place, found in enumerate(places))
    return [
        classes[place if in_order else min(found)] if in_order or len(found) == 1 else ()
        for place, found in enumerate(places)
    ]


def _loose(name: str) -> str:
    return " ".join(re.sub(r"[-_]", " ", key_of(name)).split()).casefold()
