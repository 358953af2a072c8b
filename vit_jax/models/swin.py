"""Swin Transformer and Swin Transformer V2: attention within shifted windows, on ever coarser maps.

Source: Liu et al. 2021 (arXiv:2103.14030) and Liu et al. 2022 (V2, arXiv:2111.09883); the authors' code at
github.com/microsoft/Swin-Transformer.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.layers.drop_path import DropPath
from vit_jax.layers.mlp import GELU, Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import PatchEmbed, PositionEmbedding
from vit_jax.layers.stack import REMAT, block_numbers, run_stack
from vit_jax.layers.window_attention import CosineWindowAttention, PatchMerging, WindowAttention, Windowing, pad
from vit_jax.ops import windows
from vit_jax.ops.patches import patch_grid
from vit_jax.ops.windows import Size
from vit_jax.types import Features

POSEMB = ("none", "learned")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of VARIANTS.

    embed_dim: channels of the first stage.
    depths: number of blocks of each stage.
    num_heads: attention heads of each stage.
    window_size: rows and columns of a window, in all stages.
    image_size: height and width in pixels that the figures are for.
    params: parameters with a head of 1,000 classes, counted.
    paper_params_millions: figure that the source prints.
    paper_gflops: figure that the source prints; there a multiply-add is one FLOP.
    source: paper and table.
    version: 1, or 2 for Swin V2.
    pretrained_window_size: of the stages, where the published weights were trained with other windows first.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    image_size: int
    params: int
    paper_params_millions: float
    paper_gflops: float
    source: str
    version: int = 1
    pretrained_window_size: tuple[int, ...] | None = None


class SwinBlock(nn.Module):
    """Windowed attention and MLP, each with its residual; V1 normalises what goes into them, V2 what comes out.

    attention: how it attends.
    version: 1 or 2.
    rolled: whether the windows are shifted; see `WindowAttention`.

    Source: Liu et al. 2021, equation 3; Liu et al. 2022, section 3.2, "res-post-norm", whose norms start at zero as in
    the authors' code.
    """

    attention: Windowing
    version: int
    mlp_dim: int
    gelu: str
    norm_eps: float
    dropout: float
    drop_path: float | Float[Array, ""]
    rolled: bool | Array
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Map `[B, h, w, C]` to the same shape."""
        roles.declare_block(self)
        kind = WindowAttention if self.version == 1 else CosineWindowAttention
        attention = kind(self.attention, self.dtype, name="attention")
        mlp = Mlp(self.mlp_dim, self.gelu, self.dropout, self.dtype, name="mlp")
        dropout = nn.Dropout(self.dropout, deterministic=not train)
        norm_init = nn.initializers.ones if self.version == 1 else nn.initializers.zeros
        norm1, norm2 = (LayerNorm(self.norm_eps, norm_init, name=name) for name in ("norm1", "norm2"))
        if self.version == 2:
            y = norm1(dropout(attention(x, self.rolled, train=train))).astype(x.dtype)
            x = x + DropPath(self.drop_path)(y, train=train)
            y = norm2(mlp(x, train=train)).astype(x.dtype)
        else:
            y = dropout(attention(norm1(x), self.rolled, train=train))
            x = x + DropPath(self.drop_path)(y, train=train)
            y = mlp(norm2(x), train=train)
        return x + DropPath(self.drop_path)(y, train=train)


