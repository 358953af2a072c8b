"""Checks of a model's options: one line that names the culprit and says what is valid."""

import dataclasses
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


def is_count(value: Any) -> bool:
    """Whether it is a whole number, 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


COUNT = Rule(is_count, "1 or more")
COUNT_OR_0 = Rule(lambda x: x == 0 or is_count(x), "0 or more")
COUNT_OR_NONE = Rule(lambda x: x is None or is_count(x), "1 or more, or None")
RATE = Rule(lambda x: _is_number(x) and 0 <= x < 1, "at least 0 and less than 1")
POSITIVE = Rule(lambda x: _is_number(x) and x > 0, "above 0")
POSITIVE_OR_NONE = Rule(lambda x: x is None or (_is_number(x) and x > 0), "above 0, or None")
SIZE = Rule(lambda x: isinstance(x, tuple) and len(x) == 2 and all(map(is_count, x)), "height and width in pixels")


def one_of(choices: Collection[Any]) -> Rule:
    """A value among some."""
    return Rule(lambda x: x in tuple(choices), ", ".join(map(str, choices)))


DTYPE = one_of(("float32", "bfloat16"))


def counts(length: int) -> Rule:
    """So many whole numbers, as for the stages of a hierarchical model."""
    return Rule(
        lambda x: isinstance(x, tuple | list) and len(x) == length and all(map(is_count, x)),
        f"{length} numbers of 1 or more",
    )


def check_options(family: str, module: type, fields: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raises InputError for an option that a model lacks or a value that its rule does not allow.

    Args:
        family: what the model is called in messages.
        module: the Linen module whose fields the options are.
        fields: name -> value, of the options that are given.
        rules: name -> rule, of the options that have one.
    """
    valid = [field.name for field in dataclasses.fields(module) if field.name not in ("name", "parent")]
    for name in fields:
        if name not in valid:
            raise InputError(f"{family} has no option {name!r}; valid: {', '.join(valid)}")
    for name, rule in rules.items():
        if name in fields and not rule.ok(fields[name]):
            raise InputError(f"model.{name} is {fields[name]!r}; valid: {rule.valid}")
