"""T2T-ViT: a ViT, deeper and narrower, whose tokens come out of a tokens-to-token module instead of single patches.

Source: Yuan et al. 2021, "Tokens-to-Token ViT" (arXiv:2101.11986); the authors' code, yitu-opensource/T2T-ViT.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.layers.attention import ATTENTION
from vit_jax.layers.mlp import GELU
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import PositionEmbedding
from vit_jax.layers.stack import REMAT, block_numbers, run_stack
from vit_jax.layers.tokens_to_token import SPLITS, TOKENS_TYPES, TokensToToken, split_grids
from vit_jax.layers.transformer import EncoderBlock, stack_layer_number, stack_macs
from vit_jax.ops import posemb
from vit_jax.types import Features

POSEMB = ("sincos1d", "learned")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of VARIANTS.

    tokens_type: attention within the tokens-to-token module.
    hidden_dim: width of a token of the backbone.
    depth: number of blocks.
    mlp_dim: hidden units of the MLPs.
    num_heads: of the backbone's attention.
    params: parameters with a head of 1,000 classes, the Performer's fixed features among them.
    paper_params_millions: figure that the source prints, which counts the fixed position table at 224 px too.
    paper_gmacs: multiply-adds at 224 px, in 1e9, as the source prints them.
    source: paper and code.
    """

    tokens_type: str
    hidden_dim: int
    depth: int
    mlp_dim: int
    num_heads: int
    params: int
    paper_params_millions: float
    paper_gmacs: float
    source: str


