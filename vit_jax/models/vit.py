"""The plain Vision Transformer.

Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words" (arXiv:2010.11929); sizes below and above it
from Touvron et al. 2020 (arXiv:2012.12877) and Zhai et al. 2021 (arXiv:2106.04560).
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.layers.attention import ATTENTION, AttentionPooling
from vit_jax.layers.mlp import GELU
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import POSEMB, PatchEmbed, PositionEmbedding
from vit_jax.layers.stack import REMAT, block_numbers, run_stack
from vit_jax.layers.transformer import EncoderBlock, stack_layer_number, stack_macs
from vit_jax.ops.patches import patch_grid
from vit_jax.types import Features

POOLING = ("token", "gap", "map")
FINAL_NORM = ("tokens", "pooled", "none")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of VARIANTS.

    hidden_dim: width of a token.
    depth: number of blocks.
    mlp_dim: hidden units of the MLPs.
    num_heads: of the attention.
    patch_size: height and width in pixels.
    params: parameters with the family's tokens, learned position embedding at 224 px and a head of 1,000 classes for
        each token that has one.
    paper_params_millions: figure that the source prints; `source` says what it counts.
    source: paper and table.
    """

    hidden_dim: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: tuple[int, int]
    params: int
    paper_params_millions: float
    source: str


class ViT(nn.Module):
    """The encoder: images to `Features`. `create` makes one by name.

    patch_size: height and width of a patch in pixels; one number is both.
    hidden_dim: width of a token.
    depth: number of blocks.
    mlp_dim: hidden units of the blocks' MLPs.
    num_heads: heads of the blocks' attention, which divide `hidden_dim`.
    posemb: position embedding: `learned`, `sincos2d`, `sincos2d_mae`, `sincos1d` or `none`; see `PositionEmbedding`.
    prefix_posemb: whether a learned position embedding covers the prefix tokens too; False is timm's `no_embed_class`.
    pooling: how one vector is made of the tokens: `token` takes the class token, `gap` the mean over the patches, `map`
        attention pooling.
    class_token: whether there is a class token; None is only where `pooling` is `token`.
    distillation_token: whether a second token follows the class token, whose own head learns from a teacher
        (DeiT; Touvron et al. 2020, arXiv:2012.12877, section 4).
    register_tokens: number of further prefix tokens (Darcet et al. 2023, arXiv:2309.16588).
    pre_norm: whether LayerNorm is applied to the tokens before the first block, as in CLIP.
    final_norm: what the last LayerNorm is applied to: the `tokens`, the `pooled` vector (timm's `fc_norm`), or `none`.
    representation_size: width of a dense layer with tanh on the pooled vector; None is no such layer.
    dropout: rate after the position embedding, each attention, and each dense layer of an MLP; in [0, 1).
    attention_dropout: rate on the attention weights; in [0, 1).
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first (so that a single
        block has none); in [0, 1).
    layer_scale: initial value of LayerScale's factors (1e-4 in DeiT III, 1e-5 in DINOv2); None is no LayerScale.
    patch_bias: whether the projection of the patches has a bias.
    qkv_bias: whether query, key and value have a bias.
    qk_norm: whether LayerNorm is applied to each head's queries and keys.
    gelu: `tanh` (Google's checkpoints), `exact` (PyTorch's) or `quick` (OpenAI's CLIP).
    norm_eps: epsilon of LayerNorm; 1e-6 in Google's and timm's models, 1e-12 in Hugging Face's ViT.
    dtype: of matrix products and of the tokens between the blocks; parameters, LayerNorm and softmax are float32.
    attention: how the blocks' attention is computed: `auto`, `xla` or `cudnn`; see `MultiHeadAttention`. A last block
        that computes the prefix tokens alone has few queries and always uses `xla`.
    remat: what the backward pass computes again instead of keeping it: `none`, `full` or `dots`; see `stack.REMAT`.
    scan: whether the blocks are compiled as one loop; see `run_stack`.

    `attention`, `remat` and `scan` change neither parameters nor outputs.
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

    _patches_are_pixels = True  # else PatchEmbed sees features

    @property
    def has_class_token(self) -> bool:
        """Whether the sequence starts with a class token."""
        return self.pooling == "token" if self.class_token is None else self.class_token

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: class, distillation, registers."""
        return int(self.has_class_token) + int(self.distillation_token) + self.register_tokens

    def layer_number(self, path: str) -> int:
        """Return a parameter's place between image and output: 0 before the blocks, i in the i-th, depth + 1 after.

        Args:
            path: within the encoder, `block_0/mlp/fc1/kernel`.
        """
        return stack_layer_number(path, self.depth, after=("norm", "fc_norm", "pool", "pre_logits"))

    def grid_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches in an image of this height and width.

        Raises:
            InputError: the image is smaller than a patch.
        """
        return patch_grid(image_size, self.patch_size)

    def extent_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width in pixels of what the patches cover of an image, from its top left corner.

        Example:
            >>> create("B/14").extent_of((384, 384))
            (378, 378)
        """
        rows, columns = self.grid_of(image_size)
        return rows * self.patch_size[0], columns * self.patch_size[1]

    def flops(self, image_size: tuple[int, int], channels: int = 3, *, patch_tokens: bool = True) -> int:
        """Count the FLOPs of the forward pass of one image, without a head; a training step takes three times as many.

        Only matrix products count, a multiply-add as two; "GFLOPs" in papers are often half of it.

        Args:
            image_size: height and width in pixels.
            channels: of the image.
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
        """Make the layers."""
        self.patch_embed = PatchEmbed(
            self.patch_size, self.hidden_dim, self.dtype, self.patch_bias, is_stem=self._patches_are_pixels
        )
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
        """Make the learned tokens before the patches, in their order."""
        normal, zeros = nn.initializers.normal(0.02), nn.initializers.zeros
        tokens = (
            ("class_token", zeros, int(self.has_class_token)),
            ("distillation_token", normal, int(self.distillation_token)),
            ("registers", normal, self.register_tokens),
        )
        return [self.param(name, init, (1, count, self.hidden_dim)) for name, init, count in tokens if count]

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
            patch_tokens: whether the patches' tokens are wanted too; see `Features`. If not, and the pooled vector is
                the class token, the last block computes the prefix tokens alone, since the patches' are not needed.
            intermediates: numbers of the blocks whose outputs are wanted too, 1 to depth, or -depth to -1 from the end.

        Raises:
            InputError: the image is smaller than a patch, it does not fit a learned embedding, or there is no such
                block.
        """
        tokens = self.embed(images, train=train)
        grid = self.grid_of((images.shape[1], images.shape[2]))
        return self.encode(tokens, grid=grid, train=train, patch_tokens=patch_tokens, intermediates=intermediates)

    def embed(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b n dim"]:
        """Make tokens with their positions: `[B, H, W, C]` to `[B, prefix + h * w, D]`, patches row by row."""
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
        intermediates: Sequence[int] = (),
    ) -> Features:
        """Pass tokens through the blocks, the last norm and the pooling.

        Args:
            tokens: `[B, N, D]`, as `embed` gives them: the prefix tokens first, then any of the patches in any order,
                or tokens of another kind.
            grid: rows and columns of the patches if all are there; see `Features`.
            train: whether dropout and stochastic depth are on.
            patch_tokens: see `__call__`.
            intermediates: see `__call__`.

        Raises:
            InputError: there is no such block.
        """
        stacked = run_stack(
            self,
            self.blocks,
            tokens,
            train=train,
            remat=self.remat,
            scan=self.scan,
            outputs=self._num_outputs(patch_tokens=patch_tokens),
            intermediates=block_numbers(intermediates, self.depth),
        )
        x = self.norm(stacked.x) if self.final_norm == "tokens" else stacked.x
        return Features(tokens=x, pooled=self._pooled(x, train=train), grid=grid, intermediates=stacked.intermediates)

    def _num_outputs(self, *, patch_tokens: bool) -> int | None:
        """Return the number of tokens that the last block must compute; None is all."""
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
    """Make a ViT by name.

    Args:
        variant: a size of VARIANTS and a patch size, `"B/16"`; any other patch works too, `"Ti/4"` or `"B/16x8"`
            (height x width).
        **overrides: fields of `ViT` in place of the variant's; `patch_size` may be one number for both sides.

    Raises:
        InputError: an unknown variant, field or value.

    Example:
        >>> create("B/16", drop_path=0.1).depth
        12
    """
    match = re.fullmatch(r"(\w+)/(\d+)(?:x(\d+))?", str(variant))
    rows = {name.partition("/")[0]: row for name, row in VARIANTS.items()}
    if match is None or match[1] not in rows or not int(match[2]) or match[3] == "0":
        raise InputError(
            f"vit has no variant {variant!r}; valid: {', '.join(VARIANTS)}, or one of these sizes "
            f"({', '.join(rows)}) with another patch, as in 'Ti/4' or 'B/16x8'"
        )
    row = rows[match[1]]
    patch_size = (int(match[2]), int(match[3] or match[2]))
    fields = {name: getattr(row, name) for name in ("hidden_dim", "depth", "mlp_dim", "num_heads")}
    fields = options.check_options("vit", ViT, {**fields, "patch_size": patch_size} | overrides, _RULES)
    if isinstance(fields["patch_size"], int):
        fields["patch_size"] = (fields["patch_size"],) * 2
    _check(fields)
    return ViT(**fields)


_PATCH = options.Rule(lambda x: options.is_count(x) or options.SIZE.ok(x), "height and width in pixels")
_RULES = (
    dict.fromkeys(("hidden_dim", "depth", "mlp_dim", "num_heads"), options.COUNT)
    | dict.fromkeys(("dropout", "attention_dropout", "drop_path"), options.RATE)
    | {
        "patch_size": _PATCH,
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
    """Raise InputError for options that do not fit one another."""
    options.check_divisible(fields, "hidden_dim", "num_heads")
    if fields.get("pooling", "token") == "token" and fields.get("class_token") is False:
        raise InputError("model.options.pooling 'token' needs model.options.class_token; valid without one: gap, map")
    has_class_token = fields.get("class_token")
    if has_class_token is None:
        has_class_token = fields.get("pooling", "token") == "token"
    if fields.get("distillation_token") and not has_class_token:
        raise InputError("model.options.distillation_token needs model.options.class_token, which it follows")


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
