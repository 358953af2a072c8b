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
from typing import Any

from vit_jax.types import Field, Fields, class_fields
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


def upgraded(info: dict[str, Any]) -> Info:
    """Return a description in the newest format, of one that any version wrote.

    Raises:
        ValueError: it lacks a key, or was written by a later version.
    """
    if info.get("format", 1) > FORMAT:
        raise ValueError(f"its info has format {info['format']}, which a later version of vit_jax wrote")
    if "format" not in info:
        info = _from_format_1(info)
    missing = [key for key in KEYS if key not in info]
    if missing:
        raise ValueError(f"info lacks {', '.join(missing)}")
    return info


def _from_format_1(info: dict[str, Any]) -> Info:
    missing = [key for key in ("model", "task", "class_names", "preprocessing", "version") if key not in info]
    if missing:
        raise ValueError(f"info lacks {', '.join(missing)}")
    info = dict(info)
    names, teacher = info.pop("class_names"), info.pop("teacher", None)
    several = bool(info["task"]) and info["task"]["options"].get("loss_type") == "sigmoid"
    fields = class_fields(names, several=several) if names else {"image": class_fields([])["image"]}
    info |= {"format": FORMAT, "fields": {name: dataclasses.asdict(field) for name, field in fields.items()}}
    if teacher is not None:
        theirs = _from_format_1({"version": info["version"], **teacher})
        about = {key: theirs.pop(key) for key in ("source", "about")}
        info["companions"] = {"teacher": {**about, "info": theirs}}
    return info
