"""Transformer blocks that the families and tasks share, and the arithmetic of a stack of them."""

from collections.abc import Collection

from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.layers import roles
from vit_jax.layers.attention import Mask, MultiHeadAttention
from vit_jax.layers.drop_path import DropPath
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: self-attention and an MLP, each with its residual.

    num_heads: of the attention.
    mlp_dim: hidden units of the MLP.
    gelu: of the MLP, a row of `mlp.GELU`.
    norm_eps: LayerNorm's epsilon.
    dropout: after the attention and each dense layer of the MLP; in [0, 1).
    attention_dropout: on the attention weights; in [0, 1).
    drop_path: rate of stochastic depth, in [0, 1).
    dtype: of matrix products.
    qkv_bias: whether query, key and value have a bias.
    qk_norm: see `MultiHeadAttention.qk_norm`.
    layer_scale: initial value of LayerScale's factors `scale1`, `scale2` `[D]`; None is no LayerScale.
    attention: see `MultiHeadAttention.attention`.
    attention_scale: see `MultiHeadAttention.scale`.

    Source: Dosovitskiy et al. 2020 (arXiv:2010.11929), equations 2 and 3; LayerScale: Touvron et al. 2021
    (arXiv:2103.17239), section 2.
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
        self, x: Float[Array, "b n dim"], *, train: bool, outputs: int | None = None, mask: Mask | None = None
    ) -> Float[Array, "b m dim"]:
        """Map tokens to tokens.

        Args:
            x: `[B, N, D]`.
            train: whether dropout and stochastic depth are on.
            outputs: number of leading tokens to compute, which attend to all; None is N.
            mask: bool, broadcast to `[B, heads, outputs, N]`; see `MultiHeadAttention`.

        Returns:
            `[B, outputs, D]`.
        """
        roles.declare_block(self)
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
        y = attention(y[:, :outputs], y, train=train, mask=mask)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        x = x[:, :outputs] + DropPath(self.drop_path)(self._scaled(y, "scale1"), train=train)

        y = LayerNorm(self.norm_eps, name="norm2")(x)
        y = Mlp(self.mlp_dim, self.gelu, self.dropout, self.dtype, name="mlp")(y, train=train)
        return x + DropPath(self.drop_path)(self._scaled(y, "scale2"), train=train)

    def _scaled(self, y: Float[Array, "b n dim"], name: str) -> Float[Array, "b n dim"]:
        if self.layer_scale is None:
            return y
        return y * self.param(name, nn.initializers.constant(self.layer_scale), (y.shape[-1],)).astype(y.dtype)


class DecoderBlock(nn.Module):
    """Transformer block with self-attention, cross-attention to a memory, and an MLP, each with its residual.

    Parameters: `norm1` and `self_attention`, `norm2` and `cross_attention`, `norm3` and `mlp`.

    num_heads: of both attentions.
    mlp_dim: hidden units of the MLP.
    gelu: of the MLP, a row of `mlp.GELU`.
    norm_eps: LayerNorm's epsilon.
    dropout: after each attention and each dense layer of the MLP; in [0, 1).
    attention_dropout: on the attention weights; in [0, 1).
    dtype: of matrix products.
    post_norm: whether the norms follow the residual sums, as in DETR, instead of preceding attentions and MLP.
    attention: see `MultiHeadAttention.attention`.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.1; pre-norm: Xiong et al. 2020 (arXiv:2002.04745); the
    places of the positions: Carion et al. 2020 (DETR, arXiv:2005.12872), figure 10.
    """

    num_heads: int
    mlp_dim: int
    gelu: str = "exact"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    post_norm: bool = False
    attention: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n dim"],
        memory: Float[Array, "b m dim"],
        *,
        train: bool,
        positions: Float[Array, "#b n dim"] | None = None,
        memory_positions: Float[Array, "#b m dim"] | None = None,
        mask: Mask | None = None,
        memory_mask: Mask | None = None,
    ) -> Float[Array, "b n dim"]:
        """Map tokens to tokens that have seen the memory.

        Args:
            x: `[B, N, D]`.
            memory: `[B, M, D]`, normalised where the encoder's last norm is not part of the block.
            train: whether dropout is on.
            positions: `[B, N, D]`, added to queries and keys of x, not to the values.
            memory_positions: `[B, M, D]`, added to the memory's keys, not to the values.
            mask: bool, broadcast to `[B, heads, N, N]`, of the self-attention; see `MultiHeadAttention`.
            memory_mask: bool, broadcast to `[B, heads, N, M]`, of the cross-attention.

        Returns:
            `[B, N, D]` in x's dtype.
        """
        roles.declare_block(self)
        keys = _added(memory, memory_positions)

        def attend_to_itself(y: Array) -> Array:
            placed = _added(y, positions)
            return self._attention("self_attention")(placed, placed, y, train=train, mask=mask)

        def attend_to_memory(y: Array) -> Array:
            attention = self._attention("cross_attention")
            return attention(_added(y, positions), keys, memory, train=train, mask=memory_mask)

        x = self._residual(attend_to_itself, x, "norm1", train=train)
        x = self._residual(attend_to_memory, x, "norm2", train=train)
        mlp = Mlp(self.mlp_dim, self.gelu, self.dropout, self.dtype, name="mlp")
        return self._residual(lambda y: mlp(y, train=train), x, "norm3", train=train, dropout=0.0)

    def _attention(self, name: str) -> MultiHeadAttention:
        return MultiHeadAttention(
            self.num_heads, self.attention_dropout, self.dtype, attention=self.attention, name=name
        )

    def _residual(self, branch, x: Array, norm_name: str, *, train: bool, dropout: float | None = None) -> Array:
        """Add a branch to x, with the norm before it or after the sum."""
        norm = LayerNorm(self.norm_eps, name=norm_name)
        rate = self.dropout if dropout is None else dropout  # the MLP has its own
        y = branch(x if self.post_norm else norm(x).astype(x.dtype))
        x = x + nn.Dropout(rate, deterministic=not train)(y)
        return norm(x).astype(x.dtype) if self.post_norm else x


def _added(x: Float[Array, "b n dim"], positions: Float[Array, "#b n dim"] | None) -> Float[Array, "b n dim"]:
    return x if positions is None else x + positions.astype(x.dtype)


def stack_macs(depth: int, tokens: int, dim: int, mlp_dim: int, outputs: int | None = None) -> int:
    """Count the multiply-adds of the matrix products of a stack of `EncoderBlock`s, for one sequence.

    Args:
        depth: number of blocks.
        tokens: of the sequence.
        dim: width of a token.
        mlp_dim: hidden units of the MLPs.
        outputs: number of tokens that the last block computes; None is all.
    """

    def block(outputs: int) -> int:
        return 2 * tokens * dim**2 + outputs * dim * (2 * dim + 2 * mlp_dim) + 2 * outputs * tokens * dim

    return (depth - 1) * block(tokens) + block(tokens if outputs is None else outputs)


def stack_layer_number(path: str, depth: int, *, after: Collection[str]) -> int:
    """Return the `layer_number` of a parameter in an encoder with one stack of blocks.

    Args:
        path: within the encoder, `block_0/mlp/fc1/kernel`.
        depth: number of blocks.
        after: first names of the paths of parameters after the blocks.

    Returns:
        0 before the blocks, i in the i-th, depth + 1 after them.

    Example:
        >>> stack_layer_number("block_0/mlp/fc1/kernel", 12, after=("norm",))
        1
    """
    name = path.partition("/")[0]
    if name.startswith("block_"):
        return int(name.removeprefix("block_")) + 1
    return depth + 1 if name in after else 0
