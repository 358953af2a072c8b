"""Reads the config.json of a work directory, whichever version of the library wrote it."""

import json
import pathlib
from typing import Any

from vit_jax.cli import configs
from vit_jax.errors import InputError

_FREE = ("model.options", "task.options", "data.augment", "evaluation.metrics", "evaluation.splits")
"""Sections whose keys are named by their owners or the user."""
_EVALUATORS = ("calibration", "knn", "probe")
"""Metrics that had a section of options of their own before format 2."""


def read_saved_config(file: pathlib.Path) -> dict[str, Any]:
    """Reads a config as train.py wrote it, in today's keys; those that it lacks have today's defaults.

    Raises:
        InputError: there is no such file, or it is no such config.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist, which names the dataset; valid: a work directory of train.py")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    for name in ("data", "evaluation", "parallel"):
        if not isinstance(config, dict) or name not in config:
            raise InputError(f"{file} lacks {name!r}; valid: as train.py wrote it")
    from vit_jax.cli import flags

    defaults = flags.read_config(configs.home() / "configs" / "common.py").to_dict()
    return _filled(upgraded(config), defaults)


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """Gives a config in today's layout, in which models, tasks, augmentations and metrics own their options.

    Args:
        config: nested dicts, as config.json has them; one of today's layout is returned as it is.

    Example:
        >>> upgraded({"model": {"name": "vit", "variant": "B/16", "depth": 2, "gelu": None}})["model"]
        {'name': 'vit', 'variant': 'B/16', 'options': {'depth': 2}}
    """
    config = dict(config)
    if "model" in config and "options" not in config["model"]:
        config["model"] = _with_options(config["model"], ("name", "variant"))
    if "task" in config and "options" not in config["task"]:
        config["task"] = _task(config["task"])
    if "data" in config and not isinstance(config["data"].get("augment", {}), dict):
        config["data"] = _data(config["data"])
    if "evaluation" in config and not isinstance(config["evaluation"].get("metrics", {}), dict):
        old = config["evaluation"]
        config["evaluation"] = {key: value for key, value in old.items() if key not in _EVALUATORS}
        config["evaluation"]["metrics"] = {name: old.get(name, {}) for name in old["metrics"]}
    return config


def _with_options(section: dict[str, Any], own: tuple[str, ...]) -> dict[str, Any]:
    """Moves all keys but some into `options`, without those that were not set."""
    options = {key: value for key, value in section.items() if key not in own and value is not None}
    return {key: section[key] for key in own if key in section} | {"options": options}


def _task(section: dict[str, Any]) -> dict[str, Any]:
    renamed = {{"weight": "teacher_weight"}.get(key, key): value for key, value in section.items()}
    if renamed.get("teacher") is None:
        renamed = {key: value for key, value in renamed.items() if not key.startswith("teacher")}
    return _with_options(renamed, ("name",))


def _data(section: dict[str, Any]) -> dict[str, Any]:
    """Moves what was done with images in training into one section for each augmentation."""
    old = dict(section)
    augment: dict[str, dict[str, Any]] = {}
    area = old.pop("crop_min_area", None)
    if old.pop("crop", "none") == "random":
        augment["random_crop"] = {} if area is None else {"min_area": area}
    if old.pop("flip", False):
        augment["flip"] = {}
    if pixels := old.pop("shift_px", 0):
        augment["shift"] = {"pixels": pixels}
    policy, options = old.pop("augment", "none"), {}
    for key in ("variant", "num_ops", "magnitude", "magnitude_std"):
        options[key] = old.pop(f"randaugment_{key}", None)
    if policy != "none":
        augment[policy] = options if policy == "randaugment" else {}
    jitter = old.pop("color_jitter", None)
    if jitter and any(jitter):
        augment["color_jitter"] = dict(zip(("brightness", "contrast", "saturation", "hue"), jitter, strict=True))
    if probability := old.pop("erase_probability", 0.0):
        augment["erase"] = {"probability": probability}
    mix = {key: old.pop(key, 0.0) for key in ("mixup_alpha", "cutmix_alpha")}
    mix |= {key: old.pop(f"mix_{key}", None) for key in ("probability", "switch_probability")}
    if mix["mixup_alpha"] or mix["cutmix_alpha"]:
        augment["mix"] = mix
    return old | {"augment": augment}


def _filled(config: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Adds the keys of the defaults that a config lacks."""
    filled = dict(config)
    for key, value in defaults.items():
        if key not in filled:
            filled[key] = value
        elif isinstance(value, dict) and f"{prefix}{key}" not in _FREE:
            filled[key] = _filled(filled[key], value, f"{prefix}{key}.")
    return filled
