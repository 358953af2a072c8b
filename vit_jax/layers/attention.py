"""Multi-head attention with heads before tokens, and pooling by attention."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.projection import Projection
from vit_jax.ops import platform

ATTENTION = ("auto", "xla", "cudnn")
"""How `MultiHeadAttention` can compute: XLA's own code, cuDNN's fused kernel, or whichever suits."""


def is_for_cudnn(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether cuDNN's fused attention can take queries `[B, heads, N, d]`, and is what `auto` chooses.

    It takes bfloat16 and float16 whose head size d is a multiple of 8 up to 128, of any length, on NVIDIA GPUs since
    Ampere.

    Source: NVIDIA, cuDNN frontend, Attention, support matrix (https://docs.nvidia.com/cudnn/operations/Attention.md).
    """
    size = shape[-1]
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16) or size % 8 or size > 128:
        return False
    return platform.target() == "gpu" and float(getattr(jax.local_devices()[0], "compute_capability", 0)) >= 8


def attention_weights(
    query: Float[Array, "b heads n d"], key: Float[Array, "b heads m d"]
) -> Float[Array, "b heads n m"]:
    """softmax(query key^T / sqrt(d)), `[B, heads, N, M]` float32; query `[B, heads, N, d]`, key `[B, heads, M, d]`.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.
    """
    return jax.nn.softmax(_scores(query, key), axis=-1)


def _scores(query: Float[Array, "b heads n d"], key: Float[Array, "b heads m d"]) -> Float[Array, "b heads n m"]:
    scaled = query * (query.shape[-1] ** -0.5)
    return jnp.einsum("bhnd,bhmd->bhnm", scaled, key, preferred_element_type=jnp.float32)


def dot_product_attention(
    query: Float[Array, "b heads n d"],
    key: Float[Array, "b heads m d"],
    value: Float[Array, "b heads m d"],
    *,
    dropout=None,
) -> Float[Array, "b heads n d"]:
    """softmax(query key^T / sqrt(d)) value, the softmax in float32.

    Args:
        query: `[B, heads, N, d]`.
        key: `[B, heads, M, d]`.
        value: `[B, heads, M, d]`.
        dropout: a function applied to the weights `[B, heads, N, M]`, or None.

    Returns:
        `[B, heads, N, d]` in the value's dtype.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.
    """
    if dropout is None and platform.target() == "cpu":
        return _divided_later(query, key, value)
    weights = attention_weights(query, key).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, value)


@jax.custom_jvp
def _divided_later(
    query: Float[Array, "b heads n d"], key: Float[Array, "b heads m d"], value: Float[Array, "b heads m d"]
) -> Float[Array, "b heads n d"]:
    """`dot_product_attention` whose softmax is divided by its sum after the product with the values, which is smaller.

    XLA's CPU code then does product, sum and division as one, with all cores; a product alone has one core
    (docs/speed.md). On a TPU this order would take a fifth more memory traffic than the other.
    """
    return _mixed_and_exponentials(query, key, value)[0].astype(value.dtype)


@_divided_later.defjvp
def _divided_later_jvp(primals: tuple, tangents: tuple):
    (query, key, value), (dquery, dkey, dvalue) = primals, tangents
    mixed, exponentials = _mixed_and_exponentials(query, key, value)
    wide = value.astype(jnp.float32)  # what is subtracted below must not be rounded before
    # Summed again, since XLA keeps the first sum with its product only where nothing else needs it.
    total = jax.lax.optimization_barrier(exponentials).sum(axis=-1, keepdims=True)
    dweights = exponentials * (_scores(dquery, key) + _scores(query, dkey))  # those of the softmax times `total`
    moved = _weigh(dweights, wide) + _weigh(exponentials, dvalue) - mixed * dweights.sum(axis=-1, keepdims=True)
    return mixed.astype(value.dtype), (moved / total).astype(value.dtype)


def _mixed_and_exponentials(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
    """`[B, heads, N, d]` and the softmax's numerators `[B, heads, N, M]`, both float32."""
    scores = _scores(query, key)
    exponentials = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return _weigh(exponentials, value) / exponentials.sum(axis=-1, keepdims=True), exponentials


def _weigh(weights: Float[Array, "b heads n m"], value: Float[Array, "b heads m d"]) -> Float[Array, "b heads n d"]:
    """The values' sums by weights rounded to their type, `[B, heads, N, d]` float32."""
    return jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)


