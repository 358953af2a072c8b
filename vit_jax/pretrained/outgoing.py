"""A model on its way into another library's format."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from vit_jax.data.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.models import vit
from vit_jax.ops import posemb
from vit_jax.pretrained.names import Geometry
from vit_jax.tasks.classification import Classification
from vit_jax.types import Params

_GRID, _PREFIX = "encoder/pos_embedding/grid", "encoder/pos_embedding/prefix"

MAY_DIFFER = ("gelu", "norm_eps", "loss_type", "resize", "resize_to", "crop_offset", "interpolation")
"""The settings without which the tensors still fit, so that they may be given up if the user says so."""


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """What is written: the inverse of `Description`.

    encoder: with all its fields.
    task: None if there is no head.
    class_names: in the order of the logits; empty if there is no head.
    preprocessing: of the images.
    params: path -> float32 array, `encoder/..` and, with a task, the heads.
    """

    encoder: vit.ViT
    task: Classification | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    params: dict[str, np.ndarray]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = (
            size // patch for size, patch in zip(self.preprocessing.image_size, self.encoder.patch_size, strict=True)
        )
        return height, width

    @property
    def geometry(self) -> Geometry:
        """What the layouts need."""
        return Geometry(self.encoder.num_heads, self.grid, len(self.params.get(_PREFIX, ())))

    def with_table(self) -> "Outgoing":
        """The same function of the images with one learned position for each token, prefix tokens included.

        Computed embeddings become a table of their values, and where there is no position, that position is zero.
        """
        rows, columns = self.grid
        dim, num_prefix = self.encoder.hidden_dim, self.encoder.num_prefix_tokens
        prefix = np.zeros((num_prefix, dim), np.float32)
        grid = np.zeros((rows, columns, dim), np.float32)
        if self.encoder.posemb == "learned":
            prefix, grid = self.params.get(_PREFIX, prefix), self.params[_GRID]
        elif self.encoder.posemb == "sincos2d":
            grid = np.asarray(posemb.sincos2d((rows, columns), dim))
        elif self.encoder.posemb == "sincos1d":
            table = np.asarray(posemb.sincos1d(num_prefix + rows * columns, dim))
            prefix, grid = table[:num_prefix], table[num_prefix:].reshape(rows, columns, dim)
        params = self.params | {_GRID: grid} | ({_PREFIX: prefix} if num_prefix else {})
        return dataclasses.replace(
            self, encoder=self.encoder.clone(posemb="learned", prefix_posemb=True), params=params
        )


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


def outgoing(info: dict[str, Any], params: Params) -> Outgoing:
    """Puts together what is written.

    Args:
        info: what a checkpoint says of itself.
        params: nested float32 arrays, of the encoder alone if there is no task.

    Raises:
        InputError: a model or task that only a work directory can hold.
    """
    model, task = info["model"], info["task"]
    for kind, section, valid in (
        ("model", model, "vit"),
        ("task", task or {"name": "classification"}, "classification"),
    ):
        if section["name"] != valid:
            raise InputError(f"{kind} {section['name']!r} is not written in this format; valid: {valid}, or workdir")
    names = tuple(info["class_names"])
    nested = {"encoder": params} if task is None else params
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    return Outgoing(
        encoder=vit.create(model["variant"], **model["options"]),
        task=None if task is None else Classification(**({"num_classes": len(names)} | task["options"])),
        class_names=names,
        preprocessing=Preprocessing(**info["preprocessing"]),
        params={path: np.asarray(array, np.float32) for path, array in flat.items()},
    )


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
