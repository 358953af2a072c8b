"""The Pyramid Vision Transformer, version 1 and 2: four stages of ever fewer and wider tokens.

Source: Wang et al. 2021, "Pyramid Vision Transformer" (arXiv:2102.12122), and Wang et al. 2021, "PVT v2: Improved
Baselines with Pyramid Vision Transformer" (arXiv:2106.13797); the authors' classification/pvt.py and pvt_v2.py.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.layers.attention import ATTENTION, MultiHeadAttention
from vit_jax.layers.depthwise import ACTIVATIONS, DepthwiseMlp
from vit_jax.layers.drop_path import DropPath
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import PositionEmbedding
from vit_jax.layers.spatial_reduction import LINEAR_GRID, Convolution, SpatialReduction, windows
from vit_jax.layers.stack import REMAT, block_numbers, run_stack
from vit_jax.types import Features


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of VARIANTS; patch sizes, strides and reductions are those of `PVT`.

    params: parameters at 224 px with a head of 1,000 classes.
    paper_params_millions: figure of the source's table of ImageNet results.
    paper_gflops: figure of the same table. Its FLOPs are multiply-adds, half of what `PVT.flops` counts.
    source: paper and tables.
    linear_attention: see `PVT`, as for the others.
    """

    version: int
    hidden_dims: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    params: int
    paper_params_millions: float
    paper_gflops: float
    source: str
    linear_attention: bool = False
    num_heads: tuple[int, ...] = (1, 2, 5, 8)


class PyramidBlock(nn.Module):
    """Pre-norm transformer block whose keys and values are reduced; the fields are those of `PVT`, of one stage.

    Source: Wang et al. 2021 (arXiv:2102.12122), section 3.3; (arXiv:2106.13797), section 3.
    """

    num_heads: int
    mlp_dim: int
    reduction: int
    linear_attention: bool
    depthwise: bool
    activation: str
    norm_eps: float
    embed_norm_eps: float
    dropout: float
    attention_dropout: float
    drop_path: float | Float[Array, ""]
    dtype: str
    qkv_bias: bool
    attention: str

    @nn.compact
    def __call__(self, x: Float[Array, "b ... dim"], *, train: bool) -> Float[Array, "b ... dim"]:
        """Map `[B, h, w, D]`, or `[B, N, D]` where there is neither reduction nor convolution, to the same shape."""
        roles.declare_block(self)
        y = LayerNorm(self.norm_eps, name="norm1")(x).astype(self.dtype)
        memory = None
        if self.reduction > 1 or self.linear_attention:
            reduce = SpatialReduction(
                self.reduction, self.linear_attention, self.embed_norm_eps, self.dtype, name="reduction"
            )
            memory = reduce(y).astype(self.dtype)
        attention = MultiHeadAttention(
            self.num_heads,
            self.attention_dropout,
            self.dtype,
            qkv_bias=self.qkv_bias,
            attention=self.attention,
            name="attention",
        )
        y = attention(y.reshape(x.shape[0], -1, x.shape[-1]), memory, train=train).reshape(x.shape)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        x = x + DropPath(self.drop_path)(y, train=train)

        y = LayerNorm(self.norm_eps, name="norm2")(x)
        mlp = DepthwiseMlp(
            self.mlp_dim,
            self.activation,
            depthwise=self.depthwise,
            extra_relu=self.depthwise and self.linear_attention,
            dropout=self.dropout,
            dtype=self.dtype,
            name="mlp",
        )
        return x + DropPath(self.drop_path)(mlp(y, train=train), train=train)


