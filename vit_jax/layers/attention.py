"""Multi-head attention with heads before tokens, its masks, and pooling by attention."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vit_jax.errors import InputError
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.projection import Projection
from vit_jax.ops import platform

ATTENTION = ("auto", "xla", "cudnn")
"""How `MultiHeadAttention` computes: by XLA's own code (`xla`), by cuDNN's fused kernel, or by the faster (`auto`)."""


UNITS = "attention heads"
"""What tensor parallelism cuts in an attention."""

_HIDDEN = float(jnp.finfo(jnp.float32).min)  # score of a key that a query may not attend to


Mask = Bool[Array, "#b #heads #n #m"]
"""True where a query may attend to a key; broadcast to `[B, heads, N, M]`."""


def is_for_cudnn(shape: tuple[int, ...], dtype: str) -> bool:
    """Tell whether `auto` chooses cuDNN's fused attention for queries `[B, heads, N, d]`.

    It takes bfloat16 and float16 whose head size d is a multiple of 8 up to 128, of any length, on NVIDIA GPUs since
    Ampere.

    Source: NVIDIA, cuDNN frontend, Attention, support matrix (https://docs.nvidia.com/cudnn/operations/Attention.md).
    """
    size = shape[-1]
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16) or size % 8 or size > 128:
        return False
    return platform.target() == "gpu" and _cuda_capability(jax.local_devices()[0]) >= 8


def _cuda_capability(device: Any) -> float:
    """Return an NVIDIA GPU's compute capability; 0 of other devices (AMD's say what they are instead, "gfx942")."""
    text = str(getattr(device, "compute_capability", ""))
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


def padding_mask(valid: Bool[Array, "b m"]) -> Mask:
    """Make the mask that hides keys which only fill a sequence up.

    Args:
        valid: `[B, M]` bool, False for a key that fills up.

    Returns:
        `[B, 1, 1, M]` bool. Combine masks by `&`.

    Example:
        >>> padding_mask(jnp.array([[True, False]])).shape
        (1, 1, 1, 2)
    """
    return valid[:, None, None, :]


def causal_mask(length: int) -> Mask:
    """Make the mask with which each token attends to itself and to the tokens before it.

    Args:
        length: number N of tokens.

    Returns:
        `[1, 1, N, N]` bool: query, then key.

    Example:
        >>> causal_mask(2)[0, 0].tolist()
        [[True, False], [True, True]]
    """
    return jnp.tri(length, dtype=bool)[None, None]


def attention_weights(
    query: Float[Array, "b heads n d"], key: Float[Array, "b heads m d"], *, mask: Mask | None = None
) -> Float[Array, "b heads n m"]:
    """Compute softmax(query key^T / sqrt(d)).

    Args:
        query: `[B, heads, N, d]`.
        key: `[B, heads, M, d]`.
        mask: bool, broadcast to `[B, heads, N, M]`; True where a query may attend to a key. None is everywhere.

    Returns:
        `[B, heads, N, M]` float32; zeros for a query that may attend to no key.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.
    """
    if mask is None:
        return jax.nn.softmax(_scores(query, key), axis=-1)
    # Finite, so that a row without any key has neither a NaN nor a NaN gradient.
    scores = jnp.where(mask, _scores(query, key), _HIDDEN)
    return jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)


def _scores(query: Float[Array, "b heads n d"], key: Float[Array, "b heads m d"]) -> Float[Array, "b heads n m"]:
    scaled = query * (query.shape[-1] ** -0.5)
    return jnp.einsum("bhnd,bhmd->bhnm", scaled, key, preferred_element_type=jnp.float32)


def dot_product_attention(
    query: Float[Array, "b heads n d"],
    key: Float[Array, "b heads m d"],
    value: Float[Array, "b heads m d"],
    *,
    mask: Mask | None = None,
    dropout: Callable[[Array], Array] | None = None,
) -> Float[Array, "b heads n d"]:
    """Compute softmax(query key^T / sqrt(d)) value, the softmax in float32.

    Args:
        query: `[B, heads, N, d]`.
        key: `[B, heads, M, d]`.
        value: `[B, heads, M, d]`.
        mask: bool, broadcast to `[B, heads, N, M]`; True where a query may attend to a key. None is everywhere.
        dropout: applied to the weights `[B, heads, N, M]`; None is no dropout.

    Returns:
        `[B, heads, N, d]` in the value's dtype; zeros for a query that may attend to no key.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.

    Example:
        >>> x = jnp.ones((1, 1, 2, 4))
        >>> dot_product_attention(x, x, x, mask=causal_mask(2)).shape
        (1, 1, 2, 4)
    """
    if dropout is None and platform.target() == "cpu":
        return _divided_later(query, key, value, mask)
    weights = attention_weights(query, key, mask=mask).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, value)


@jax.custom_jvp
def _divided_later(
    query: Float[Array, "b heads n d"],
    key: Float[Array, "b heads m d"],
    value: Float[Array, "b heads m d"],
    mask: Mask | None,
) -> Float[Array, "b heads n d"]:
    """Compute `dot_product_attention`, dividing by the softmax's sum after the product with the values.

    XLA's CPU code then fuses product, sum and division, and runs them on all cores; it runs a product alone on one
    (docs/measurements.md). On a TPU this order would take a fifth more memory traffic than the other.
    """
    return _attend(query, key, value, mask).mixed.astype(value.dtype)


@_divided_later.defjvp
def _divided_later_jvp(primals: tuple, tangents: tuple):
    (query, key, value, mask), (dquery, dkey, dvalue, _) = primals, tangents
    mixed, exponentials = _attend(query, key, value, mask)
    wide = value.astype(jnp.float32)  # what is subtracted below must not be rounded before
    # Summed again, since XLA keeps the first sum with its product only where nothing else needs it.
    total = _total(jax.lax.optimization_barrier(exponentials), mask)
    dweights = exponentials * (_scores(dquery, key) + _scores(query, dkey))  # those of the softmax times `total`
    moved = _weigh(dweights, wide) + _weigh(exponentials, dvalue) - mixed * dweights.sum(axis=-1, keepdims=True)
    return mixed.astype(value.dtype), (moved / total).astype(value.dtype)


class _Attended(NamedTuple):
    """Weighted means of the values `[B, heads, N, d]` and the softmax's numerators `[B, heads, N, M]`, float32."""

    mixed: Array
    exponentials: Array