class MultiHeadAttention(nn.Module):
    """Multi-head attention of one sequence to itself or to another.

    Parameters: `query`, `key`, `value` with kernel `[D, heads, D / heads]` and bias `[heads, D / heads]`,
    `out` with kernel `[heads, D / heads, D]` and bias `[D]`; all float32, kernels Xavier-uniform.

    qkv_bias: whether query, key and value have a bias.
    qk_norm: LayerNorm over each head's D / heads channels of query and key (Dehghani et al. 2023,
        arXiv:2302.05442, section 2), parameters `query_norm` and `key_norm`; `norm_eps` is its epsilon.
    scale: what the products of queries and keys are multiplied by; None is 1 / sqrt(D / heads).
    attention: how it is computed, which changes results by rounding alone: `xla`; `cudnn`, which never stores the
        weights `[B, heads, N, M]` and can therefore not drop them out; `auto`, cuDNN where `is_for_cudnn` says so and
        no weights are dropped, else XLA.

    Applied with the collection `intermediates` mutable, it also leaves its weights `[B, heads, N, M]` float32, before
    dropout, there as `attention_weights`, whatever `attention` is.

    Source: Dosovitskiy et al. 2020 (arXiv:2010.11929), appendix A. Heads come before tokens
    (`[B, heads, N, d]`) since XLA's CPU and GPU code is faster on that layout.
    """

    num_heads: int
    dropout: float = 0.0
    dtype: str = "float32"
    qkv_bias: bool = True
    qk_norm: bool = False
    norm_eps: float = 1e-6
    attention: str = "auto"
    scale: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n dim"], memory: Float[Array, "b m dim"] | None = None, *, train: bool
    ) -> Float[Array, "b n dim"]:
        """Attends from x `[B, N, D]` to memory `[B, M, D]` (x itself if None); gives `[B, N, D]`.

        Raises:
            InputError: the heads do not divide D, or `cudnn` where it cannot be used.
        """
        dim = x.shape[-1]
        if dim % self.num_heads:
            raise InputError(f"hidden_dim {dim} is not divisible by num_heads {self.num_heads}")
        memory = x if memory is None else memory
        shape = (dim, self.num_heads, dim // self.num_heads)
        options = {"dtype": self.dtype, "use_bias": self.qkv_bias}
        query = self._heads_first(Projection(shape, 1, **options, name="query")(x))  # [b, heads, n, d]
        key = self._heads_first(Projection(shape, 1, **options, name="key")(memory))
        value = self._heads_first(Projection(shape, 1, **options, name="value")(memory))
        if self.qk_norm:
            query = LayerNorm(self.norm_eps, name="query_norm")(query).astype(self.dtype)
            key = LayerNorm(self.norm_eps, name="key_norm")(key).astype(self.dtype)
        if self.scale is not None:
            query = query * (self.scale * shape[-1] ** 0.5)
        if self.is_mutable_collection("intermediates"):
            # On their own, since what mixes the values need not have them.
            self.sow("intermediates", "attention_weights", attention_weights(query, key))
        if self._uses_cudnn(query.shape):
            # It wants tokens before heads; the two transpositions cancel each other.
            query, key, value = (y.swapaxes(1, 2) for y in (query, key, value))
            mixed = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")  # [b, n, heads, d]
        else:
            dropout = nn.Dropout(self.dropout, deterministic=not train) if self.dropout and train else None
            mixed = dot_product_attention(query, key, value, dropout=dropout).swapaxes(1, 2)
        mixed = mixed.reshape(*x.shape[:2], dim)
        return Projection((*shape[1:], dim), 2, dtype=self.dtype, name="out")(mixed)

    def _heads_first(self, y: Float[Array, "b n dim"]) -> Float[Array, "b heads n d"]:
        return y.reshape(*y.shape[:2], self.num_heads, -1).swapaxes(1, 2)

    def _uses_cudnn(self, shape: tuple[int, ...]) -> bool:
        possible = is_for_cudnn(shape, self.dtype) and not self.dropout
        if self.attention == "cudnn" and not possible:
            raise InputError(
                f"model.attention is 'cudnn', which needs an NVIDIA GPU since Ampere, bfloat16, a head size that is a "
                f"multiple of 8 up to 128 and no attention_dropout; here: {platform.target()}, {self.dtype}, "
                f"{shape[-1]}, {self.dropout}; valid: auto, xla"
            )
        return self.attention != "xla" and possible


class AttentionPooling(nn.Module):
    """One learned query attends to all tokens, followed by an MLP with a residual ("MAP head").

    Source: Zhai et al. 2021 (arXiv:2106.04560), section 3.3; big_vision's `MAPHead` (models/vit.py).
    """

    num_heads: int
    mlp_dim: int
    gelu: str
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n dim"], *, train: bool) -> Float[Array, "b dim"]:
        """Pools tokens `[B, N, D]` to `[B, D]`."""
        batch, _, dim = tokens.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, dim))
        query = jnp.broadcast_to(probe, (batch, 1, dim)).astype(self.dtype)
        x = MultiHeadAttention(self.num_heads, dtype=self.dtype, attention="xla", name="attention")(
            query, tokens, train=train
        )
        y = LayerNorm(self.norm_eps, name="norm")(x)
        x = x + Mlp(self.mlp_dim, gelu=self.gelu, dtype=self.dtype, name="mlp")(y, train=train)
        return x[:, 0]
