"""From what a checkpoint says of itself to its model, task and preprocessing."""

import contextlib
import dataclasses
import reprlib
from collections.abc import Iterator
from typing import Any

import flax.errors
from flax import linen as nn

from vit_jax import options
from vit_jax.build import plugins
from vit_jax.contracts import Task
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.info import Info, fields_of
from vit_jax.types import Field

_MOST_PX = 2**15
"""A longer side is no model's; an image of it would not fit into memory."""


def from_info(info: Info, **execution: Any) -> tuple[nn.Module, Task | None, Preprocessing]:
    """Rebuild model, task and preprocessing.

    Without a task (a checkpoint that has no head) the model is the bare encoder.

    Args:
        info: what the checkpoint says.
        **execution: further options of the encoder, which say how it is computed.

    Raises:
        InputError: an unknown name or option.
    """
    for section, keys in {"model": ("name", "variant", "options"), "task": ("name", "options")}.items():
        missing = [key for key in keys if info[section] is not None and key not in info[section]]
        if missing:
            raise InputError(f"the info's {section} lacks {', '.join(missing)}")
    encoder = plugins.create_encoder(
        info["model"]["name"], info["model"]["variant"], **info["model"]["options"] | execution
    )
    preprocessing = preprocessing_of(info)
    if info["task"] is None:
        return encoder, None, preprocessing
    fields = {name: _of_size(field, preprocessing.image_size) for name, field in fields_of(info).items()}
    plugins.check_types("task", info["task"]["name"], info["task"]["options"])
    task = plugins.create_task(info["task"]["name"], fields, **info["task"]["options"])
    return task.wrap(encoder), task, preprocessing


def preprocessing_of(info: Info) -> Preprocessing:
    """Rebuild the preprocessing.

    Raises:
        InputError: an unknown key, or a value out of its range.
    """
    given = info["preprocessing"]
    try:
        preprocessing = Preprocessing(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"the info's preprocessing is {reprlib.repr(given)}, which is none: {error}") from None
    sides = (*preprocessing.image_size, *(preprocessing.resize_to or ()))
    if not all(options.is_count(side) for side in (*sides, preprocessing.channels)) or max(sides) > _MOST_PX:
        raise InputError(f"the info's preprocessing is {reprlib.repr(given)}; valid: sides of 1 to {_MOST_PX} pixels")
    return preprocessing


@contextlib.contextmanager
def fitting() -> Iterator[None]:
    """Say in one line that a model is applied to parameters that are not its own.

    Raises:
        InputError: a parameter is missing or has another shape.
    """
    try:
        yield
    except (
        flax.errors.ScopeCollectionNotFound,
        flax.errors.ScopeParamNotFoundError,
        flax.errors.ScopeParamShapeError,
    ) as error:
        reason = str(error).partition(" (https:")[0]
        raise InputError(f"the parameters are not those of the model that their info describes: {reason}") from None


def _of_size(field: Field, image_size: tuple[int, int]) -> Field:
    """Give the field of an image the size that the preprocessing makes, which may differ from that of the training."""
    if field.kind != "image" or len(field.shape) < 3:
        return field
    return dataclasses.replace(field, shape=(*field.shape[:-3], *image_size, field.shape[-1]))


def initialise(model: nn.Module, task: Task | None, key: Any, images: Any) -> Any:
    """Make new variables of what `from_info` gave, for images `[B, H, W, C]`."""
    return model.init(key, images, train=False) if task is None else task.initialise(model, key, {"image": images})
