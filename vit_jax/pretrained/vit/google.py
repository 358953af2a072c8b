"""Google's `.npz` checkpoints, by the names of the AugReg release.

The files hold arrays alone: the geometry is in their shapes, the resolution in the file's name (`..-res_384.npz`), and
the number of heads in the shapes or, where a file has the heads' axes in one, in the variant table.

Source: google-research/vision_transformer, vit_jax/models_vit.py and checkpoint.py; Steiner et al. 2021
(arXiv:2106.10270).
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.models.vit import VARIANTS
from vit_jax.pretrained import mapping
from vit_jax.pretrained.description import (
    Description,
    block_count,
    classification,
    numbered_classes,
    plain_vit,
    shape_of,
)
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.vit.names import GOOGLE
from vit_jax.pretrained.vit.positions import patch_grid, with_table

KINDS = ("plain",)

_POSITIONS = "Transformer/posembed_input/pos_embedding"
_MLP = "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"
_QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"


def describe(files: Files, *, num_heads: int | None = None, image_size: tuple[int, int] | None = None) -> Description:
    """Infer the model from the arrays' shapes and the file's name.

    Args:
        files: with the file's name.
        num_heads: where neither the arrays nor the variant table tell.
        image_size: height and width in pixels that the checkpoint was made for, where its number of positions is
            no square and its name does not say.

    Raises:
        InputError: a file of other names, or a geometry that cannot be inferred.
    """
    rows, columns, channels, _ = shape_of(files, "embedding/kernel", 4)
    return describe_transformer(
        files, model=plain_vit, cell=(rows, columns), channels=channels, num_heads=num_heads, image_size=image_size
    )


def describe_transformer(
    files: Files,
    *,
    model: Callable[[dict[str, Any]], dict[str, Any]],
    cell: tuple[int, int],
    channels: int,
    more_names: Sequence[Name] = (),
    num_heads: int | None,
    image_size: tuple[int, int] | None,
) -> Description:
    """Describe a checkpoint whose transformer has the names above, whatever makes its tokens.

    Args:
        files: with the file's name.
        model: fields of `ViT` -> `Description.model`.
        cell: height and width in pixels of what becomes one token.
        channels: of the images.
        more_names: the rows of what is before the transformer.
        num_heads: as in `describe`.
        image_size: as in `describe`.
    """
    tensors = files.tensors
    rows, columns, _, hidden_dim = shape_of(files, "embedding/kernel", 4)
    prefix = 1 if "cls" in tensors else 0
    size, grid = _size_and_grid(files, shape_of(files, _POSITIONS, 3)[1] - prefix, cell, image_size)
    depth = block_count(files, "Transformer/encoderblock_")
    options = {
        "hidden_dim": hidden_dim,
        "depth": depth,
        "mlp_dim": shape_of(files, _MLP, 2)[1],
        "num_heads": _num_heads(files, hidden_dim, num_heads),
        "patch_size": (rows, columns),
        "gelu": "tanh",
        "norm_eps": 1e-6,
        "pooling": "token" if prefix else "gap",
    }
    if "pre_logits/kernel" in tensors:
        options["representation_size"] = shape_of(files, "pre_logits/kernel", 2)[1]
    head = {}
    if "head/kernel" in tensors:
        head = classification(numbered_classes(shape_of(files, "head/kernel", 2)[1], about=files.about))
    return Description(
        model=model(options),
        preprocessing=standard_preprocessing(size, channels),
        names=[*mapping.expand(GOOGLE, depth, grid=grid), *more_names],
        **head,
    )


def standard_preprocessing(image_size: tuple[int, int], channels: int) -> Preprocessing:
    """Return what the files' models were made with; the files do not say."""
    return Preprocessing(image_size, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)


