"""Writing Google's `.npz`, by the names of the AugReg release."""

import pathlib

import numpy as np

from vit_jax.models.hybrid import Hybrid
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.description import numbered_classes
from vit_jax.pretrained.hybrid.google import resnet_names
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside
from vit_jax.pretrained.vit.google import NAMES, preprocessing_of
from vit_jax.pretrained.vit.positions import patch_grid, with_table

_VALID = {
    "gelu": ("tanh",),
    "norm_eps": (1e-6,),
    "pooling": ("token", "gap"),
    "distillation_token": (False,),
    "register_tokens": (0,),
    "pre_norm": (False,),
    "final_norm": ("tokens",),
    "layer_scale": (None,),
    "patch_bias": (True,),
    "qkv_bias": (True,),
    "qk_norm": (False,),
}


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    found = outside("model", model.encoder, _VALID)
    if model.encoder.pooling == "gap" and model.encoder.has_class_token:
        found.append(Unheld("model.class_token", True, "False, where pooling is gap"))
    rows, columns = patch_grid(model)
    if rows != columns:
        valid = "as many rows as columns of patches, since it stores only how many there are"
        found.append(Unheld("data.image_size", model.preprocessing.image_size, valid))
    factor = _stride(model)
    if any(side % each for side, each in zip(model.preprocessing.image_size, factor, strict=True)):
        valid = f"a multiple of {factor[0]}x{factor[1]} px, since it stores the number of patches alone"
        found.append(Unheld("data.image_size", model.preprocessing.image_size, valid))
    if model.task is not None:
        found += outside("task", model.task, {"loss_type": ("softmax",)})
    return found


def _stride(model: Outgoing) -> tuple[int, int]:
    """Height and width in pixels of what becomes one token."""
    rows, columns = model.encoder.patch_size
    factor = model.encoder.stride if isinstance(model.encoder, Hybrid) else 1
    return rows * factor, columns * factor


def lost(model: Outgoing) -> list[str]:
    """What around the model the format has no place for, and what takes its place where it is loaded."""
    lines = []
    names_there = numbered_classes(len(model.class_names))
    if model.class_names != names_there:
        lines.append(
            f"an .npz holds no class names: loaded, its classes are called {names_there[0]!r} to {names_there[-1]!r}"
        )
    standard = preprocessing_of(model.preprocessing.image_size, model.preprocessing.channels)
    if model.preprocessing != standard:
        lines.append(
            "an .npz holds no preprocessing: loaded, it resizes exactly and bilinearly and normalises with mean and "
            f"std 0.5, but the model has {model.preprocessing}"
        )
    return lines


def write(model: Outgoing, file: pathlib.Path) -> str:
    """Writes the file; gives the architecture's name."""
    model = with_table(model)
    rows = names.expand(NAMES, model.encoder.depth)
    if isinstance(model.encoder, Hybrid):
        rows += resnet_names(model.encoder.resnet_stages)
    arrays = names.write(rows, model.params)
    with file.open("wb") as stream:  # a path would get another .npz at its end
        np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return "hybrid ViT" if isinstance(model.encoder, Hybrid) else "ViT"
