"""Attention within shifted windows of a feature map, and the merging of patches between stages."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.layers.attention import UNITS
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.projection import Projection
from vit_jax.ops import windows
from vit_jax.ops.windows import Size

_LARGEST_SCALE = math.log(1 / 0.01)
_BIAS_HIDDEN = 512  # units of the MLP that gives V2's biases


@dataclasses.dataclass(frozen=True)
class Windowing:
    """The settings of a stage's attention.

    num_heads: number of heads.
    head_dim: channels of one; None is C / num_heads.
    window: rows and columns.
    shift: rows and columns by which the map of every second block is rolled first.
    fit: how windows are fitted to a map; see `windows.fit`.
    fixed: whether window and shift hold for any map, which is then padded to at least one window.
    mask_value: added to the scores of tokens that only rolling brought together.
    pretrained_window: of V2, the window whose offsets the MLP knows; None is `window`.
    dropout: on the weights.
    qkv_bias: whether query, key (V1) and value have a bias.
    """

    num_heads: int
    head_dim: int | None
    window: Size
    shift: Size
    fit: str
    fixed: bool
    mask_value: float
    pretrained_window: Size | None
    dropout: float
    qkv_bias: bool


class WindowAttention(nn.Module):
    """Multi-head attention of each token to those of its window, with a bias for each offset.

    Parameters: `query`, `key`, `value`, `out` as in `MultiHeadAttention`, and `bias_table`
    `[2 rows - 1, 2 columns - 1, heads]` float32 for a window of rows x columns, truncated normal with deviation 0.02.
    A smaller window has the biases of the same offsets.

    how: the stage's windows.
    dtype: of matrix products.

    Source: Liu et al. 2021 (Swin, arXiv:2103.14030), section 3.2. The projections act on the whole map, so that
    cutting windows and setting heads apart are one transposition.
    """

    how: Windowing
    dtype: str = "float32"

    key_bias = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], rolled: bool | Array, *, train: bool) -> Float[Array, "b h w c"]:
        """Map `[B, h, w, C]` to the same shape.

        Args:
            x: `[B, h, w, C]`.
            rolled: whether windows are shifted; `[]` bool where one loop computes shifted and other blocks.
            train: whether to drop out.

        Raises:
            InputError: the heads do not divide C.
        """
        _, *size, dim = x.shape
        size = (size[0], size[1])
        if self.how.head_dim is None and dim % self.how.num_heads:
            raise InputError(f"{dim} channels are not divisible by num_heads {self.how.num_heads}")
        shift = (0, 0) if rolled is False else self.how.shift
        placed = windows.fit(size, self.how.window, shift, how=self.how.fit, fixed=self.how.fixed)
        x = _placed(x, placed, rolled)
        shape = (dim, self.how.num_heads, self.how.head_dim or dim // self.how.num_heads)
        options: Any = {"dtype": self.dtype, "units": UNITS}
        query, key, value = (
            windows.partition(
                Projection(shape, 1, use_bias=self.how.qkv_bias and biased, cut="outputs", name=name, **options)(x),
                placed.window,
                self.how.num_heads,
            )
            for name, biased in (("query", True), ("key", self.key_bias), ("value", True))
        )  # [b, windows, heads, n, d]
        scores = self._scores(query, key) + self._bias(placed.window)
        mask = windows.shift_mask(placed, self.how.mask_value)
        if mask is not None:
            scores = scores + (mask if rolled is True else mask * rolled)[:, None]
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        weights = nn.Dropout(self.how.dropout, deterministic=not train)(weights)
        mixed = jnp.einsum("bwhnm,bwhmd->bwhnd", weights, value)
        y = windows.merge(mixed, placed.window, placed.size)
        y = Projection((*shape[1:], dim), 2, cut="inputs", name="out", **options)(y)
        return _put_back(y, placed, rolled, size)

    def _scores(
        self, query: Float[Array, "b windows heads n d"], key: Float[Array, "b windows heads n d"]
    ) -> Float[Array, "b windows heads n n"]:
        scaled = query * (query.shape[-1] ** -0.5)
        return jnp.einsum("bwhnd,bwhmd->bwhnm", scaled, key, preferred_element_type=jnp.float32)

    def _bias(self, window: Size) -> Float[Array, "heads n n"]:
        rows, columns = self.how.window
        shape = (2 * rows - 1, 2 * columns - 1, self.how.num_heads)
        init = nn.initializers.truncated_normal(0.02)
        table = roles.param(self, "bias_table", init, shape, roles.Role("bias_table"))
        return _looked_up(table, window, self.how.window)


class CosineWindowAttention(WindowAttention):
    """`WindowAttention` of Swin V2: cosines for scores, and biases from an MLP over the offsets' logarithms.

    Instead of `bias_table` there are `logit_scale` `[heads]`, the logarithm of what the cosines are multiplied by (at
    most 100; 10 at first), and the MLP's `offset_hidden` `[2, 512]`, `offset_hidden_bias` `[512]` and `offset_out`
    `[512, heads]`; none of them is called a kernel, so that no weight decay and no orthogonalised update applies, as in
    the authors' recipe. Keys have no bias.

    Source: Liu et al. 2022 (Swin V2, arXiv:2111.09883), sections 3.2 and 3.3; the bounds of the bias (0 to 16) and of
    the scale from the authors' models/swin_transformer_v2.py.
    """

    key_bias = False

    def _scores(
        self, query: Float[Array, "b windows heads n d"], key: Float[Array, "b windows heads n d"]
    ) -> Float[Array, "b windows heads n n"]:
        scale = self.param("logit_scale", nn.initializers.constant(math.log(10.0)), (self.how.num_heads,))
        scale = jnp.exp(jnp.minimum(scale, _LARGEST_SCALE))[:, None, None]
        query = (_unit(query) * scale).astype(self.dtype)
        return jnp.einsum(
            "bwhnd,bwhmd->bwhnm", query, _unit(key).astype(self.dtype), preferred_element_type=jnp.float32
        )

    def _bias(self, window: Size) -> Float[Array, "heads n n"]:
        init = nn.initializers.truncated_normal(0.02)
        hidden = self.param("offset_hidden", init, (2, _BIAS_HIDDEN))
        bias = self.param("offset_hidden_bias", nn.initializers.zeros, (_BIAS_HIDDEN,))
        out = self.param("offset_out", init, (_BIAS_HIDDEN, self.how.num_heads))
        offsets = windows.log_offsets(window, self.how.pretrained_window)
        table = jax.nn.relu(_exact(offsets, hidden) + bias)
        table = _exact(table, out)  # [2 rows - 1, 2 columns - 1, heads]
        return _looked_up(16.0 * jax.nn.sigmoid(table), window, window)


class PatchMerging(nn.Module):
    """Joins each 2 x 2 patches into one of twice the channels; an odd side is padded with zeros.

    Parameters: `norm`, and `reduction` with kernel `[4 C, 2 C]`, whose inputs are the patches above left, below left,
    above right, below right.

    norm_first: LayerNorm before the reduction (Swin), or after it (V2).

    Source: Liu et al. 2021 (arXiv:2103.14030), section 3.1; the order of the four from the authors' code.
    """

    norm_eps: float
    norm_first: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c2"]:
        """Map `[B, h, w, C]` to `[B, ceil(h / 2), ceil(w / 2), 2 C]` in `dtype`."""
        batch, height, width, dim = x.shape
        x = pad(x, (height + height % 2, width + width % 2))
        x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, dim)
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, (height + 1) // 2, (width + 1) // 2, 4 * dim)
        norm = LayerNorm(self.norm_eps, name="norm")
        reduction = Projection((4 * dim, 2 * dim), 1, self.dtype, use_bias=False, name="reduction")
        return reduction(norm(x)) if self.norm_first else norm(reduction(x)).astype(self.dtype)


def _placed(x: Float[Array, "b h w c"], fit: windows.Fit, rolled: bool | Array) -> Float[Array, "b h2 w2 c"]:
    """Pad and rolls the map, in the fit's order."""
    if fit.pad_first:
        return _roll(pad(x, fit.size), fit.shift, rolled, -1)
    return pad(_roll(x, fit.shift, rolled, -1), fit.size)


