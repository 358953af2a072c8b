"""Checks of a model's options: one line that names the culprit and says what is valid."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an option's value must be.

    ok: whether a value is valid.
    valid: what is, in words.
    """

    ok: Callable[[Any], bool]
    valid: str


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number, of at least so much; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_count(value: Any) -> bool:
    """Whether it is a whole number, 1 or more."""
    return is_whole(value, 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


COUNT = Rule(is_count, "1 or more")
COUNT_OR_0 = Rule(lambda x: is_whole(x, 0), "0 or more")
COUNT_OR_NONE = Rule(lambda x: x is None or is_count(x), "1 or more, or None")
NUMBER = Rule(_is_number, "a number")
RATE = Rule(lambda x: _is_number(x) and 0 <= x < 1, "at least 0 and less than 1")
POSITIVE = Rule(lambda x: _is_number(x) and x > 0, "above 0")
POSITIVE_OR_NONE = Rule(lambda x: x is None or (_is_number(x) and x > 0), "above 0, or None")
STAGES = Rule(
    lambda x: isinstance(x, tuple | list) and len(x) > 0 and all(map(is_count, x)),
    "the blocks of each stage, numbers of 1 or more",
)
SIZE = Rule(lambda x: isinstance(x, tuple) and len(x) == 2 and all(map(is_count, x)), "height and width in pixels")


def one_of(choices: Collection[Any]) -> Rule:
    """A value among some."""
    return Rule(lambda x: any(type(x) is type(c) and x == c for c in choices), ", ".join(map(str, choices)))


FLAG = Rule(lambda x: isinstance(x, bool), "True, False")
FLAG_OR_NONE = Rule(lambda x: x is None or isinstance(x, bool), "True, False or None")
DTYPE = one_of(("float32", "bfloat16"))


def counts(length: int) -> Rule:
    """A whole number for each stage of a hierarchical model, of which there are `length`."""
    return Rule(
        lambda x: isinstance(x, tuple | list) and len(x) == length and all(map(is_count, x)),
        f"{length} numbers of 1 or more, one for each of model.depths",
    )


def check_options(family: str, module: type, fields: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raises InputError for an option that a model lacks or a value that its rule does not allow.

    Args:
        family: what the model is called in messages.
        module: the Linen module whose fields the options are; those that are declared `bool` need no rule.
        fields: name -> value, of the options that are given.
        rules: name -> rule, of the options that have one, checked in this order.
    """
    valid = {field.name: field.type for field in dataclasses.fields(module) if field.name not in ("name", "parent")}
    for name in fields:
        if name not in valid:
            raise InputError(f"{family} has no option {name!r}; valid: {', '.join(valid)}")
    flags = {name: FLAG for name, kind in valid.items() if kind is bool}
    for name, rule in {**rules, **flags}.items():
        if name in fields and not rule.ok(fields[name]):
            raise InputError(f"model.{name} is {fields[name]!r}; valid: {rule.valid}")
