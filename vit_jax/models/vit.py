"""The plain Vision Transformer.

Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words" (arXiv:2010.11929); sizes below and above it
from Touvron et al. 2020 (arXiv:2012.12877) and Zhai et al. 2021 (arXiv:2106.04560).
"""

import dataclasses
import math
import re
from collections.abc import Collection

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.layers.attention import ATTENTION, AttentionPooling, MultiHeadAttention
from vit_jax.layers.drop_path import DropPath
from vit_jax.layers.mlp import GELU, Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import POSEMB, PatchEmbed, PositionEmbedding
from vit_jax.layers.stack import REMAT, run_stack
from vit_jax.ops.patches import patch_grid
from vit_jax.types import Features

POOLING = ("token", "gap", "map")
FINAL_NORM = ("tokens", "pooled", "none")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of VARIANTS.

    params: parameters with the family's tokens, learned position embedding at 224 px and a head of 1,000 classes for
        each token that has one.
    paper_params_millions: what the source prints; `source` says what it counts.
    """

    hidden_dim: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: tuple[int, int]
    params: int
    paper_params_millions: float
    source: str


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with its residual.

    layer_scale: where the scales of the two residual branches, one a channel (`scale1`, `scale2` `[D]`), start;
        None is no scales.
    attention_scale: see `MultiHeadAttention.scale`.

    Source: Dosovitskiy et al. 2020, equations 2 and 3; the scales are LayerScale's (Touvron et al. 2021,
    arXiv:2103.17239, section 2).
    """

    num_heads: int
    mlp_dim: int
    gelu: str
    norm_eps: float
    dropout: float
    attention_dropout: float
    drop_path: float | Float[Array, ""]
    dtype: str
    qkv_bias: bool
    qk_norm: bool
    layer_scale: float | None
    attention: str
    attention_scale: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n dim"], *, train: bool, outputs: int | None = None
    ) -> Float[Array, "b m dim"]:
        """Maps tokens `[B, N, D]` to `[B, N, D]`, or, `outputs` given, to so many of the first, which attend to all."""
        y = LayerNorm(self.norm_eps, name="norm1")(x)
        attention = MultiHeadAttention(
            self.num_heads,
            self.attention_dropout,
            self.dtype,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            attention=self.attention if outputs is None else "xla",
            scale=self.attention_scale,
            name="attention",
        )
        y = attention(y[:, :outputs], y, train=train)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        x = x[:, :outputs] + DropPath(self.drop_path)(self._scaled(y, "scale1"), train=train)

        y = LayerNorm(self.norm_eps, name="norm2")(x)
        y = Mlp(self.mlp_dim, self.gelu, self.dropout, self.dtype, name="mlp")(y, train=train)
        return x + DropPath(self.drop_path)(self._scaled(y, "scale2"), train=train)

    def _scaled(self, y: Float[Array, "b n dim"], name: str) -> Float[Array, "b n dim"]:
        if self.layer_scale is None:
            return y
        return y * self.param(name, nn.initializers.constant(self.layer_scale), (y.shape[-1],)).astype(y.dtype)


def stack_macs(depth: int, tokens: int, dim: int, mlp_dim: int, outputs: int | None = None) -> int:
    """Multiply-adds of the matrix products of a stack of `EncoderBlock`s, for one sequence.

    outputs: how many tokens the last block gives; None is all.
    """

    def block(outputs: int) -> int:
        return 2 * tokens * dim**2 + outputs * dim * (2 * dim + 2 * mlp_dim) + 2 * outputs * tokens * dim

    return (depth - 1) * block(tokens) + block(tokens if outputs is None else outputs)


def stack_layer_number(path: str, depth: int, *, after: Collection[str]) -> int:
    """The `layer_number` of a parameter in an encoder with one stack of blocks.

    Args:
        path: within the encoder, `block_0/mlp/fc1/kernel`.
        depth: how many blocks there are.
        after: what the path of a parameter after them starts with.
    """
    name = path.partition("/")[0]
    if name.startswith("block_"):
        return int(name.removeprefix("block_")) + 1
    return depth + 1 if name in after else 0