def _attend(query: Array, key: Array, value: Array, mask: Mask | None) -> _Attended:
    scores = _scores(query, key)
    if mask is not None:
        scores = jnp.where(mask, scores, _HIDDEN)
    exponentials = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    if mask is not None:
        exponentials = jnp.where(mask, exponentials, 0.0)
    return _Attended(_weigh(exponentials, value) / _total(exponentials, mask), exponentials)


def _total(exponentials: Float[Array, "b heads n m"], mask: Mask | None) -> Float[Array, "b heads n 1"]:
    """Sum the numerators; 1 for a query that may attend to no key."""
    total = exponentials.sum(axis=-1, keepdims=True)
    return total if mask is None else jnp.where(total > 0.0, total, 1.0)


def _weigh(weights: Float[Array, "b heads n m"], value: Float[Array, "b heads m d"]) -> Float[Array, "b heads n d"]:
    """Compute the weighted sum of `value`, the weights rounded to its dtype, `[B, heads, N, d]` float32."""
    return jnp.einsum("bhnm,bhmd->bhnd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)


class MultiHeadAttention(nn.Module):
    """Multi-head attention of one sequence to itself or to another.

    Parameters: `query`, `key`, `value` with kernel `[D, heads, D / heads]` and bias `[heads, D / heads]`,
    `out` with kernel `[heads, D / heads, D]` and bias `[D]`; all float32, kernels Xavier-uniform.

    num_heads: number of heads, which divides D.
    dropout: rate on the attention weights, in [0, 1).
    dtype: of matrix products.
    qkv_bias: whether query, key and value have a bias.
    qk_norm: whether LayerNorm is applied over the D / heads channels of each head's query and key (Dehghani et al.
        2023, arXiv:2302.05442, section 2), with parameters `query_norm` and `key_norm`.
    norm_eps: epsilon of these two.
    attention: how it is computed, which changes results by rounding alone: `xla`; `cudnn`, which never stores the
        weights `[B, heads, N, M]` and can therefore not drop them out; or `auto`, which is cuDNN where `is_for_cudnn`
        says so and no weights are dropped, else XLA. With a mask it is always XLA.
    scale: factor of the products of queries and keys; None is 1 / sqrt(D / heads).

    Applied with the collection `intermediates` mutable, it also stores its weights `[B, heads, N, M]` float32, before
    dropout, there as `attention_weights`.

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
        self,
        x: Float[Array, "b n dim"],
        memory: Float[Array, "b m dim"] | None = None,
        value: Float[Array, "b m dim"] | None = None,
        *,
        train: bool,
        mask: Mask | None = None,
    ) -> Float[Array, "b n dim"]:
        """Attend from x to memory.

        Args:
            x: `[B, N, D]`, which the queries are made of.
            memory: `[B, M, D]`, which the keys are made of; None is x.
            value: `[B, M, D]`, which the values are made of; None is the memory.
            train: whether weights are dropped out.
            mask: bool, broadcast to `[B, heads, N, M]`; True where a query may attend to a key. None is everywhere.

        Returns:
            `[B, N, D]` in `dtype`.

        Raises:
            InputError: the heads do not divide D, or `cudnn` where it cannot be used.
        """
        if mask is not None and mask.dtype != bool:
            raise ValueError(f"the attention's mask has dtype {mask.dtype}; valid: bool")
        dim = x.shape[-1]
        if dim % self.num_heads:
            raise InputError(f"hidden_dim {dim} is not divisible by num_heads {self.num_heads}")
        memory = x if memory is None else memory
        value = memory if value is None else value
        shape = (dim, self.num_heads, dim // self.num_heads)
        options = {"dtype": self.dtype, "use_bias": self.qkv_bias, "cut": "outputs", "units": UNITS}
        query = self._heads_first(Projection(shape, 1, **options, name="query")(x))  # [b, heads, n, d]
        key = self._heads_first(Projection(shape, 1, **options, name="key")(memory))
        value = self._heads_first(Projection(shape, 1, **options, name="value")(value))
        if self.qk_norm:
            query = LayerNorm(self.norm_eps, name="query_norm")(query).astype(self.dtype)
            key = LayerNorm(self.norm_eps, name="key_norm")(key).astype(self.dtype)
        if self.scale is not None:
            query = query * (self.scale * shape[-1] ** 0.5)
        if self.is_mutable_collection("intermediates"):
            # Computed separately, since cuDNN does not give them.
            self.sow("intermediates", "attention_weights", attention_weights(query, key, mask=mask))
        if mask is None and self._uses_cudnn(query.shape):
            # cuDNN takes tokens before heads; the two transpositions cancel each other.
            query, key, value = query.swapaxes(1, 2), key.swapaxes(1, 2), value.swapaxes(1, 2)
            mixed = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")  # [b, n, heads, d]
        else:
            dropout = nn.Dropout(self.dropout, deterministic=not train) if self.dropout and train else None
            mixed = dot_product_attention(query, key, value, mask=mask, dropout=dropout).swapaxes(1, 2)
        mixed = mixed.reshape(*x.shape[:2], dim)
        return Projection((*shape[1:], dim), 2, self.dtype, cut="inputs", units=UNITS, name="out")(mixed)

    def _heads_first(self, y: Float[Array, "b n dim"]) -> Float[Array, "b heads n d"]:
        return y.reshape(*y.shape[:2], self.num_heads, -1).swapaxes(1, 2)

    def _uses_cudnn(self, shape: tuple[int, ...]) -> bool:
        possible = is_for_cudnn(shape, self.dtype) and not self.dropout
        if self.attention == "cudnn" and not possible:
            raise InputError(
                "model.options.attention is 'cudnn', which needs an NVIDIA GPU since Ampere, bfloat16, a head size "
                f"that is a multiple of 8 up to 128 and no attention_dropout; here: {platform.target()}, {self.dtype}, "
                f"{shape[-1]}, {self.dropout}; valid: auto, xla"
            )
        return self.attention != "xla" and possible


class AttentionPooling(nn.Module):
    """Pools tokens by the attention of one learned query, followed by an MLP with a residual ("MAP head").

    num_heads: of the attention.
    mlp_dim: hidden units of the MLP.
    gelu: of the MLP, a row of GELU.
    norm_eps: LayerNorm's epsilon.
    dtype: of matrix products.

    Source: Zhai et al. 2021 (arXiv:2106.04560), section 3.3; big_vision's `MAPHead` (models/vit.py).
    """

    num_heads: int
    mlp_dim: int
    gelu: str
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n dim"], *, train: bool) -> Float[Array, "b dim"]:
        """Pool tokens `[B, N, D]` to `[B, D]`."""
        batch, _, dim = tokens.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, dim))
        query = jnp.broadcast_to(probe, (batch, 1, dim)).astype(self.dtype)
        x = MultiHeadAttention(self.num_heads, dtype=self.dtype, attention="xla", name="attention")(
            query, tokens, train=train
        )
        y = LayerNorm(self.norm_eps, name="norm")(x)
        x = x + Mlp(self.mlp_dim, gelu=self.gelu, dtype=self.dtype, name="mlp")(y, train=train)
        return x[:, 0]
