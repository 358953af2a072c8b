"""How much each class counts in a loss."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.class_names import key_of
from vit_jax.errors import InputError

BALANCED = "balanced"
ClassWeights = str | Mapping[str, float] | Sequence[float] | None
"""`balanced`, a number by class name (1 for those that are not named), a number for each class, or None for 1 each."""


def checked(given: Any, class_names: Sequence[str], *, key: str) -> str | tuple[float, ...] | None:
    """Return a number for each class, or BALANCED or None as they are.

    Args:
        given: see ClassWeights.
        class_names: of the data.
        key: for messages, `task.options.class_weights`.

    Raises:
        InputError: another text, an unknown class, the wrong number of numbers, one that is negative or not finite, or
            none above 0.

    Example:
        >>> checked({"dog": 3}, ["cat", "dog"], key="class_weights")
        (1.0, 3.0)
    """
    if given is None or (isinstance(given, str) and given == BALANCED):
        return given
    if isinstance(given, Mapping):
        given = _by_name(given, class_names, key)
    elif isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        raise InputError(f"{key} is {given!r}; valid: {BALANCED!r}, a number by class name, or one for each class")
    if len(given) != len(class_names):
        raise InputError(f"{key} has {len(given)} numbers, and the data {len(class_names)} classes; valid: as many")
    for name, weight in zip(class_names, given, strict=True):
        is_number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
        if not is_number or not 0.0 <= weight < math.inf:
            raise InputError(f"{key} of class {name!r} is {weight!r}; valid: a number of 0 or more")
    if not any(given):
        raise InputError(f"{key} is 0 for every class; valid: a number above 0 for one at least")
    return tuple(map(float, given))


def balanced(counts: Sequence[int]) -> tuple[float, ...]:
    """Return the numbers with which every class counts the same: n / (k * count).

    Args:
        counts: examples of each class. n is their sum, k the number of classes with examples; a class without any gets
            1.

    Example:
        >>> balanced([6, 2, 0])
        (0.6666666666666666, 2.0, 1.0)

    Source: scikit-learn's `compute_class_weight("balanced", ...)`.
    """
    occurring = sum(count > 0 for count in counts)
    return tuple(float(sum(counts) / (occurring * count)) if count else 1.0 for count in counts)


def _by_name(given: Mapping[str, float], class_names: Sequence[str], key: str) -> list[float]:
    """Return the numbers in the order of the classes; names are compared in one Unicode form."""
    places = {key_of(name): place for place, name in enumerate(class_names)}
    weights = [1.0] * len(class_names)
    for name, weight in given.items():
        place = places.get(key_of(str(name)))
        if place is None:
            near = difflib.get_close_matches(str(name), class_names, n=1)
            hint = f"nearest: {near[0]!r}; " if near else ""
            shown = ", ".join(map(repr, class_names[:5])) + (" ..." if len(class_names) > 5 else "")
            raise InputError(f"{key} names a class {name!r} that the data do not have; {hint}valid: {shown}")
        weights[place] = weight
    return weights
