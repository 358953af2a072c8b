"""How a checkpoint differs from the run that is to continue from it."""

import itertools
from typing import Any

import jax

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
    """Name the first class that differs; None if all are the same."""
    fields = sorted(saved.keys() | wanted.keys())
    for field in fields:
        pairs = itertools.zip_longest(saved.get(field, []), wanted.get(field, []))
        for number, (there, here) in enumerate(pairs):
            if there != here:
                of_field = f" of {field!r}" if len(fields) > 1 else ""
                return f"class {number}{of_field} is {there!r} there and {here!r} here"
    return None