def _put_back(
    x: Float[Array, "b h2 w2 c"], fit: windows.Fit, rolled: bool | Array, size: Size
) -> Float[Array, "b h w c"]:
    """Undo `_placed` for a map of this size."""
    if fit.pad_first:
        return _roll(x, fit.shift, rolled, 1)[:, : size[0], : size[1]]
    return _roll(x[:, : size[0], : size[1]], fit.shift, rolled, 1)


def _roll(x: Float[Array, "b h w c"], shift: Size, rolled: bool | Array, sign: int) -> Float[Array, "b h w c"]:
    if not any(shift):
        return x
    steps = [sign * s if rolled is True else sign * s * rolled for s in shift]
    return jnp.roll(jnp.roll(x, steps[0], axis=1), steps[1], axis=2)


def pad(x: Float[Array, "b h w c"], size: Size) -> Float[Array, "b h2 w2 c"]:
    """Pad the map with zeros below and to the right."""
    if x.shape[1:3] == size:
        return x
    return jnp.pad(x, ((0, 0), (0, size[0] - x.shape[1]), (0, size[1] - x.shape[2]), (0, 0)))


def _looked_up(table: Float[Array, "rows columns heads"], window: Size, made_for: Size) -> Float[Array, "heads n n"]:
    index = windows.relative_index(window, made_for)
    return table.reshape(-1, table.shape[-1]).T[:, index]


def _unit(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Scale vectors to length 1 in float32; a zero vector, such as a key of padding, stays zero and has a gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))


def _exact(x: Float[ArrayLike, "... n"], y: Float[Array, "n m"]) -> Float[Array, "... m"]:
    """Multiply in full float32; accelerators compute with fewer digits by default."""
    return jnp.matmul(x, y, precision="highest")
