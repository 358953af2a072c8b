"""Families, tasks, evaluators and augmentations, found by the names of their files.

A file of `vit_jax/models`, `tasks`, `evaluators` or `data/augment` that has `create` at its top level is found by its
name; nothing is registered. `create` is the frozen dataclass whose fields are the options, or of a family a function
whose return annotation is the module with these fields.
"""

import ast
import dataclasses
import difflib
import importlib
import pathlib
import pkgutil
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

import vit_jax.data.augment
import vit_jax.evaluators
import vit_jax.models
import vit_jax.tasks
from vit_jax import options as options_
from vit_jax.build.option_docs import NOT_OPTIONS
from vit_jax.contracts import Evaluator, Task
from vit_jax.errors import InputError
from vit_jax.types import Fields, class_fields

PACKAGES: dict[str, types.ModuleType] = {
    "model": vit_jax.models,
    "task": vit_jax.tasks,
    "metric": vit_jax.evaluators,
    "augmentation": vit_jax.data.augment,
}
"""What there is of each kind, and the key that names it in a config's section."""

SECTIONS = {
    "model": "model.options",
    "task": "task.options",
    "metric": "evaluation.metrics",
    "augmentation": "data.augment",
}
"""Section of a config in which the options of each kind are."""

_CREATE = re.compile(r"^(create\s*=|def create\()", re.MULTILINE)


def names(kind: str) -> list[str]:
    """List what there is of a kind, in alphabetical order.

    Args:
        kind: a key of PACKAGES.

    Example:
        >>> "vit" in names("model")
        True
    """
    [folder] = PACKAGES[kind].__path__
    found = [module.name for module in pkgutil.iter_modules([folder])]
    return [name for name in found if _CREATE.search((pathlib.Path(folder) / f"{name}.py").read_text(encoding="utf-8"))]


def find(kind: str, name: str) -> Any:
    """Import the file of a name.

    Args:
        kind: a key of PACKAGES.
        name: of the file, without its ending.

    Raises:
        InputError: there is no such file; the nearest name is given.
    """
    valid = names(kind)
    if name not in valid:
        near = difflib.get_close_matches(str(name), valid, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"unknown {kind} {name!r}{hint}; valid: {', '.join(valid)}")
    return importlib.import_module(f"{PACKAGES[kind].__name__}.{name}")


def options_class(kind: str, name: str) -> type:
    """Return the dataclass whose fields are the options of a family, task, evaluator or augmentation."""
    create = find(kind, name).create
    return create if isinstance(create, type) else typing.get_type_hints(create)["return"]


def option_types(kind: str, name: str) -> dict[str, Any]:
    """Return the options of a family, task, evaluator or augmentation: name -> type annotation."""
    cls = options_class(kind, name)
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.name not in NOT_OPTIONS}


def check_option(kind: str, name: str, option: str) -> Any:
    """Return the type of an option.

    Raises:
        InputError: there is no such option; the nearest one is named.
    """
    valid = option_types(kind, name)
    if option not in valid:
        near = difflib.get_close_matches(option, valid, n=1, cutoff=0.6)
        nearest = f"nearest: {near[0]!r}; " if near else ""
        known = f"valid: {', '.join(valid)}" if valid else "it has no options"
        raise InputError(f"{kind} {name!r} has no option {option!r}; {nearest}{known}")
    return valid[option]