class PVT(nn.Module):
    """The encoder: images to `Features`, with a map from each stage. `create` makes one by name.

    Its maps are the stages' outputs. Those of version 2 have been through the stage's norm; in version 1, where only
    the tokens at the end have one, they have not (as in the authors' detection/pvt.py), and the last map is without the
    class token.

    version: 1 (learned position embeddings, a class token in the last stage, which is the pooled vector) or 2
        (overlapping patches, a norm after each stage, a depth-wise convolution in each MLP, and the mean as the pooled
        vector).
    hidden_dims: width of the tokens of each stage.
    depths: number of blocks of each stage.
    num_heads: attention heads of each stage, which divide its width.
    mlp_ratios: hidden units of each stage's MLPs for each channel.
    reductions: for each stage, the side of the cells that keys and values are reduced to, in cells of the map.
    patch_sizes: for each stage, the side of its patches in pixels, or in cells of the map before. In version 2 the map
        is padded by half a patch of zeros.
    strides: for each stage, the distance of its patches, likewise.
    linear_attention: whether version 2 attends to 7 x 7 cells, for maps of any size and without `reductions`.
    dropout: rate after the position embedding, each attention, and each dense layer of an MLP; in [0, 1).
    attention_dropout: rate on the attention weights; in [0, 1).
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first; in [0, 1).
    qkv_bias: whether query, key and value have a bias.
    activation: of the MLPs, a row of ACTIVATIONS; the authors' is `exact`, the exact GELU.
    norm_eps: epsilon of LayerNorm in the blocks and after them.
    embed_norm_eps: epsilon of LayerNorm after the patch embeddings and in the reduction of keys and values. The
        authors' and timm's code has PyTorch's default there, Hugging Face's the same as elsewhere.
    dtype: of matrix products and of the tokens between the blocks; parameters, LayerNorm and softmax are float32.
    attention: how the blocks' attention is computed: `auto`, `xla` or `cudnn`; see `MultiHeadAttention`.
    remat: what the backward pass computes again instead of keeping it: `none`, `full` or `dots`; see `stack.REMAT`.
    scan: whether the blocks of a stage are compiled as one loop; see `run_stack`.

    `attention`, `remat` and `scan` change neither parameters nor outputs. Attention's and dense kernels start
    Xavier-uniform as everywhere in this library; the authors' are normal with deviation 0.02.
    """

    version: int
    hidden_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratios: tuple[float, ...]
    reductions: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    linear_attention: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    qkv_bias: bool = True
    activation: str = "exact"
    norm_eps: float = 1e-6
    embed_norm_eps: float = 1e-5
    dtype: str = "float32"
    attention: str = "auto"
    remat: str = "none"
    scan: bool = False

    @property
    def depth(self) -> int:
        """The number of blocks of all stages."""
        return sum(self.depths)

    @property
    def hidden_dim(self) -> int:
        """The width of the tokens at the end."""
        return self.hidden_dims[-1]

    def layer_number(self, path: str) -> int:
        """Return a parameter's place between image and output: 0 before the blocks, i in the i-th, depth + 1 after.

        What a later stage begins with counts to its first block, and a norm at a stage's end to its last.

        Args:
            path: within the encoder, `block_0/mlp/fc1/kernel`.
        """
        name, _, number = path.partition("/")[0].rpartition("_")
        if name == "block":
            return int(number) + 1
        if name == "norm":
            return sum(self.depths[: int(number) + 1])
        if path.startswith("norm/"):
            return self.depth + 1
        stage = len(self.depths) - 1 if path == "class_token" else int(number) if number.isdigit() else 0
        return sum(self.depths[:stage]) + 1 if stage else 0

    def grids(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the height and width of each stage's map."""
        grids = [image_size]
        for size, stride in zip(self.patch_sizes, self.strides, strict=True):
            grids.append(windows(grids[-1], size, stride, self._padding(size)))
        return grids[1:]

    def flops(self, image_size: tuple[int, int], channels: int = 3, *, patch_tokens: bool = True) -> int:
        """Count the FLOPs of the forward pass of one image, without a head; a training step takes three times as many.

        Only matrix products and convolutions count, a multiply-add as two; the papers' figures are half of it.

        Args:
            image_size: height and width in pixels.
            channels: of the image.
            patch_tokens: see `__call__`.
        """
        total = 0
        for stage, grid in enumerate(self.grids(image_size)):
            dim, ratio = self.hidden_dims[stage], self.reductions[stage]
            places = math.prod(grid)
            total += places * self.patch_sizes[stage] ** 2 * channels * dim
            tokens = places + int(self._has_class_token(stage))
            keys, reduction = tokens, 0
            if self.linear_attention:
                keys = math.prod(LINEAR_GRID)
                reduction = keys * dim**2
            elif ratio > 1:
                keys = math.prod(windows(grid, ratio, ratio))
                reduction = keys * (ratio * dim) ** 2
            projections = 2 * (tokens + keys) * dim**2
            mlp_dim = self._mlp_dim(stage)
            mlp = tokens * mlp_dim * (2 * dim + (9 if self.version == 2 else 0))
            total += self.depths[stage] * (reduction + projections + 2 * tokens * keys * dim + mlp)
            channels = dim
        return 2 * total

    def _padding(self, patch_size: int) -> int:
        return patch_size // 2 if self.version == 2 else 0

    def _mlp_dim(self, stage: int) -> int:
        return int(self.hidden_dims[stage] * self.mlp_ratios[stage])

    def _has_class_token(self, stage: int) -> bool:
        return self.version == 1 and stage == len(self.depths) - 1

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b H W c"],
        *,
        train: bool,
        patch_tokens: bool = True,
        intermediates: Sequence[int] = (),
    ) -> Features:
        """Encode images `[B, H, W, C]` float, normalised as in training.

        Args:
            images: `[B, H, W, C]`.
            train: whether dropout and stochastic depth are on.
            patch_tokens: changes nothing, since the last stage has few tokens.
            intermediates: numbers of the blocks whose outputs are wanted too, 1 to depth, or -depth to -1 from the end.
                They are maps `[B, h, w, C]` without the class token.

        Raises:
            InputError: the images are too small or do not fit a learned position embedding, or there is no such block.
        """
        numbers = block_numbers(intermediates, self.depth)
        x, maps, kept, tokens = images, [], [], None
        for stage in range(len(self.depths)):
            x = self._embed(x, stage)  # [b, h, w, dim]
            grid = (x.shape[1], x.shape[2])
            if self.version == 1:
                x = self._with_positions(x, stage, train=train)
            before = sum(self.depths[:stage])
            wanted = [number - before for number in numbers if before < number <= before + self.depths[stage]]
            x, outputs = run_stack(
                self,
                self._blocks(stage),
                x,
                train=train,
                remat=self.remat,
                scan=self.scan,
                intermediates=wanted,
            )
            kept += [self._as_map(output, stage, grid) for output in outputs]
            is_last = stage == len(self.depths) - 1
            tokens = x
            if self.version == 2 or is_last:
                tokens = LayerNorm(self.norm_eps, name="norm" if is_last else f"norm_{stage}")(x)
            if self.version == 2:
                x = tokens
            elif is_last:
                x = self._as_map(x, stage, grid)
            maps.append(x)
        assert tokens is not None
        tokens = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
        pooled = tokens[:, 0] if self.version == 1 else tokens.mean(axis=1)
        return Features(tokens=tokens, pooled=pooled, grid=grid, maps=tuple(maps), intermediates=tuple(kept))

    def _as_map(self, x: Float[Array, "b ... dim"], stage: int, grid: tuple[int, int]) -> Float[Array, "b h w dim"]:
        """Return a block's output without the class token."""
        return x[:, 1:].reshape(x.shape[0], *grid, -1) if self._has_class_token(stage) else x

    def _embed(self, x: Float[Array, "b H W c"], stage: int) -> Float[Array, "b h w dim"]:
        size = self.patch_sizes[stage]
        embed = Convolution(
            self.hidden_dims[stage],
            size,
            self.strides[stage],
            self._padding(size),
            self.dtype,
            is_stem=stage == 0,
            name="patch_embed" if stage == 0 else f"patch_embed_{stage}",
        )
        return LayerNorm(self.embed_norm_eps, name=f"patch_norm_{stage}")(embed(x)).astype(self.dtype)

    def _with_positions(self, x: Float[Array, "b h w dim"], stage: int, *, train: bool) -> Float[Array, "b ... dim"]:
        """Add the positions to a map, and makes tokens of it in version 1's last stage: `[B, 1 + h * w, D]`."""
        prefix = jnp.zeros((x.shape[0], 0, x.shape[-1]), x.dtype)
        if self._has_class_token(stage):
            token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, x.shape[-1]))
            prefix = jnp.broadcast_to(token, (x.shape[0], 1, x.shape[-1])).astype(x.dtype)
        tokens = PositionEmbedding(name=f"pos_embedding_{stage}")(x, prefix)
        tokens = nn.Dropout(self.dropout, deterministic=not train)(tokens)
        return tokens if self._has_class_token(stage) else tokens.reshape(x.shape)

    def _blocks(self, stage: int) -> list[PyramidBlock]:
        first = sum(self.depths[:stage])
        return [
            PyramidBlock(
                num_heads=self.num_heads[stage],
                mlp_dim=self._mlp_dim(stage),
                reduction=self.reductions[stage],
                linear_attention=self.linear_attention,
                depthwise=self.version == 2,
                activation=self.activation,
                norm_eps=self.norm_eps,
                embed_norm_eps=self.embed_norm_eps,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                drop_path=self.drop_path * i / max(self.depth - 1, 1),
                dtype=self.dtype,
                qkv_bias=self.qkv_bias,
                attention=self.attention,
                name=f"block_{i}",
            )
            for i in range(first, first + self.depths[stage])
        ]


