"""Checks of a model's options, in one line that names the option and says what is valid."""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an option's value must be.

    ok: tells whether a value is valid.
    valid: the valid values, in words.
    """

    ok: Callable[[Any], bool]
    valid: str


def is_whole(value: Any, least: int) -> bool:
    """Tell whether a value is an integer of at least `least`; True and False are not integers here."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_count(value: Any) -> bool:
    """Tell whether a value is an integer of at least 1."""
    return is_whole(value, 1)


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number; True and False are not numbers here."""
    if isinstance(value, int):  # JAX takes whole numbers of 32 bits
        return not isinstance(value, bool) and abs(value) < 2**31
    return isinstance(value, float) and math.isfinite(value)


COUNT = Rule(is_count, "1 or more")
COUNT_OR_0 = Rule(lambda x: is_whole(x, 0), "0 or more")
COUNT_OR_NONE = Rule(lambda x: x is None or is_count(x), "1 or more, or None")
NUMBER = Rule(is_number, "a number")
RATE = Rule(lambda x: is_number(x) and 0 <= x < 1, "at least 0 and less than 1")
POSITIVE = Rule(lambda x: is_number(x) and x > 0, "above 0")
POSITIVE_OR_NONE = Rule(lambda x: x is None or (is_number(x) and x > 0), "above 0, or None")
STAGES = Rule(
    lambda x: isinstance(x, tuple) and len(x) > 0 and all(map(is_count, x)),
    "the number of blocks of each stage, 1 or more",
)
SIZE = Rule(lambda x: isinstance(x, tuple) and len(x) == 2 and all(map(is_count, x)), "height and width in pixels")


def one_of(choices: Collection[Any]) -> Rule:
    """Make the rule that a value is one of `choices`."""
    return Rule(lambda x: any(type(x) is type(c) and x == c for c in choices), ", ".join(map(str, choices)))


FLAG = Rule(lambda x: isinstance(x, bool), "True, False")
FLAG_OR_NONE = Rule(lambda x: x is None or isinstance(x, bool), "True, False or None")
DTYPE = one_of(("float32", "bfloat16"))


def counts(length: int) -> Rule:
    """Make the rule that a value holds an integer for each of `length` stages."""
    return Rule(
        lambda x: isinstance(x, tuple) and len(x) == length and all(map(is_count, x)),
        f"{length} numbers of 1 or more, one for each of model.options.depths",
    )


def short(value: Any, most: int = 100) -> str:
    """Write a value for a message, without most of it where it is long.

    Example:
        >>> short([1, 2]), short("a" * 1000, 5)
        ('[1, 2]', "'aaaa...")
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits, or lists in more lists, than Python writes
        text = f"a value of type {type(value).__name__} that is too large to be shown"
    return text if len(text) <= most else f"{text[:most]}..."


def plain(value: Any) -> Any:
    """Convert a value as a user or a file may give it to plain Python.

    Args:
        value: anything. Numbers and arrays of NumPy and JAX become Python's numbers and tuples, lists become tuples
            (also within lists and tuples), and dtypes such as `jnp.bfloat16` their names. All else is returned as it
            is.

    Example:
        >>> plain([np.int64(2), [3, np.float32(0.5)]]), plain(np.dtype("float32"))
        ((2, (3, 0.5)), 'float32')
    """
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if isinstance(value, np.dtype) or (isinstance(value, type) and _is_dtype(value)):
        return np.dtype(value).name
    shape = getattr(value, "shape", None)
    if isinstance(value, np.generic) or shape == ():
        return value.item()
    if isinstance(shape, tuple) and hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def _is_dtype(kind: type) -> bool:
    """Tell whether a class is a NumPy scalar type or one of those that `jax.numpy` has in their place."""
    return issubclass(kind, np.generic) or isinstance(getattr(kind, "dtype", None), np.dtype)


def names_of(owner: type) -> list[str]:
    """List the options of a dataclass: its fields, without those that Flax adds to a module."""
    return [field.name for field in dataclasses.fields(owner) if field.name not in ("name", "parent")]


def check_options(
    family: str, module: type, given: Mapping[str, Any], rules: Mapping[str, Rule] | None = None
) -> dict[str, Any]:
    """Check a model's options and gives them in plain Python.

    Args:
        family: name of the model in messages.
        module: Linen module whose fields are the options. Those declared `bool` need no rule.
        given: name -> value.
        rules: name -> rule, checked in this order.

    Returns:
        Name -> value, each as `plain` gives it.

    Raises:
        InputError: the module has no such option, or its rule does not allow the value.
    """
    valid = names_of(module)
    for name in given:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1)
            nearest = f"nearest: {near[0]!r}; " if near else ""
            raise InputError(f"{family} has no option {name!r}; {nearest}valid: {', '.join(valid)}")
    values = {name: plain(value) for name, value in given.items()}
    flags = {field.name: FLAG for field in dataclasses.fields(module) if field.type is bool}
    for name, rule in {**(rules or {}), **flags}.items():
        if name in values and not rule.ok(values[name]):
            raise InputError(f"model.options.{name} is {short(values[name])}; valid: {rule.valid}")
    return values


def check_divisible(fields: Mapping[str, Any], name: str, by: str) -> None:
    """Raise InputError unless the option `by` divides the option `name`."""
    if fields[name] % fields[by]:
        raise InputError(f"model.options.{name} {fields[name]} is not divisible by model.options.{by} {fields[by]}")


def meanings(owner: type) -> dict[str, str]:
    """Read what each option means from the docstrings of its class and of the classes that it inherits from.

    Args:
        owner: dataclass whose docstring has an entry `name: meaning.` for each field. The entry starts at the
            docstring's own indentation, and further lines of it are indented.

    Returns:
        Name -> meaning in one line, in the order of the fields. A field without an entry is left out.
    """
    names, found = names_of(owner), {}
    for cls in reversed(owner.__mro__):
        name = None
        for line in _lines(cls.__dict__.get("__doc__") or ""):
            entry = re.match(r"(\w+): (.*)", line)
            if entry and entry[1] in names:
                name = entry[1]
                found[name] = entry[2]
            elif name and line.startswith(" ") and line.strip():
                found[name] += f" {line.strip()}"
            else:
                name = None
    return {name: found[name] for name in names if name in found}


def _lines(docstring: str) -> list[str]:
    """Split a docstring into lines without its own indentation."""
    first, *rest = docstring.expandtabs().splitlines() or [""]
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    return [first.strip(), *(line[margin:] for line in rest)]