class T2TViT(nn.Module):
    """The encoder: images to `Features`. `create` makes one by name.

    tokens_type: attention within the tokens-to-token module: `performer` or `transformer`.
    hidden_dim: width of a token of the backbone.
    depth: number of blocks of the backbone.
    mlp_dim: hidden units of the backbone's MLPs.
    num_heads: heads of the backbone's attention, which divide `hidden_dim`.
    token_dim: width of the tokens within the tokens-to-token module.
    posemb: position embedding: `sincos1d`, sines and cosines of the position in the sequence, or `learned`, a grid for
        one size of images; see `PositionEmbedding`.
    posemb_grid: rows and columns that `sincos1d` is computed for, from which it is resized to the image's, as the
        authors do with a trained model at another size; None is the image's own.
    token_dropout: rate within the tokens-to-token module; in [0, 1). The authors have 0.1 with a performer, 0 without.
    dropout: rate after the position embedding, each attention of the backbone, and each dense layer of its MLPs; in
        [0, 1).
    attention_dropout: rate on the backbone's attention weights; in [0, 1).
    drop_path: rate of stochastic depth at the last block, rising linearly from 0 at the first; in [0, 1).
    qkv_bias: whether query, key and value of the backbone have a bias.
    qk_scale: factor of the products of queries and keys; None is 1 / sqrt(hidden_dim / num_heads).
    gelu: of the backbone: `exact` (the authors'), `tanh` or `quick`.
    norm_eps: epsilon of LayerNorm.
    dtype: of matrix products and of the tokens between the blocks; parameters, LayerNorm and softmax are float32.
    attention: how the backbone's attention is computed: `auto`, `xla` or `cudnn`; see `MultiHeadAttention`.
    remat: what the backbone's backward pass computes again: `none`, `full` or `dots`; see `stack.REMAT`.
    scan: whether the backbone's blocks are compiled as one loop; see `run_stack`.

    Kernels start Xavier-uniform as everywhere in this library; the authors' are truncated normal with deviation 0.02.
    """

    tokens_type: str
    hidden_dim: int
    depth: int
    mlp_dim: int
    num_heads: int
    token_dim: int = 64
    posemb: str = "sincos1d"
    posemb_grid: tuple[int, int] | None = None
    token_dropout: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    qkv_bias: bool = False
    qk_scale: float | None = None
    gelu: str = "exact"
    norm_eps: float = 1e-5
    dtype: str = "float32"
    attention: str = "auto"
    remat: str = "none"
    scan: bool = False

    num_prefix_tokens = 1
    has_class_token = True
    pooling = "token"

    def layer_number(self, path: str) -> int:
        """Return a parameter's place between image and output: 0 before the blocks, i in the i-th, depth + 1 after.

        Args:
            path: within the encoder, `block_0/mlp/fc1/kernel`.
        """
        return stack_layer_number(path, self.depth, after=("norm",))

    def flops(self, image_size: tuple[int, int], channels: int = 3, *, patch_tokens: bool = True) -> int:
        """Count the FLOPs of the forward pass of one image, without a head; a training step takes three times as many.

        Only matrix products count, a multiply-add as two; the source's MACs are half of it.

        Args:
            image_size: height and width in pixels.
            channels: of the image.
            patch_tokens: see `__call__`.
        """
        *inner, (rows, columns) = split_grids(image_size)
        width, macs = channels, 0
        for (side, _, _), grid in zip(SPLITS, inner, strict=False):
            count, width = math.prod(grid), width * side**2
            macs += count * self.token_dim * (3 * width + 3 * self.token_dim) + self._mixing(count)
            width = self.token_dim
        macs += rows * columns * width * SPLITS[-1][0] ** 2 * self.hidden_dim
        outputs = None if patch_tokens or self.scan else 1
        return 2 * (macs + stack_macs(self.depth, rows * columns + 1, self.hidden_dim, self.mlp_dim, outputs))

    def _mixing(self, tokens: int) -> int:
        """Count the multiply-adds of an attention of the tokens-to-token module, without its projections."""
        if self.tokens_type == "transformer":
            return 2 * tokens**2 * self.token_dim
        features = self.token_dim // 2
        return tokens * features * (4 * self.token_dim + 1)

    def setup(self) -> None:
        """Make the layers."""
        self.tokens_to_token = TokensToToken(
            self.hidden_dim, self.token_dim, self.tokens_type, self.token_dropout, self.norm_eps, self.dtype
        )
        self.class_token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, self.hidden_dim))
        if self.posemb == "learned":
            self.pos_embedding = PositionEmbedding("learned")
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
                qk_norm=False,
                layer_scale=None,
                attention=self.attention,
                attention_scale=self.qk_scale,
                name=f"block_{i}",
            )
            for i in range(self.depth)
        ]
        self.norm = LayerNorm(self.norm_eps)

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
            patch_tokens: whether the patches' tokens are wanted too; see `Features`. If not, the last block computes
                the class token alone, since the patches' are not needed.
            intermediates: numbers of the blocks whose outputs are wanted too, 1 to depth, or -depth to -1 from the end.

        Raises:
            InputError: an image of fewer than 3 pixels a side, one that does not fit a learned embedding, or there is
                no such block.
        """
        height, width = images.shape[1:3]
        grid = split_grids((height, width))[-1]
        tokens = self.embed(images, train=train)
        return self.encode(tokens, grid=grid, train=train, patch_tokens=patch_tokens, intermediates=intermediates)

    def embed(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b n dim"]:
        """Make tokens with their positions: `[B, H, W, C]` to `[B, 1 + h * w, D]`, the class token first."""
        x = self.tokens_to_token(images, train=train)  # [b, h, w, dim]
        batch, rows, columns, dim = x.shape
        prefix = jnp.broadcast_to(self.class_token, (batch, 1, dim)).astype(x.dtype)
        if self.posemb == "learned":
            tokens = self.pos_embedding(x, prefix)
        else:
            table = sinusoid(self.posemb_grid or (rows, columns), (rows, columns), dim)
            tokens = jnp.concatenate([prefix, x.reshape(batch, -1, dim)], axis=1) + table.astype(x.dtype)
        return self.embed_dropout(tokens, deterministic=not train)

    def encode(
        self,
        tokens: Float[Array, "b n dim"],
        *,
        grid: tuple[int, int] | None = None,
        train: bool,
        patch_tokens: bool = True,
        intermediates: Sequence[int] = (),
    ) -> Features:
        """Pass tokens through the blocks and the last norm.

        Args:
            tokens: `[B, N, D]`, as `embed` gives them: the class token first, then any of the patches in any order.
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
            outputs=None if patch_tokens else 1,
            intermediates=block_numbers(intermediates, self.depth),
        )
        x = self.norm(stacked.x)
        return Features(tokens=x, pooled=x[:, 0], grid=grid, intermediates=stacked.intermediates)


