"""Reads the config.json of a work directory, whichever version of the library wrote it."""

import json
import pathlib
from typing import Any

from vit_jax.build.old_configs import upgraded
from vit_jax.cli import configs
from vit_jax.errors import InputError

_FREE = ("model.options", "task.options", "data.augment", "evaluation.metrics", "evaluation.splits")
"""Sections whose keys are named by their owners or the user."""


def read_saved_config(file: pathlib.Path) -> dict[str, Any]:
    """Read a config as train.py wrote it, in today's keys; those that it lacks have today's defaults.

    Raises:
        InputError: there is no such file, or it is no such config.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist, which names the dataset; valid: a work directory of train.py")
    try:
        config = json.loads(file.read_bytes())
    except (RecursionError, ValueError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    for name in ("data", "evaluation", "parallel"):
        if not isinstance(config, dict) or name not in config:
            raise InputError(f"{file} lacks {name!r}; valid: as train.py wrote it")
    from vit_jax.cli import flags

    defaults = flags.read_config(configs.home() / "configs" / "common.py").to_dict()
    try:
        return _filled(upgraded(config), defaults)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{file} holds values of other types than train.py writes") from None


def _filled(config: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Add the keys of the defaults that a config lacks."""
    filled = dict(config)
    for key, value in defaults.items():
        if key not in filled:
            filled[key] = value
        elif isinstance(value, dict) and f"{prefix}{key}" not in _FREE:
            filled[key] = _filled(filled[key], value, f"{prefix}{key}.")
    return filled
