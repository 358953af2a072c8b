"""What a checkpoint says of its model: a JSON object that travels with the parameters.

Keys of format 2:
    format: 2.
    model: `name`, `variant` and `options` of the encoder.
    task: `name` and `options`; None for a bare encoder.
    fields: name -> the data's field, as `Field` has it, with the names of the classes.
    preprocessing: fields of `Preprocessing`.
    version: of this library.
    companions: name -> `source`, `about` and `info` of each model that the run learns with; absent without any.
    optimizer, num_examples: of the run; absent in a converted checkpoint.

Format 1, which has no number, had `class_names` instead of `fields`, and `teacher` instead of `companions`.
"""

import dataclasses
import reprlib
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.types import KINDS, Field, Fields, class_fields
from vit_jax.version import __version__

FORMAT = 2
KEYS = ("format", "model", "task", "fields", "preprocessing", "version")

Info = dict[str, Any]


def new_info(
    *, model: dict[str, Any], task: dict[str, Any] | None, fields: Fields, preprocessing: dict[str, Any], **run: Any
) -> Info:
    """Make the description of a model.

    Args:
        model: `name`, `variant`, `options`.
        task: `name` and `options`; None for a bare encoder.
        fields: of the data.
        preprocessing: fields of `Preprocessing`.
        **run: further keys, those of a run.
    """
    return {
        "format": FORMAT,
        "model": model,
        "task": task,
        "fields": {name: dataclasses.asdict(field) for name, field in fields.items()},
        "preprocessing": preprocessing,
        "version": __version__,
        **run,
    }


def fields_of(info: Info) -> dict[str, Field]:
    """Return the data's fields, which a checkpoint's info describes."""
    return {name: Field(**field) for name, field in info["fields"].items()}


def class_names_of(fields: Fields) -> tuple[str, ...]:
    """Name of the classes that an image is labelled with, or else of those that any field has; empty without any."""
    ordered = sorted(fields.values(), key=lambda field: field.kind not in ("label", "labels"))
    return next((field.names for field in ordered if field.names), ())


def upgraded(info: Any) -> Info:
    """Return a description in the newest format, of one that any version wrote.

    Raises:
        ValueError: it lacks a key, or holds a value of another type.
        InputError: a later version wrote it.
    """
    _check_type("info", info, dict)
    number = info.get("format", 1)
    _check_type("info's format", number, int)
    if number > FORMAT:
        raise InputError(f"its info has format {number}, which a later version of vit_jax wrote; valid: that version")
    if "format" not in info:
        info = _from_format_1(info)
    missing = [key for key in KEYS if key not in info]
    if missing:
        raise ValueError(f"info lacks {', '.join(missing)}")
    _check(info)
    return info


def _check(info: Info) -> None:
    """Raise ValueError unless the values have the types that they were written with; the options are their owners'."""
    for key in ("fields", "preprocessing"):
        _check_type(f"info's {key}", info[key], dict)
    sections = {"model": info["model"], "task": info["task"]}
    for section, values in sections.items():
        if section == "task" and values is None:  # a bare encoder
            continue
        _check_type(f"info's {section}", values, dict)
        for key, kind in {"name": str, "variant": str, "options": dict}.items():
            if key in values:
                _check_type(f"info's {section}.{key}", values[key], kind)
    for name, field in info["fields"].items():
        _check_field(f"info's fields.{name}", field)
    _check_type("info's version", info["version"], str)
    _check_type("info's companions", info.get("companions", {}), dict)


def _check_field(what: str, field: Any) -> None:
    _check_type(what, field, dict)
    unknown = field.keys() - {each.name for each in dataclasses.fields(Field)}
    if unknown or field.get("kind") not in KINDS:
        raise ValueError(f"{what} is no field")
    for key, element in {"shape": int | None, "names": str, "ignore": int}.items():
        values = field.get(key, [])
        _check_type(f"{what}.{key}", values, list | tuple)
        for value in values:
            _check_type(f"a value of {what}.{key}", value, element)
    try:
        np.dtype(field.get("dtype", "int32"))
    except TypeError:
        raise ValueError(f"{what}.dtype is no type of numbers") from None


def _check_type(what: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{what} is {reprlib.repr(value)}")


def _from_format_1(info: dict[str, Any]) -> Info:
    missing = [key for key in ("model", "task", "class_names", "preprocessing", "version") if key not in info]
    if missing:
        raise ValueError(f"info lacks {', '.join(missing)}")
    info = dict(info)
    names, teacher = info.pop("class_names"), info.pop("teacher", None)
    _check_type("info's class_names", names, list | tuple | None)
    task = info["task"] or {"options": {}}
    _check_type("info's task", task, dict)
    _check_type("info's task.options", task.get("options"), dict)
    several = task["options"].get("loss_type") == "sigmoid"
    fields = class_fields(names, several=several) if names else {"image": class_fields([])["image"]}
    info |= {"format": FORMAT, "fields": {name: dataclasses.asdict(field) for name, field in fields.items()}}
    if teacher is not None:
        _check_type("info's teacher", teacher, dict)
        theirs = _from_format_1({"version": info["version"], **teacher})
        about = {key: theirs.pop(key, None) for key in ("source", "about")}
        info["companions"] = {"teacher": {**about, "info": theirs}}
    return info