def _size_and_grid(
    files: Files, positions: int, cell: tuple[int, int], image_size: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find the image size and the position embedding's grid.

    They are those of the resolution in the file's name, or else of `image_size`, or of a square of patches.
    """
    named = re.search(r"res_?(\d+)", files.name)
    sizes = [(int(named[1]), int(named[1]))] if named else []
    for height, width in sizes + ([image_size] if image_size else []):
        if (height // cell[0]) * (width // cell[1]) == positions:
            return (height, width), (height // cell[0], width // cell[1])
    side = math.isqrt(positions)
    if side * side == positions:
        return (side * cell[0], side * cell[1]), (side, side)
    raise InputError(
        f"{files.name}: {positions} positions make no square grid, and its name does not say the resolution; "
        "give image_size=(height, width) of the checkpoint"
    )


def _num_heads(files: Files, hidden_dim: int, given: int | None) -> int:
    if _QUERY not in files.tensors:
        raise InputError(f"{files.name} has no tensor {_QUERY!r}, which its format has")
    shape = files.tensors[_QUERY].shape
    if len(shape) == 3:
        if given not in (None, shape[1]):
            raise InputError(f"{files.name} has {shape[1]} heads, not num_heads={given}")
        return shape[1]
    if given is not None:
        return given
    for row in VARIANTS.values():
        if row.hidden_dim == hidden_dim:
            return row.num_heads
    raise InputError(f"{files.name}: no variant has a hidden_dim of {hidden_dim}; give num_heads")


SUPPORTED = {
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


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    return unsupported_transformer(model, cell=model.encoder.patch_size)


def unsupported_transformer(model: ExportModel, *, cell: tuple[int, int]) -> list[Unsupported]:
    """List what the format cannot express of a transformer, whatever makes its tokens.

    Args:
        model: what is to be written.
        cell: height and width in pixels of what becomes one token.
    """
    found = unsupported_settings("model", model.encoder, SUPPORTED)
    if model.encoder.pooling == "gap" and model.encoder.has_class_token:
        found.append(Unsupported("model.class_token", True, "False, where pooling is gap"))
    rows, columns = patch_grid(model)
    if rows != columns:
        valid = "as many rows as columns of patches, since it stores only how many there are"
        found.append(Unsupported("data.image_size", model.preprocessing.image_size, valid))
    if any(side % each for side, each in zip(model.preprocessing.image_size, cell, strict=True)):
        valid = f"a multiple of {cell[0]}x{cell[1]} px, since it stores the number of patches alone"
        found.append(Unsupported("data.image_size", model.preprocessing.image_size, valid))
    if model.task is not None:
        found += unsupported_settings("task", model.task, {"loss_type": ("softmax",)})
    return found


def warnings(model: ExportModel) -> list[str]:
    """List what around the model the format has no place for, and what takes its place where it is loaded."""
    lines = []
    names_there = numbered_classes(len(model.class_names))
    if model.class_names != names_there:
        lines.append(
            f"an .npz holds no class names: loaded, its classes are called {names_there[0]!r} to {names_there[-1]!r}"
            + (", or as ImageNet's if the file's name has 'imagenet2012' in it" if len(names_there) == 1000 else "")
        )
    standard = standard_preprocessing(model.preprocessing.image_size, model.preprocessing.channels)
    # Bilinear pixels hardly depend on the order.
    if dataclasses.replace(model.preprocessing, width_first=False) != standard:
        lines.append(
            "an .npz holds no preprocessing: loaded, it resizes exactly and bilinearly and normalises with mean and "
            f"std 0.5, but the model has {model.preprocessing}"
        )
    return lines


def write(model: ExportModel, file: pathlib.Path) -> str:
    """Write the file; gives what the model is called."""
    write_transformer(model, file)
    return "ViT"


def write_transformer(model: ExportModel, file: pathlib.Path, *, more_names: Sequence[Name] = ()) -> None:
    """Write an `.npz` of a transformer.

    Args:
        model: what is written.
        file: path of any name.
        more_names: the rows of what is before the transformer.
    """
    model = with_table(model)
    arrays = mapping.write([*mapping.expand(GOOGLE, model.encoder.depth), *more_names], model.params)
    with file.open("wb") as stream:  # a path would get another .npz at its end
        np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
