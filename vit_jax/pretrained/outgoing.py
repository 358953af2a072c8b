"""A model on its way into another library's format."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.tasks.classification import Classification

MAY_DIFFER = (
    "gelu",
    "norm_eps",
    "embed_norm_eps",
    "activation",
    "loss_type",
    "resize",
    "resize_to",
    "crop_offset",
    "interpolation",
)
"""The settings without which the tensors still fit, so that they may be given up if the user says so."""


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """What is written: the inverse of `Description`.

    encoder: a family's module, with all its fields.
    task: None if there is no head.
    class_names: in the order of the logits; empty if there is no head.
    preprocessing: of the images.
    params: path -> float32 array, `encoder/..` and, with a task, the heads.
    """

    encoder: Any
    task: Classification | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    params: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Unheld:
    """A setting of the model that a format cannot express.

    name: as the config calls it, `model.gelu`.
    value: what the model has.
    valid: what the format can express.
    """

    name: str
    value: Any
    valid: str

    def __str__(self) -> str:
        """Half a sentence."""
        return f"{self.name} {self.value!r} (valid: {self.valid})"


def outside(section: str, settings: Any, valid: Mapping[str, Sequence[Any]]) -> list[Unheld]:
    """The settings whose value is not among the valid ones."""
    return [
        Unheld(f"{section}.{name}", getattr(settings, name), ", ".join(map(str, values)))
        for name, values in valid.items()
        if getattr(settings, name) not in values
    ]


def outside_cut(preprocessing: Preprocessing, offset: str) -> list[Unheld]:
    """`data.crop_offset`, if there are images of which a library with the given one cuts out another part."""
    if preprocessing.crop_offset == offset:
        return []
    pairs = zip(preprocessing.resize_target, preprocessing.image_size, strict=True)
    margins = [before - after for before, after in pairs]
    if preprocessing.resize == "exact" and all(margin // 2 == round(margin / 2) for margin in margins):
        return []
    return [Unheld("data.crop_offset", preprocessing.crop_offset, offset)]