class ViT(nn.Module):
    """The encoder: images to `Features`. `create` makes one by name.

    patch_size: height and width in pixels.
    hidden_dim, depth, mlp_dim, num_heads: the transformer's size.
    posemb: `learned`, `sincos2d`, `sincos1d` or `none`; see `PositionEmbedding`.
    prefix_posemb: whether a learned embedding covers the prefix tokens too (timm's `no_embed_class` is its opposite).
    pooling: `token` (the class token), `gap` (mean over the patches) or `map` (attention pooling).
    class_token: whether there is one; None means only where `pooling` is `token`.
    distillation_token: whether a second token follows the class token, whose own head learns from a teacher
        (DeiT; Touvron et al. 2020, arXiv:2012.12877, section 4).
    register_tokens: how many further prefix tokens there are (Darcet et al. 2023, arXiv:2309.16588).
    pre_norm: LayerNorm on the tokens before the first block, as in CLIP.
    final_norm: where the last LayerNorm is: on the `tokens`, on the `pooled` vector instead (timm's `fc_norm`), or
        `none`.
    representation_size: width of the pre-logits layer (dense and tanh) on the pooled vector; None is none.
    dropout: after the position embedding, each attention, and each dense layer of an MLP; in [0, 1).
    attention_dropout: on the attention weights; in [0, 1).
    drop_path: stochastic depth's rate at the last block, rising linearly from 0 at the first (so that a single
        block has none); in [0, 1).
    layer_scale: where LayerScale's factors start (1e-4 in DeiT III, 1e-5 in DINOv2); None is no LayerScale.
    patch_bias, qkv_bias: whether the patch projection, and query, key and value, have a bias.
    qk_norm: LayerNorm on each head's queries and keys.
    gelu: `tanh` (Google's checkpoints), `exact` (PyTorch's) or `quick` (OpenAI's CLIP).
    norm_eps: LayerNorm's epsilon; 1e-6 in Google's and timm's models, 1e-12 in Hugging Face's ViT.
    dtype: of matrix products and of the tokens between the blocks; parameters, LayerNorm and softmax are float32.
    attention: how the blocks' attention is computed, `auto`, `xla` or `cudnn`; see `MultiHeadAttention`. A last block
        that computes the prefix tokens alone has few queries and always `xla`.
    remat: what the backward pass computes again instead of keeping it: `none`, `full` or `dots`; see `REMAT`.
    scan: whether the blocks are compiled as one loop; see `run_stack`.

    The last three change neither parameters nor outputs.
    """

    patch_size: tuple[int, int]
    hidden_dim: int
    depth: int
    mlp_dim: int
    num_heads: int
    posemb: str = "learned"
    prefix_posemb: bool = True
    pooling: str = "token"
    class_token: bool | None = None
    distillation_token: bool = False
    register_tokens: int = 0
    pre_norm: bool = False
    final_norm: str = "tokens"
    representation_size: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float | None = None
    patch_bias: bool = True
    qkv_bias: bool = True
    qk_norm: bool = False
    gelu: str = "tanh"
    norm_eps: float = 1e-6
    dtype: str = "float32"
    attention: str = "auto"
    remat: str = "none"
    scan: bool = False

    @property
    def has_class_token(self) -> bool:
        """Whether the sequence starts with a class token."""
        return self.pooling == "token" if self.class_token is None else self.class_token

    @property
    def num_prefix_tokens(self) -> int:
        """How many tokens precede the patches: class, distillation, registers."""
        return int(self.has_class_token) + int(self.distillation_token) + self.register_tokens

    def layer_number(self, path: str) -> int:
        """Where a parameter is on the way from the image: 0 before the blocks, i in the i-th, depth + 1 after them.

        Args:
            path: within the encoder, `block_0/mlp/fc1/kernel`.
        """
        return stack_layer_number(path, self.depth, after=("norm", "fc_norm", "pool", "pre_logits"))

    def grid_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in an image of this height and width.

        Raises:
            InputError: the patch does not divide the image.
        """
        return patch_grid(image_size, self.patch_size)

    def flops(self, image_size: tuple[int, int], channels: int = 3, *, patch_tokens: bool = True) -> int:
        """FLOPs of the forward pass of one image `[H, W, channels]`, without a head; a training step takes three times.

        Counted are the matrix products alone, a multiply-add as two; "GFLOPs" in papers are often half of it.

        patch_tokens: see `__call__`.
        """
        patches = math.prod(side // patch for side, patch in zip(image_size, self.patch_size, strict=True))
        tokens, dim = patches + self.num_prefix_tokens, self.hidden_dim
        stem = patches * math.prod(self.patch_size) * channels * dim
        pool = 2 * (tokens + 1) * dim**2 + 2 * tokens * dim + 2 * dim * self.mlp_dim if self.pooling == "map" else 0
        outputs = None if self.scan else self._num_outputs(patch_tokens=patch_tokens)
        blocks = stack_macs(self.depth, tokens, dim, self.mlp_dim, outputs)
        return 2 * (stem + blocks + pool + dim * (self.representation_size or 0))

    def setup(self) -> None:
        """Makes the layers."""
        self.patch_embed = PatchEmbed(self.patch_size, self.hidden_dim, self.dtype, self.patch_bias)
        self.pos_embedding = PositionEmbedding(self.posemb, self.prefix_posemb)
        self.prefix = self._prefix_tokens()
        self.embed_dropout = nn.Dropout(self.dropout)
        self.blocks = [
            EncoderBlock(
                num_heads=self.num_heads,
                mlp_dim=self.mlp_dim,
                gelu=self.gelu,
                norm_eps=self.norm_eps,
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
                drop_path=self.drop_path * i / max(self.depth - 1, 1),
                dtype=self.dtype,
                qkv_bias=self.qkv_bias,
                qk_norm=self.qk_norm,
                layer_scale=self.layer_scale,
                attention=self.attention,
                name=f"block_{i}",
            )
            for i in range(self.depth)
        ]
        if self.pre_norm:
            self.norm_pre = LayerNorm(self.norm_eps)
        if self.final_norm == "tokens":
            self.norm = LayerNorm(self.norm_eps)
        elif self.final_norm == "pooled":
            self.fc_norm = LayerNorm(self.norm_eps)
        if self.pooling == "map":
            self.pool = AttentionPooling(self.num_heads, self.mlp_dim, self.gelu, self.norm_eps, self.dtype)
        if self.representation_size is not None:
            self.pre_logits = nn.Dense(self.representation_size, dtype=self.dtype)

    def _prefix_tokens(self) -> list[Float[Array, "1 p dim"]]:
        """The learned tokens that precede the patches, in their order."""
        normal, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
        tokens = (
            ("class_token", zeros, int(self.has_class_token)),
            ("distillation_token", normal, int(self.distillation_token)),
            ("registers", normal, self.register_tokens),
        )
        return [self.param(name, init, (1, count, self.hidden_dim)) for name, init, count in tokens if count]

    def __call__(self, images: Float[Array, "b H W c"], *, train: bool, patch_tokens: bool = True) -> Features:
        """Encodes images `[B, H, W, C]` float, normalised as in training.

        Args:
            images: `[B, H, W, C]`.
            train: whether dropout and stochastic depth are on.
            patch_tokens: whether the patches' tokens are wanted too; see `Features`. If not, and the pooled vector is
                the class token, the last block computes the prefix tokens alone, which is all that depends on it.

        Raises:
            InputError: the patch does not divide the image, or the image does not fit a learned embedding.
        """
        tokens = self.embed(images, train=train)
        grid = self.grid_of((images.shape[1], images.shape[2]))
        return self.encode(tokens, grid=grid, train=train, patch_tokens=patch_tokens)

    def embed(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b n dim"]:
        """Images to tokens with their positions: `[B, H, W, C]` to `[B, prefix + h * w, D]`."""
        x = self.patch_embed(images)  # [b, h, w, dim]
        prefix = jnp.concatenate([jnp.zeros((1, 0, self.hidden_dim)), *self.prefix], axis=1)
        prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape[1:])).astype(x.dtype)
        tokens = self.embed_dropout(self.pos_embedding(x, prefix), deterministic=not train)
        return self.norm_pre(tokens).astype(x.dtype) if self.pre_norm else tokens

    def encode(
        self,
        tokens: Float[Array, "b n dim"],
        *,
        grid: tuple[int, int] | None = None,
        train: bool,
        patch_tokens: bool = True,
    ) -> Features:
        """Tokens `[B, N, D]`, prefix first and any number of them, through the blocks and the pooling."""
        outputs = self._num_outputs(patch_tokens=patch_tokens)
        x = run_stack(self, self.blocks, tokens, train=train, remat=self.remat, scan=self.scan, outputs=outputs)
        if self.final_norm == "tokens":
            x = self.norm(x)
        return Features(tokens=x, pooled=self._pooled(x, train=train), grid=grid)

    def _num_outputs(self, *, patch_tokens: bool) -> int | None:
        """How many tokens the last block must give; None is all."""
        return None if patch_tokens or self.pooling != "token" else self.num_prefix_tokens

    def _pooled(self, x: Float[Array, "b n dim"], *, train: bool) -> Float[Array, "b dim"]:
        if self.pooling == "token":
            pooled = x[:, 0]
        elif self.pooling == "gap":
            pooled = x[:, self.num_prefix_tokens :].mean(axis=1)
        else:
            pooled = self.pool(x, train=train)
        if self.final_norm == "pooled":
            pooled = self.fc_norm(pooled)
        if self.representation_size is not None:
            pooled = jnp.tanh(self.pre_logits(pooled))
        return pooled


def create(variant: str, **overrides) -> ViT:
    """Makes a ViT by name, with any of its fields replaced.

    Args:
        variant: a size of VARIANTS and a patch size, `"B/16"`; any other patch works too, `"Ti/4"` or `"B/16x8"`
            (height x width).
        **overrides: fields of `ViT`; `patch_size` may be one number for both sides.

    Raises:
        InputError: an unknown variant, field or value.
    """
    match = re.fullmatch(r"(\w+)/(\d+)(?:x(\d+))?", str(variant))
    rows = {name.partition("/")[0]: row for name, row in VARIANTS.items()}
    if match is None or match[1] not in rows or not int(match[2]) or match[3] == "0":
        raise InputError(
            f"vit has no variant {variant!r}; valid: {', '.join(VARIANTS)}, or one of these sizes "
            f"({', '.join(rows)}) with another patch, as in 'Ti/4' or 'B/16x8'"
        )
    row = rows[match[1]]
    fields = {
        "hidden_dim": row.hidden_dim,
        "depth": row.depth,
        "mlp_dim": row.mlp_dim,
        "num_heads": row.num_heads,
        "patch_size": (int(match[2]), int(match[3] or match[2])),
    } | overrides
    if isinstance(fields["patch_size"], int):
        fields["patch_size"] = (fields["patch_size"],) * 2
    elif isinstance(fields["patch_size"], list):  # as JSON and configs have it
        fields["patch_size"] = tuple(fields["patch_size"])
    _check(fields)
    return ViT(**fields)


_RULES = (
    dict.fromkeys(("hidden_dim", "depth", "mlp_dim", "num_heads"), options.COUNT)
    | dict.fromkeys(("dropout", "attention_dropout", "drop_path"), options.RATE)
    | {
        "patch_size": options.SIZE,
        "class_token": options.FLAG_OR_NONE,
        "representation_size": options.COUNT_OR_NONE,
        "norm_eps": options.POSITIVE,
        "register_tokens": options.COUNT_OR_0,
        "layer_scale": options.POSITIVE_OR_NONE,
        "posemb": options.one_of(POSEMB),
        "pooling": options.one_of(POOLING),
        "final_norm": options.one_of(FINAL_NORM),
        "gelu": options.one_of(GELU),
        "dtype": options.DTYPE,
        "attention": options.one_of(ATTENTION),
        "remat": options.one_of(REMAT),
    }
)


def _check(fields: dict) -> None:
    """Raises InputError for a field that ViT lacks or a value out of its range."""
    options.check_options("vit", ViT, fields, _RULES)
    if fields["hidden_dim"] % fields["num_heads"]:
        raise InputError(
            f"model.hidden_dim {fields['hidden_dim']} is not divisible by model.num_heads {fields['num_heads']}"
        )
    if fields.get("pooling", "token") == "token" and fields.get("class_token") is False:
        raise InputError("model.pooling 'token' needs model.class_token; valid without one: gap, map")
    has_class_token = fields.get("class_token")
    if has_class_token is None:
        has_class_token = fields.get("pooling", "token") == "token"
    if fields.get("distillation_token") and not has_class_token:
        raise InputError("model.distillation_token needs model.class_token, which it follows")


_VIT = "Dosovitskiy et al. 2020 (arXiv:2010.11929), table 1, with the head"
_VIT_TRUNK = "Dosovitskiy et al. 2020 (arXiv:2010.11929), table 1, fits the count without the head"
_SCALING = "Zhai et al. 2021 (arXiv:2106.04560), table 2, without the head"

# params agree with timm 1.0.31's models of the same geometry, counted on PyTorch's meta device.
VARIANTS = {
    "Ti/16": Variant(192, 12, 768, 3, (16, 16), 5_717_416, 5.5, _SCALING),
    "S/16": Variant(384, 12, 1536, 6, (16, 16), 22_050_664, 22, _SCALING),
    "S/32": Variant(384, 12, 1536, 6, (32, 32), 22_878_952, 22, _SCALING),
    "B/8": Variant(768, 12, 3072, 12, (8, 8), 86_576_872, 86, _VIT_TRUNK),
    "B/16": Variant(768, 12, 3072, 12, (16, 16), 86_567_656, 86, _SCALING),
    "B/32": Variant(768, 12, 3072, 12, (32, 32), 88_224_232, 87, _SCALING),
    "L/16": Variant(1024, 24, 4096, 16, (16, 16), 304_326_632, 303, _SCALING),
    "L/32": Variant(1024, 24, 4096, 16, (32, 32), 306_535_400, 307, _VIT),
    "H/14": Variant(1280, 32, 5120, 16, (14, 14), 632_045_800, 632, _VIT),
    "g/14": Variant(1408, 40, 6144, 16, (14, 14), 1_012_611_432, 1011, _SCALING),
    "G/14": Variant(1664, 48, 8192, 16, (14, 14), 1_844_440_680, 1843, _SCALING),
}
