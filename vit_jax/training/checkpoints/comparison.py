"""How a checkpoint differs from the run that is to continue from it."""

import itertools
from typing import Any

import jax

from vit_jax.class_names import key_of, written
from vit_jax.info import Info
from vit_jax.ops.trees import flat, leaf_names


def described(tree: Any) -> dict[str, str]:
    """Path -> shape and type of each leaf, `float32 (3, 4)`."""
    return dict(zip(leaf_names(tree), (f"{x.dtype} {x.shape}" for x in jax.tree.leaves(tree)), strict=True))


def differences(saved: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Return a line for each leaf that is missing on either side or differs."""
    return [
        f"{name} is {saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]


def other_settings(saved: Info, wanted: Info) -> list[str]:
    """Return a line for each setting of the model or the optimizer that differs."""
    old, new = flat(saved), flat(wanted)
    return [
        f"{key.replace('.options.', '.')} is {old.get(key)} there and {new.get(key)} here"
        for key in sorted(old.keys() | new.keys())
        if key.startswith(("model.", "optimizer")) and old.get(key) != new.get(key)
    ]


def class_names(info: Info) -> dict[str, list[str]]:
    """Field -> names of its classes, for the fields that have any."""
    return {name: list(field["names"]) for name, field in info["fields"].items() if field["names"]}


def other_class(saved: dict[str, list[str]], wanted: dict[str, list[str]]) -> str | None:
    """Name the first class that differs, and those that the data gained and lost; None if all are the same."""
    fields = sorted(saved.keys() | wanted.keys())
    for field in fields:
        there, here = saved.get(field, []), wanted.get(field, [])
        pairs = enumerate(itertools.zip_longest(map(key_of, there), map(key_of, here)))
        number = next((number for number, (one, other) in pairs if one != other), None)
        if number is not None:
            of_field = f" of {field!r}" if len(fields) > 1 else ""
            one, other = ([*names, *([None] * (number + 1))][number] for names in (there, here))
            return f"class {number}{of_field} is {one!r} there and {other!r} here; the data {_changes(there, here)}"
    return None


def _changes(there: list[str], here: list[str]) -> str:
    """Name the classes that came and went."""
    keys_there, keys_here = (set(map(key_of, names)) for names in (there, here))
    gained = [name for name in here if key_of(name) not in keys_there]
    lost = [name for name in there if key_of(name) not in keys_here]
    parts = [
        f"{what} {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
        for what, names in (("has gained", gained), ("has lost", lost))
        if names
    ]
    if not parts:
        return "has them in another order"
    return " and ".join(parts) + (written(gained[0], lost) if gained else "")