def create(kind: str, name: str, *arguments: Any, options: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
    """Create a task, an evaluator or an augmentation.

    Args:
        kind: `task`, `metric` or `augmentation`.
        name: of its file.
        *arguments: what comes before the options.
        options: name -> value; those that are None are left to the default.

    Raises:
        InputError: an unknown name or option, or a value out of its range.
    """
    cls = find(kind, name).create
    given = {option: value for option, value in options.items() if value is not None}
    known = {option: converted(value, check_option(kind, name, option)) for option, value in given.items()}
    return cls(*arguments, **known)


def create_task(name: str, fields: Fields, **options: Any) -> Task:
    """Create a task by name, a file of `vit_jax/tasks`.

    Args:
        name: `classification`.
        fields: of the data.
        **options: of the task.

    Raises:
        InputError: an unknown task or option.
    """
    return create("task", name, fields, options=options)


def create_evaluator(name: str, fields: Fields, **options: Any) -> Evaluator:
    """Create an evaluator by name, a file of `vit_jax/evaluators`; see `create_task`."""
    return create("metric", name, fields, options=options)


def describe(task: Task) -> dict[str, Any]:
    """Describe a task for a checkpoint: its `name`, and the `options` that are not the defaults."""
    options = {
        field.name: getattr(task, field.name)
        for field in dataclasses.fields(task)
        if field.name not in NOT_OPTIONS and getattr(task, field.name) != field.default
    }
    return {"name": type(task).__module__.rpartition(".")[2], "options": options}


def create_encoder(name: str, variant: str, **options: Any) -> nn.Module:
    """Create the encoder of a family by name, `("vit", "B/16")`.

    Raises:
        InputError: an unknown family, variant or option.
    """
    module = find("model", name)
    if not isinstance(variant, str):
        raise InputError(f"model.variant is {variant!r}; valid: text, the name of a row of {name}'s VARIANTS")
    return module.create(variant, **options)


def create_model(name: str, variant: str, *, num_classes: int | None = None, **options: Any) -> nn.Module:
    """Create a model by name.

    Args:
        name: a file of `vit_jax/models`, `vit`.
        variant: a row of its VARIANTS, `B/16`.
        num_classes: adds a classification head of as many logits; None gives the bare encoder.
        **options: fields of the family's module, such as `pooling="gap"`.

    Returns:
        A Linen module: `(images [B, H, W, C] float, *, train)` to logits `[B, num_classes]`, or to `Features`.

    Raises:
        InputError: an unknown family, variant or option.

    Example:
        >>> create_model("vit", "Ti/16", num_classes=10).num_classes
        10
    """
    encoder = create_encoder(name, variant, **options)
    if num_classes is None:
        return encoder
    return create_task("classification", class_fields([str(label) for label in range(num_classes)])).wrap(encoder)


def list_models() -> list[tuple[str, str]]:
    """List all (name, variant) pairs that `create_model` knows by name.

    Example:
        >>> ("vit", "B/16") in list_models()
        True
    """
    return [(name, variant) for name in names("model") for variant in find("model", name).VARIANTS]


def converted(value: Any, kind: Any) -> Any:
    """Turn what JSON, NumPy or JAX have in place of a Python value into that: tuples for lists, plain numbers.

    Args:
        value: of an option.
        kind: its type annotation.
    """
    value = options_.plain(value)
    wants_float = float in (kind, *typing.get_args(kind)) and int not in typing.get_args(kind)
    return float(value) if wants_float and type(value) is int else value


def check_types(kind: str, name: str, options: Mapping[str, Any]) -> None:
    """Check options that a file gives, which may hold values of any type.

    Args:
        kind: a key of PACKAGES.
        name: of its file.
        options: name -> value, as JSON has it.

    Raises:
        InputError: an option is unknown, or its value is of another type than the option's.
    """
    for option, value in options.items():
        allowed = _plain_types(check_option(kind, name, option))
        value = converted(value, float if float in allowed else object)
        if object not in allowed and type(value) not in allowed:
            raise InputError(f"{SECTIONS[kind]}.{option} is {reprlib.repr(value)}; valid: {_in_words(allowed)}")


def parsed(text: str, kind: Any, what: str) -> Any:
    """Read the value of an option from the command line.

    Args:
        text: `0.1`, `true`, `(1, 2)`, `1,2`, `tanh`, `none`.
        kind: the option's type annotation.
        what: for the message, `task.options.label_smoothing`.

    Raises:
        InputError: text that is no value of the type.

    Example:
        >>> parsed("1,2", tuple[int, ...], "x"), parsed("True", bool, "x"), parsed("none", int | None, "x")
        ((1, 2), True, None)
    """
    allowed = _plain_types(kind)
    if type(None) in allowed and text.lower() == "none":
        return None
    if bool in allowed and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if str in allowed and not {tuple, dict} & allowed:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if str in allowed and not isinstance(value, tuple | list | dict):
        return text
    value = tuple(value) if isinstance(value, list) else value
    if tuple in allowed and not isinstance(value, tuple | dict) and not {int, float} & allowed:
        value = (value,)
    if float in allowed and type(value) is int:
        return value if int in allowed else float(value)
    elements = _element_types(kind)
    if isinstance(value, tuple) and elements and object not in elements:
        value = tuple(float(x) if type(x) is int and int not in elements and float in elements else x for x in value)
        if not {type(x) for x in value} <= elements:
            raise InputError(f"{what} is {text!r}; valid: {_in_words(allowed)}")
    if object not in allowed and type(value) not in allowed:
        raise InputError(f"{what} is {text!r}; valid: {_in_words(allowed)}")
    return value


def _plain_types(kind: Any) -> set[type]:
    """Return the classes that an annotation allows, `int | None` -> {int, NoneType}; `object` where it allows any."""
    if kind in (Any, object):
        return {object}
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return set().union(*map(_plain_types, typing.get_args(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return {type(value) for value in typing.get_args(kind)}
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type):
        return {object}
    if issubclass(origin, Mapping):
        return {dict}
    return {tuple} if issubclass(origin, (tuple, list)) or origin.__module__ == "collections.abc" else {origin}


def _element_types(kind: Any) -> set[type]:
    """Return the classes that an annotation allows in a tuple, `tuple[int, ...] | None` -> {int}; none if all."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return set().union(*map(_element_types, typing.get_args(kind)))
    if tuple not in _plain_types(kind):
        return set()
    return set().union(*(_plain_types(element) for element in typing.get_args(kind) if element is not Ellipsis))


def _in_words(allowed: set[type]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true, false", str: "text", tuple: "numbers, as in 1,2"}
    words[dict] = "numbers by name, as in {'cat': 2}"
    return " or ".join(sorted(words.get(kind, "none") for kind in allowed))