class Swin(nn.Module):
    """The encoder: images to `Features`. `create` makes one by name.

    embed_dim: channels of the first stage; each further stage has twice as many.
    depths: number of blocks of each stage.
    num_heads: attention heads of each stage; one number is all.
    window_size: rows and columns of the windows of each stage.
    version: 1, or 2 for Swin V2.
    patch_size: height and width of a patch in pixels; one number is both.
    head_dim: channels of a head; None is the stage's channels divided by its heads.
    mlp_ratio: hidden units of the MLPs for each channel.
    posemb: `none`, or `learned`, a position embedding of the patches in addition.
    window_fit: how windows are fitted to a map that they do not divide or that is no larger than one: `authors`
        or `timm`; see `ops.windows.fit`. It also says what becomes of an image that the patch does not divide.
    shift_size: number of rows and columns by which every second block of each stage shifts its windows. None is half a
        window, with windows no larger than the map; given, windows and shifts hold for maps of any size.
    pretrained_window_size: of V2, rows and columns for each stage: the windows that the biases were first learned for,
        where these are others. None is the windows themselves.
    mask_value: added to the scores of tokens that only a shift brought together; -200 in Hugging Face's V2.
    dropout: rate after the patch embedding, each attention, and each dense layer of an MLP; in [0, 1).
    attention_dropout: rate on the attention weights; in [0, 1).
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first; in [0, 1).
    qkv_bias: whether query, key (V1) and value have a bias.
    gelu: `exact`, as in the published weights, `tanh` or `quick`.
    norm_eps: epsilon of the blocks' LayerNorm and of the last one.
    embed_norm_eps: epsilon of LayerNorm in the patch embedding and in the patch mergings.
    dtype: of matrix products and of the maps between the blocks; parameters, LayerNorm and softmax are float32.
    remat: what the backward pass computes again instead of keeping it: `none`, `full` or `dots`; see `stack.REMAT`.
    scan: whether the blocks of a stage are compiled as one loop; see `run_stack`.

    `remat` and `scan` change neither parameters nor outputs. Kernels start Xavier-uniform as everywhere in this
    library; the authors' are truncated normal with deviation 0.02.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: tuple[Size, ...]
    version: int = 1
    patch_size: Size = (4, 4)
    head_dim: int | None = None
    mlp_ratio: float = 4.0
    posemb: str = "none"
    window_fit: str = "authors"
    shift_size: tuple[Size, ...] | None = None
    pretrained_window_size: tuple[Size, ...] | None = None
    mask_value: float = -100.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    qkv_bias: bool = True
    gelu: str = "exact"
    norm_eps: float = 1e-5
    embed_norm_eps: float = 1e-5
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    def layer_number(self, path: str) -> int:
        """Return a parameter's place between image and output: 0 before the blocks, i in the i-th, depth + 1 after.

        A merging counts as part of the block before it, as in the authors' fine-tuning (SimMIM's optimizer.py).

        Args:
            path: within the encoder, `block_0/mlp/fc1/kernel`.
        """
        name, _, number = path.partition("/")[0].rpartition("_")
        if name == "block":
            return int(number) + 1
        if name == "merge":
            return sum(self.depths[: int(number) + 1])
        return self.depth + 1 if path.startswith("norm/") else 0

    def grid_of(self, image_size: Size) -> Size:
        """Return the rows and columns of patches in an image of this height and width.

        Raises:
            InputError: the image is smaller than a patch, where it is not padded.
        """
        if self.window_fit == "timm":
            return patch_grid(image_size, self.patch_size)
        return _ceil(image_size, self.patch_size)

    def extent_of(self, image_size: Size) -> Size:
        """Return height and width in pixels of what the patches cover; it may reach beyond the image."""
        rows, columns = self.grid_of(image_size)
        return rows * self.patch_size[0], columns * self.patch_size[1]

    def fits(self, image_size: Size) -> list[windows.Fit]:
        """Fit the shifted windows of each stage to its map of an image of this height and width."""
        placed, size = [], self.grid_of(image_size)
        for stage, window in enumerate(self.window_size):
            fixed = self.shift_size is not None
            placed.append(windows.fit(size, window, self._shift(stage), how=self.window_fit, fixed=fixed))
            size = _ceil(size, (2, 2))
        return placed

    def _shift(self, stage: int) -> Size:
        rows, columns = self.window_size[stage]
        return (rows // 2, columns // 2) if self.shift_size is None else self.shift_size[stage]

    def dims(self, stage: int) -> int:
        """Return the channels of a stage, counted from 0."""
        return self.embed_dim * 2**stage

    def flops(self, image_size: Size, channels: int = 3, *, patch_tokens: bool = True) -> int:
        """Count the FLOPs of the forward pass of one image, without a head; a training step takes three times as many.

        Only matrix products count, a multiply-add as two; V2's MLP for the biases, which a batch needs once,
        is left out. "GFLOPs" in the papers are half of it.

        Args:
            image_size: height and width in pixels.
            channels: of the image.
            patch_tokens: see `__call__`.
        """
        size = self.grid_of(image_size)
        total = math.prod(size) * math.prod(self.patch_size) * channels * self.embed_dim
        for stage, placed in enumerate(self.fits(image_size)):
            dim, heads = self.dims(stage), self.num_heads[stage]
            inner = heads * (self.head_dim or dim // heads)
            attention = math.prod(placed.size) * (4 * dim * inner + 2 * math.prod(placed.window) * inner)
            mlp = math.prod(size) * 2 * dim * int(dim * self.mlp_ratio)
            total += self.depths[stage] * (attention + mlp)
            if stage + 1 < len(self.depths):
                size = _ceil(size, (2, 2))
                total += math.prod(size) * 8 * dim**2
        return 2 * total

    def setup(self) -> None:
        """Make the layers."""
        self.patch_embed = PatchEmbed(self.patch_size, self.embed_dim, self.dtype)
        self.embed_norm = LayerNorm(self.embed_norm_eps)
        self.pos_embedding = PositionEmbedding(self.posemb)
        self.embed_dropout = nn.Dropout(self.dropout)
        self.stages = [
            [self._block(stage, i, f"block_{sum(self.depths[:stage]) + i}") for i in range(depth)]
            for stage, depth in enumerate(self.depths)
        ]
        self.mergings = [
            PatchMerging(self.embed_norm_eps, self.version == 1, self.dtype, name=f"merge_{stage}")
            for stage in range(len(self.depths) - 1)
        ]
        self.norm = LayerNorm(self.norm_eps)

    def _block(self, stage: int, i: int, name: str) -> SwinBlock:
        return SwinBlock(
            attention=Windowing(
                num_heads=self.num_heads[stage],
                head_dim=self.head_dim,
                window=self.window_size[stage],
                shift=self._shift(stage),
                fit=self.window_fit,
                fixed=self.shift_size is not None,
                mask_value=self.mask_value,
                pretrained_window=None if self.pretrained_window_size is None else self.pretrained_window_size[stage],
                dropout=self.attention_dropout,
                qkv_bias=self.qkv_bias,
            ),
            version=self.version,
            mlp_dim=int(self.dims(stage) * self.mlp_ratio),
            gelu=self.gelu,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            drop_path=self.drop_path * (sum(self.depths[:stage]) + i) / max(self.depth - 1, 1),
            rolled=i % 2 == 1,
            dtype=self.dtype,
            name=name,
        )

    def __call__(
        self,
        images: Float[Array, "b H W c"],
        *,
        train: bool,
        patch_tokens: bool = True,
        intermediates: Sequence[int] = (),
    ) -> Features:
        """Encode images `[B, H, W, C]` float of any size, normalised as in training.

        Images that the patch does not divide are padded with zeros below and to the right, as in Hugging Face's code;
        with `window_fit` `timm` their last rows and columns are left out, as there.
        The maps are the stages' outputs, at strides of 1, 2, 4, 8 .. patches; tokens are the last of them after
        LayerNorm, row by row, and pooled is their mean.

        Args:
            images: `[B, H, W, C]`.
            train: whether dropout and stochastic depth are on.
            patch_tokens: changes nothing, since the mean needs all of them.
            intermediates: numbers of the blocks whose outputs are wanted too, 1 to depth, or -depth to -1 from the end.

        Raises:
            InputError: the images have other channels than the model was made for, or do not fit a learned embedding,
                or there is no such block.
        """
        numbers = block_numbers(intermediates, self.depth)
        if self.window_fit != "timm":
            images = pad(images, self.extent_of((images.shape[1], images.shape[2])))
        x = self.embed_norm(self.patch_embed(images)).astype(self.dtype)  # [b, h, w, c]
        tokens = self.pos_embedding(x, jnp.zeros((x.shape[0], 0, self.embed_dim), x.dtype))
        x = self.embed_dropout(tokens, deterministic=not train).reshape(x.shape)
        maps, kept = [], []
        for stage, blocks in enumerate(self.stages):
            before = sum(self.depths[:stage])
            wanted = [number - before for number in numbers if before < number <= before + len(blocks)]
            x, outputs = run_stack(self, blocks, x, train=train, remat=self.remat, scan=self.scan, intermediates=wanted)
            maps.append(x)
            kept += outputs
            if stage < len(self.mergings):
                x = self.mergings[stage](x)
        tokens = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return Features(
            tokens=tokens,
            pooled=tokens.mean(axis=1),
            grid=x.shape[1:3],
            maps=tuple(maps),
            intermediates=tuple(kept),
        )


def _ceil(size: Sequence[int], by: Size) -> Size:
    return -(-size[0] // by[0]), -(-size[1] // by[1])


def create(variant: str, **overrides) -> Swin:
    """Make a Swin Transformer by name.

    Args:
        variant: a size of VARIANTS and a window, `"T/7"`, `"V2-B/16"`; any other window works too.
        **overrides: fields of `Swin` in place of the variant's. `patch_size` may be one number for both sides;
            `window_size`, `shift_size`, `pretrained_window_size` and `num_heads` one value for all stages or one for
            each; a window is one number for both sides, or rows and columns.

    Raises:
        InputError: an unknown variant, field or value.
    """
    match = re.fullmatch(r"((?:V2-)?\w)/([1-9]\d*)", str(variant))
    sizes = {name.partition("/")[0]: row for name, row in VARIANTS.items()}
    if match is None or match[1] not in sizes:
        raise InputError(
            f"swin has no variant {variant!r}; valid: {', '.join(VARIANTS)}, or one of these sizes "
            f"({', '.join(sizes)}) with another window, as in 'T/8'"
        )
    row = VARIANTS.get(match[0], sizes[match[1]])
    fields = {name: getattr(row, name) for name in ("embed_dim", "depths", "num_heads", "version")}
    fields["window_size"] = int(match[2])
    if match[0] in VARIANTS and not overrides.keys() & {"window_size", "depths", "version"}:
        fields["pretrained_window_size"] = row.pretrained_window_size
    fields = options.check_options("swin", Swin, fields | overrides, _RULES)
    fields["patch_size"] = _sides(fields.get("patch_size", 4))
    for name in _BY_STAGE & fields.keys():
        fields[name] = _by_stage(name, fields[name], len(fields["depths"]))
    for stage, heads in enumerate(fields["num_heads"]):
        dim = fields["embed_dim"] * 2**stage
        if fields.get("head_dim") is None and dim % heads:
            raise InputError(
                f"model.options.num_heads is {fields['num_heads']}; valid: at {stage}, a divisor of {dim} channels"
            )
    for shift, window in zip(fields.get("shift_size") or (), fields["window_size"], strict=False):
        if any(rows >= side for rows, side in zip(shift, window, strict=True)):
            raise InputError(f"model.options.shift_size is {shift} for windows of {window}; valid: less than a window")
    if fields["version"] == 1 and fields.get("pretrained_window_size") is not None:
        raise InputError("model.options.pretrained_window_size is an option of Swin V2; valid here: None")
    return Swin(**fields)


def _by_stage(name: str, value: Any, stages: int) -> tuple | None:
    """Return one value for each stage of an option that may be given once for all."""
    is_window = name != "num_heads"
    ok = functools.partial(_is_window, least=name != "shift_size") if is_window else options.is_count
    if value is None and name in ("shift_size", "pretrained_window_size"):
        return None
    each = (value,) * stages if isinstance(value, int) else value
    if not (isinstance(each, tuple) and len(each) == stages and all(map(ok, each))):
        what = "; a window is one number, or rows and columns" if is_window else ""
        valid = f"one for all stages, or one for each of {stages}{what}"
        raise InputError(f"model.options.{name} is {value!r}; valid: {valid}")
    return tuple(map(_sides, each)) if is_window else each


def _is_window(value: Any, least: int = 1) -> bool:
    sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    return all(options.is_whole(side, least) for side in sides)


def _sides(value: int | Sequence[int]) -> Size:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


_BY_STAGE = {"num_heads", "window_size", "shift_size", "pretrained_window_size"}
_RULES = (
    dict.fromkeys(("dropout", "attention_dropout", "drop_path"), options.RATE)
    | dict.fromkeys(("norm_eps", "embed_norm_eps", "mlp_ratio"), options.POSITIVE)
    | {
        "embed_dim": options.COUNT,
        "head_dim": options.COUNT_OR_NONE,
        "depths": options.STAGES,
        "patch_size": options.Rule(_is_window, "one number, or height and width in pixels"),
        "version": options.one_of((1, 2)),
        "posemb": options.one_of(POSEMB),
        "window_fit": options.one_of(windows.FITS),
        "mask_value": options.NUMBER,
        "gelu": options.one_of(GELU),
        "dtype": options.DTYPE,
        "remat": options.one_of(REMAT),
    }
)

_PAPER = "Liu et al. 2021 (arXiv:2103.14030), table 1, and the authors' MODELHUB.md"
_HUB = "the authors' MODELHUB.md (github.com/microsoft/Swin-Transformer)"

_T = (96, (2, 2, 6, 2), (3, 6, 12, 24))
_S = (96, (2, 2, 18, 2), (3, 6, 12, 24))
_B = (128, (2, 2, 18, 2), (4, 8, 16, 32))
_L = (192, (2, 2, 18, 2), (6, 12, 24, 48))
_FROM_12 = (12, 12, 12, 6)  # trained at 192 px first, where the last map has 6 x 6 patches

# params agree with the models of timm 1.0.31 and transformers 5.23, counted on PyTorch's meta device.
VARIANTS = {
    "T/7": Variant(*_T, 7, 224, 28_288_354, 28, 4.5, _PAPER),
    "S/7": Variant(*_S, 7, 224, 49_606_258, 50, 8.7, _PAPER),
    "B/7": Variant(*_B, 7, 224, 87_768_224, 88, 15.4, _PAPER),
    "B/12": Variant(*_B, 12, 384, 87_903_584, 88, 47.1, _PAPER),
    "L/7": Variant(*_L, 7, 224, 196_532_476, 197, 34.5, _HUB),
    "L/12": Variant(*_L, 12, 384, 196_735_516, 197, 103.9, _PAPER),
    "V2-T/8": Variant(*_T, 8, 256, 28_347_154, 28, 5.9, _HUB, 2),
    "V2-T/16": Variant(*_T, 16, 256, 28_347_154, 28, 6.6, _HUB, 2),
    "V2-S/8": Variant(*_S, 8, 256, 49_728_418, 50, 11.5, _HUB, 2),
    "V2-S/16": Variant(*_S, 16, 256, 49_728_418, 50, 12.6, _HUB, 2),
    "V2-B/8": Variant(*_B, 8, 256, 87_918_816, 88, 20.3, _HUB, 2),
    "V2-B/16": Variant(*_B, 16, 256, 87_918_816, 88, 21.8, _HUB, 2),
    "V2-B/24": Variant(*_B, 24, 384, 87_918_816, 88, 54.7, _HUB, 2, _FROM_12),
    "V2-L/16": Variant(*_L, 16, 256, 196_739_932, 197, 47.5, _HUB, 2, _FROM_12),
    "V2-L/24": Variant(*_L, 24, 384, 196_739_932, 197, 115.4, _HUB, 2, _FROM_12),
}