_BY_STAGE = ("hidden_dims", "num_heads", "mlp_ratios", "reductions", "patch_sizes", "strides")


def create(variant: str, **overrides) -> PVT:
    """Make a PVT by name.

    Args:
        variant: a row of VARIANTS.
        **overrides: fields of `PVT` in place of the variant's.

    Raises:
        InputError: an unknown variant, field or value.
    """
    if variant not in VARIANTS:
        raise InputError(f"pvt has no variant {variant!r}; valid: {', '.join(VARIANTS)}")
    row = VARIANTS[variant]
    fields: dict[str, Any] = {
        "version": row.version,
        "hidden_dims": row.hidden_dims,
        "depths": row.depths,
        "num_heads": row.num_heads,
        "mlp_ratios": row.mlp_ratios,
        "reductions": (8, 4, 2, 1),
        "linear_attention": row.linear_attention,
    }
    fields = options.check_options("pvt", PVT, fields | overrides, _RULES)
    fields = {"patch_sizes": (4, 2, 2, 2) if fields["version"] == 1 else (7, 3, 3, 3), "strides": (4, 2, 2, 2)} | fields
    _check(fields)
    return PVT(**fields)


_RULES = (
    dict.fromkeys(("dropout", "attention_dropout", "drop_path"), options.RATE)
    | dict.fromkeys(("norm_eps", "embed_norm_eps"), options.POSITIVE)
    | {
        "depths": options.STAGES,
        "version": options.one_of((1, 2)),
        "activation": options.one_of(ACTIVATIONS),
        "dtype": options.DTYPE,
        "attention": options.one_of(ATTENTION),
        "remat": options.one_of(REMAT),
    }
)


