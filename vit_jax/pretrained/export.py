"""A model that is to be written in another library's format."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.types import Fields

ALLOWED_DIFFERENCES = (
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
"""Settings that change no tensor's shape, which the user may allow to differ in the file."""
_OVERSHOOTING = ("bicubic", "lanczos")
"""Filters whose values are cut off at 0 and 255 after each side, so that the order of the sides matters."""


@dataclasses.dataclass(frozen=True)
class ExportModel:
    """What is written: the inverse of `Description`.

    encoder: a family's module, with all its fields.
    task: None for a bare encoder.
    fields: of the data.
    preprocessing: of the images.
    params: path -> float32 array, `encoder/..` and, with a task, the heads.
    """

    encoder: Any
    task: Any
    fields: Fields
    preprocessing: Preprocessing
    params: dict[str, np.ndarray]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; empty without a head."""
        return () if self.task is None else self.task.class_names


@dataclasses.dataclass(frozen=True)
class Unsupported:
    """A setting of the model that a format cannot express.

    name: as the config calls it, `model.gelu`.
    value: what the model has.
    valid: what the format can express.
    """

    name: str
    value: Any
    valid: str

    @property
    def option(self) -> str:
        """The name without its section, `gelu`."""
        return self.name.rpartition(".")[2]

    def __str__(self) -> str:
        """Return half a sentence."""
        return f"{self.name} {self.value!r} (valid: {self.valid})"


def unsupported_settings(section: str, settings: Any, valid: Mapping[str, Sequence[Any]]) -> list[Unsupported]:
    """List the settings whose value is not among the valid ones.

    Args:
        section: of the config, `model`.
        settings: an object with the settings as attributes.
        valid: name -> values.

    Example:
        >>> [str(each) for each in unsupported_settings("model", Preprocessing((8, 8)), {"resize": ["area"]})]
        ["model.resize 'exact' (valid: area)"]
    """
    return [
        Unsupported(f"{section}.{name}", getattr(settings, name), ", ".join(map(str, values)))
        for name, values in valid.items()
        if getattr(settings, name) not in values
    ]


def unsupported_cut(preprocessing: Preprocessing, offset: str) -> list[Unsupported]:
    """List `data.crop_offset`, if a library that rounds by `offset` cuts out another part of some image."""
    if preprocessing.crop_offset == offset:
        return []
    pairs = zip(preprocessing.resize_target, preprocessing.image_size, strict=True)
    margins = [before - after for before, after in pairs]
    if preprocessing.resize == "exact" and all(margin // 2 == round(margin / 2) for margin in margins):
        return []
    return [Unsupported("data.crop_offset", preprocessing.crop_offset, offset)]


def order_warnings(preprocessing: Preprocessing, *, width_first: bool) -> list[str]:
    """Say that a library resizes in another order than the model, where that can show in more than a rounding.

    Args:
        preprocessing: the model's.
        width_first: as of `Preprocessing`, what the library does.
    """
    if preprocessing.width_first == width_first or preprocessing.interpolation not in _OVERSHOOTING:
        return []
    there = "to the new width first" if width_first else "the cheaper side first"
    return [
        f"an image is resized {there} there, unlike here (data.width_first {preprocessing.width_first}): by "
        f"{preprocessing.interpolation} pixels at hard edges of some images differ"
    ]
