"""From what a checkpoint says of itself to its model, task and preprocessing."""

from typing import Any

from flax import linen as nn

from vit_jax.build import plugins
from vit_jax.contracts import Task
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.info import Info, fields_of


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
    task = plugins.create_task(info["task"]["name"], fields_of(info), **info["task"]["options"])
    return task.wrap(encoder), task, preprocessing


def initialise(model: nn.Module, task: Task | None, key: Any, images: Any) -> Any:
    """Make new variables of what `from_info` gave, for images `[B, H, W, C]`."""
    return model.init(key, images, train=False) if task is None else task.initialise(model, key, {"image": images})
