"""Google's `.npz` checkpoints, by the names of the AugReg release.

The files hold arrays alone: the geometry is in their shapes, the resolution in the file's name (`..-res_384.npz`), and
the number of heads in the shapes or, where a file has the heads' axes in one, in the variant table.

Source: google-research/vision_transformer, vit_jax/models_vit.py and checkpoint.py; Steiner et al. 2021
(arXiv:2106.10270).
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.models.vit import VARIANTS
from vit_jax.pretrained.description import Description, block_count, numbered_classes, plain_vit, shape_of
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name, expand

_BLOCK, _LAYER = "encoder/block_{i}", "Transformer/encoderblock_{i}"
_ATTENTION = f"{_LAYER}/MultiHeadDotProductAttention_1"
NAMES = (
    Name("encoder/class_token", "cls"),
    Name("encoder/patch_embed/kernel", "embedding/kernel"),
    Name("encoder/patch_embed/bias", "embedding/bias"),
    Name("encoder/pos_embedding/prefix", "Transformer/posembed_input/pos_embedding", "prefix"),
    Name("encoder/pos_embedding/grid", "Transformer/posembed_input/pos_embedding", "grid"),
    Name(f"{_BLOCK}/norm1/scale", f"{_LAYER}/LayerNorm_0/scale"),
    Name(f"{_BLOCK}/norm1/bias", f"{_LAYER}/LayerNorm_0/bias"),
    Name(f"{_BLOCK}/attention/query/kernel", f"{_ATTENTION}/query/kernel", "google_in"),
    Name(f"{_BLOCK}/attention/query/bias", f"{_ATTENTION}/query/bias", "google_bias"),
    Name(f"{_BLOCK}/attention/key/kernel", f"{_ATTENTION}/key/kernel", "google_in"),
    Name(f"{_BLOCK}/attention/key/bias", f"{_ATTENTION}/key/bias", "google_bias"),
    Name(f"{_BLOCK}/attention/value/kernel", f"{_ATTENTION}/value/kernel", "google_in"),
    Name(f"{_BLOCK}/attention/value/bias", f"{_ATTENTION}/value/bias", "google_bias"),
    Name(f"{_BLOCK}/attention/out/kernel", f"{_ATTENTION}/out/kernel", "google_out"),
    Name(f"{_BLOCK}/attention/out/bias", f"{_ATTENTION}/out/bias"),
    Name(f"{_BLOCK}/norm2/scale", f"{_LAYER}/LayerNorm_2/scale"),
    Name(f"{_BLOCK}/norm2/bias", f"{_LAYER}/LayerNorm_2/bias"),
    Name(f"{_BLOCK}/mlp/fc1/kernel", f"{_LAYER}/MlpBlock_3/Dense_0/kernel"),
    Name(f"{_BLOCK}/mlp/fc1/bias", f"{_LAYER}/MlpBlock_3/Dense_0/bias"),
    Name(f"{_BLOCK}/mlp/fc2/kernel", f"{_LAYER}/MlpBlock_3/Dense_1/kernel"),
    Name(f"{_BLOCK}/mlp/fc2/bias", f"{_LAYER}/MlpBlock_3/Dense_1/bias"),
    Name("encoder/norm/scale", "Transformer/encoder_norm/scale"),
    Name("encoder/norm/bias", "Transformer/encoder_norm/bias"),
    Name("encoder/pre_logits/kernel", "pre_logits/kernel"),
    Name("encoder/pre_logits/bias", "pre_logits/bias"),
    Name("head/kernel", "head/kernel"),
    Name("head/bias", "head/bias"),
)
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_MLP = "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"
_QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"


def describe(files: Files, *, num_heads: int | None = None, image_size: tuple[int, int] | None = None) -> Description:
    """Infers the model from the arrays' shapes and the file's name.

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
    """Describes a checkpoint whose transformer has the names above, whatever makes its tokens.

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
    grid = _grid(files, shape_of(files, _POSITIONS, 3)[1] - prefix, cell, image_size)
    depth = block_count(tensors, "Transformer/encoderblock_")
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
    has_head = "head/kernel" in tensors
    return Description(
        model=model(options),
        task={} if has_head else None,
        class_names=numbered_classes(shape_of(files, "head/kernel", 2)[1]) if has_head else (),
        preprocessing=preprocessing_of((grid[0] * cell[0], grid[1] * cell[1]), channels),
        names=[*expand(NAMES, depth, grid=grid), *more_names],
    )


def preprocessing_of(image_size: tuple[int, int], channels: int) -> Preprocessing:
    """What the files' models were made with; the files do not say."""
    return Preprocessing(image_size, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)


def _grid(files: Files, positions: int, cell: tuple[int, int], image_size: tuple[int, int] | None) -> tuple[int, int]:
    """The position embedding's grid: of the resolution in the file's name if it fits, or a square, or as given."""
    named = re.search(r"res_?(\d+)", files.name)
    sizes = [(int(named[1]), int(named[1]))] if named else []
    for height, width in sizes + ([image_size] if image_size else []):
        if (height // cell[0]) * (width // cell[1]) == positions:
            return height // cell[0], width // cell[1]
    side = math.isqrt(positions)
    if side * side == positions:
        return side, side
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
