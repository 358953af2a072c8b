"""Reads what a class's docstring says of each of its options, and which type and default they have."""

import dataclasses
import inspect
import re
import types
import typing
from typing import Any

NOT_OPTIONS = ("fields", "name", "parent")
"""Dataclass fields that a config does not set: the data's, and those that Flax adds to a module."""
_ENTRY = re.compile(r"(?P<names>\w+(?:, \w+)*): (?P<text>.*)")


@dataclasses.dataclass(frozen=True)
class OptionDoc:
    """One option of a family, task, evaluator or augmentation.

    name: as a config has it.
    type: as text, `int | None`.
    default: as Python writes it; None where the option has none, as what a family's variant sets.
    text: what the docstring says of it, on one line; empty if it says nothing.
    """

    name: str
    type: str
    default: str | None
    text: str


def describe_options(cls: type) -> list[OptionDoc]:
    """Describe the options of a dataclass, in the order of its fields.

    Each is documented in the docstring of the class, or of one that it inherits from, as an entry `name: text`, whose
    further lines are indented.

    Example:
        >>> @dataclasses.dataclass
        ... class Blur:
        ...     '''Blurs an image.
        ...
        ...     radius_px: of the kernel,
        ...         at least 0.
        ...     '''
        ...     radius_px: float = 1.0
        >>> describe_options(Blur)
        [OptionDoc(name='radius_px', type='float', default='1.0', text='of the kernel, at least 0.')]
    """
    hints = typing.get_type_hints(cls)
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        texts |= _entries(each.__dict__.get("__doc__") or "")
    return [
        OptionDoc(field.name, _as_text(hints[field.name]), _default(field), texts.get(field.name, ""))
        for field in dataclasses.fields(cls)
        if field.name not in NOT_OPTIONS
    ]


def _entries(docstring: str) -> dict[str, str]:
    """Return the entries of a docstring: name -> text on one line."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        if match := _ENTRY.fullmatch(line):
            names = match["names"].split(", ")
            found |= {name: [match["text"]] for name in names}
        elif line.startswith(" "):
            for name in names:
                found[name].append(line.strip())
        else:
            names = []
    return {name: " ".join(lines) for name, lines in found.items()}


def _default(field: dataclasses.Field) -> str | None:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return None


def _as_text(kind: Any) -> str:
    """Write a type as an annotation has it."""
    if kind is type(None):
        return "None"
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " | ".join(map(_as_text, typing.get_args(kind)))
    if kind is ...:
        return "..."
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(kind)))
    if arguments := typing.get_args(kind):
        return f"{getattr(typing.get_origin(kind), '__name__', kind)}[{', '.join(map(_as_text, arguments))}]"
    return getattr(kind, "__name__", str(kind))