def sinusoid(made_for: tuple[int, int], grid: tuple[int, int], dim: int) -> Float[Array, "n dim"]:
    """Compute the positions of the class token and a grid of patches for one grid and resizes them to another.

    Args:
        made_for: rows and columns that they are computed for.
        grid: rows and columns of the result.
        dim: channels D.

    Returns:
        `[1 + h * w, D]` float32 in about [-1, 1].

    Source: `get_sinusoid_encoding` (models/transformer_block.py) and `resize_pos_embed` (utils.py) of the authors'
    code.
    """
    with jax.ensure_compile_time_eval():  # the resizing is NumPy's
        table = posemb.sincos1d(1 + made_for[0] * made_for[1], dim)
        resized = posemb.resize_grid(table[1:].reshape(*made_for, dim), grid, antialias=False)
        return jnp.concatenate([table[:1], resized.reshape(-1, dim)])


def create(variant: str, **overrides) -> T2TViT:
    """Make a T2T-ViT by name.

    Args:
        variant: a row of VARIANTS, `"14"`, or `"t-14"` with a transformer in the tokens-to-token module.
        **overrides: fields of `T2TViT` in place of the variant's.

    Raises:
        InputError: an unknown variant, field or value.
    """
    if variant not in VARIANTS:
        raise InputError(f"t2t has no variant {variant!r}; valid: {', '.join(VARIANTS)}")
    row = VARIANTS[variant]
    fields = {name: getattr(row, name) for name in ("tokens_type", "hidden_dim", "depth", "mlp_dim", "num_heads")}
    fields = options.check_options("t2t", T2TViT, fields | overrides, _RULES)
    options.check_divisible(fields, "hidden_dim", "num_heads")
    return T2TViT(**fields)


_EVEN = options.Rule(lambda size: options.is_count(size) and size % 2 == 0, "even, 2 or more")
_GRID = options.Rule(lambda grid: grid is None or options.SIZE.ok(grid), "rows and columns of patches, or None")
_RULES = (
    dict.fromkeys(("hidden_dim", "token_dim"), _EVEN)
    | dict.fromkeys(("depth", "mlp_dim", "num_heads"), options.COUNT)
    | dict.fromkeys(("token_dropout", "dropout", "attention_dropout", "drop_path"), options.RATE)
    | {
        "tokens_type": options.one_of(TOKENS_TYPES),
        "posemb": options.one_of(POSEMB),
        "posemb_grid": _GRID,
        "qk_scale": options.POSITIVE_OR_NONE,
        "gelu": options.one_of(GELU),
        "norm_eps": options.POSITIVE,
        "dtype": options.DTYPE,
        "attention": options.one_of(ATTENTION),
        "remat": options.one_of(REMAT),
    }
)


# The source's 13.8 G of "24" does not fit its own figures: "t-24" has 15.0, and a transformer instead of the performer
# takes 1.3 G more at any width, which leaves 13.7; the rule of `flops` gives 13.66.
_AUTHORS = "README of yitu-opensource/T2T-ViT, as Yuan et al. 2021 (arXiv:2101.11986)"

VARIANTS = {
    "7": Variant("performer", 256, 7, 512, 4, 4_259_790, 4.3, 1.1, _AUTHORS),
    "10": Variant("performer", 256, 10, 512, 4, 5_838_798, 5.9, 1.5, _AUTHORS),
    "12": Variant("performer", 256, 12, 512, 4, 6_891_470, 6.9, 1.8, _AUTHORS),
    "14": Variant("performer", 384, 14, 1152, 6, 21_469_902, 21.5, 4.8, _AUTHORS),
    "19": Variant("performer", 448, 19, 1344, 7, 39_089_166, 39.2, 8.5, _AUTHORS),
    "24": Variant("performer", 512, 24, 1536, 8, 64_005_070, 64.1, 13.8, _AUTHORS),
    "t-14": Variant("transformer", 384, 14, 1152, 6, 21_465_422, 21.5, 6.1, _AUTHORS),
    "t-19": Variant("transformer", 448, 19, 1344, 7, 39_084_686, 39.2, 9.8, _AUTHORS),
    "t-24": Variant("transformer", 512, 24, 1536, 8, 64_000_590, 64.1, 15.0, _AUTHORS),
}