def _check(fields: dict[str, Any]) -> None:
    """Raise InputError for options that do not fit the stages or one another."""
    stages = len(fields["depths"])
    rules: dict[str, options.Rule] = dict.fromkeys(_BY_STAGE, options.counts(stages))
    rules["mlp_ratios"] = options.Rule(
        lambda x: isinstance(x, tuple) and len(x) == stages and all(map(options.POSITIVE.ok, x)),
        f"{stages} numbers above 0, one for each of model.options.depths",
    )
    options.check_options("pvt", PVT, fields, rules)
    for dim, heads in zip(fields["hidden_dims"], fields["num_heads"], strict=True):
        if dim % heads:
            raise InputError(f"model.options.hidden_dims {dim} is not divisible by model.options.num_heads {heads}")
    if fields["version"] == 1 and fields["linear_attention"]:
        raise InputError("model.options.linear_attention is of version 2; valid for version 1: False")
    if fields["version"] == 1 and fields["reductions"][-1] != 1:
        raise InputError(
            f"model.options.reductions ends with {fields['reductions'][-1]}; valid for version 1, whose last stage has "
            "a class token: 1"
        )


_V1 = "Wang et al. 2021 (arXiv:2102.12122), tables 1 and 2"
_V2 = "Wang et al. 2021 (arXiv:2106.13797), tables 1 and 2"
_WIDE, _NARROW = (64, 128, 320, 512), (32, 64, 160, 256)
_8844, _4444 = (8, 8, 4, 4), (4, 4, 4, 4)

# params agree with transformers 5.23's PvtForImageClassification and timm 1.0.31's pvt_v2_*, on the meta device.
VARIANTS = {
    "Tiny": Variant(1, _WIDE, (2, 2, 2, 2), _8844, 13_229_288, 13.2, 1.9, _V1),
    "Small": Variant(1, _WIDE, (3, 4, 6, 3), _8844, 24_485_864, 24.5, 3.8, _V1),
    "Medium": Variant(1, _WIDE, (3, 4, 18, 3), _8844, 44_208_104, 44.2, 6.7, _V1),
    "Large": Variant(1, _WIDE, (3, 8, 27, 3), _8844, 61_369_320, 61.4, 9.8, _V1),
    "B0": Variant(2, _NARROW, (2, 2, 2, 2), _8844, 3_666_760, 3.4, 0.6, f"{_V2}, which counts no head here"),
    "B1": Variant(
        2, _WIDE, (2, 2, 2, 2), _8844, 14_009_000, 13.1, 2.1, f"{_V2}; 13.5 million without the head, 14.0 with it"
    ),
    "B2-Li": Variant(2, _WIDE, (3, 4, 6, 3), _8844, 22_553_512, 22.6, 3.9, _V2, linear_attention=True),
    "B2": Variant(2, _WIDE, (3, 4, 6, 3), _8844, 25_362_856, 25.4, 4.0, _V2),
    "B3": Variant(2, _WIDE, (3, 4, 18, 3), _8844, 45_238_696, 45.2, 6.9, _V2),
    "B4": Variant(2, _WIDE, (3, 8, 27, 3), _8844, 62_556_072, 62.6, 10.1, _V2),
    "B5": Variant(2, _WIDE, (3, 6, 40, 3), _4444, 81_956_008, 82.0, 11.8, _V2),
}
