"""From what a checkpoint says of itself to its model, task and preprocessing."""

import dataclasses
from typing import Any

from flax import linen as nn

from vit_jax.build import plugins
from vit_jax.contracts import Task
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.info import Info, fields_of
from vit_jax.types import Field


def from_info(info: Info, **execution: Any) -> tuple[nn.Module, Task | None, Preprocessing]:
    """Rebuild model, task and preprocessing.

    Without a task (a checkpoint that has no head) the model is the bare encoder.

    Args:
        info: what the checkpoint says.
        **execution: further options of the encoder, which say how it is computed.

    Raises:
        InputError: an unknown name or option.
    """
    encoder = plugins.create_encoder(
        info["model"]["name"], info["model"]["variant"], **info["model"]["options"] | execution
    )
    preprocessing = Preprocessing(**info["preprocessing"])
    if info["task"] is None:
        return encoder, None, preprocessing
    fields = {name: _of_size(field, preprocessing.image_size) for name, field in fields_of(info).items()}
    task = plugins.create_task(info["task"]["name"], fields, **info["task"]["options"])
    return task.wrap(encoder), task, preprocessing


def _of_size(field: Field, image_size: tuple[int, int]) -> Field:
    """Give the field of an image the size that the preprocessing makes, which may differ from that of the training."""
    if field.kind != "image" or len(field.shape) < 3:
        return field
    return dataclasses.replace(field, shape=(*field.shape[:-3], *image_size, field.shape[-1]))


def initialise(model: nn.Module, task: Task | None, key: Any, images: Any) -> Any:
    """Make new variables of what `from_info` gave, for images `[B, H, W, C]`."""
    return model.init(key, images, train=False) if task is None else task.initialise(model, key, {"image": images})
