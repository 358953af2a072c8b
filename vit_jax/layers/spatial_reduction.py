"""Convolutions with a stride, and the reduction of keys and values that makes attention cheaper."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.layers.mlp import GELU
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import check_channels

LINEAR_GRID = (7, 7)
"""Rows and columns that linear attention pools keys and values to."""


class Convolution(nn.Module):
    """A convolution with a bias: each window of `size` x `size`, `stride` apart, as one vector of `dim`.

    dim: output channels.
    size: side of a window.
    stride: distance of neighbouring windows.
    padding: rows and columns of zeros on each side.
    dtype: of products.
    is_stem: whether it sees the image itself.

    Parameters: `kernel` `[size, size, C, D]`, `bias` `[D]`; kernel normal with variance 2 / (size^2 D), as in
    classification/pvt_v2.py.
    """

    dim: int
    size: int
    stride: int
    padding: int = 0
    dtype: str = "float32"
    is_stem: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w dim"]:
        """Map `[B, H, W, C]` to `[B, h, w, dim]` in `dtype`; pixels beyond the last whole window are cut off.

        Raises:
            InputError: the map is smaller than a window, or has other channels than the kernel.
        """
        channels = x.shape[-1]
        if self.has_variable("params", "kernel"):
            check_channels(channels, self.get_variable("params", "kernel").shape[2])
        if min(windows(x.shape[1:3], self.size, self.stride, self.padding)) < 1:
            raise InputError(
                f"the images are too small: {self.name} takes windows of {self.size}x{self.size} from a map of "
                f"{x.shape[1]}x{x.shape[2]}; valid: larger images"
            )
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        role = roles.kernel(3, kind="stem" if self.is_stem else "kernel")
        kernel = roles.param(self, "kernel", init, (self.size, self.size, channels, self.dim), role)
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=((self.padding, self.padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias.astype(self.dtype)


def windows(size: tuple[int, ...], window: int, stride: int, padding: int = 0) -> tuple[int, int]:
    """Count the windows of a convolution along the height and the width of a map."""
    height, width = ((length + 2 * padding - window) // stride + 1 for length in size)
    return height, width


def pooled_to(x: Float[Array, "b H W c"], grid: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Average the map `[B, H, W, C]` over the cells of a grid, which overlap where they do not divide the map.

    Cell i of n along a side of length L reaches from floor(i L / n) to before ceil((i + 1) L / n).

    Source: PyTorch's `AdaptiveAvgPool2d`.
    """
    rows, columns = (_cells(length, n) for length, n in zip(x.shape[1:3], grid, strict=True))
    return jnp.einsum("iH,jW,bHWc->bijc", rows, columns, x.astype(jnp.float32), precision="highest")


def _cells(length: int, n: int) -> np.ndarray:
    """Make the weights of each position in each cell's mean, `[n, length]` float32."""
    weights = np.zeros((n, length), np.float32)
    for i in range(n):
        start, end = i * length // n, -((i + 1) * length // -n)
        weights[i, start:end] = 1 / (end - start)
    return weights


class SpatialReduction(nn.Module):
    """Reduces the map that a block's keys and values are made of to fewer and larger cells.

    ratio: side of a new cell in cells of the map, by a convolution whose stride is its size. 1 is the map itself.
    linear: whether the map is averaged to LINEAR_GRID instead, followed by a convolution of 1 x 1, the norm and GELU.
    norm_eps: LayerNorm's epsilon.
    dtype: of products.

    Source: Wang et al. 2021 (arXiv:2102.12122), equations 2 and 3; for linear, Wang et al. 2021 (arXiv:2106.13797),
    section 3.1, and `Attention` in classification/pvt_v2.py.
    """

    ratio: int
    linear: bool
    norm_eps: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w dim"]) -> Float[Array, "b m dim"]:
        """Map `[B, h, w, D]` to `[B, M, D]` float32."""
        size = 1 if self.linear else self.ratio
        x = pooled_to(x, LINEAR_GRID) if self.linear else x
        x = Convolution(x.shape[-1], size, size, dtype=self.dtype, name="conv")(x)
        x = LayerNorm(self.norm_eps, name="norm")(x)
        x = GELU["exact"](x) if self.linear else x
        return x.reshape(x.shape[0], -1, x.shape[-1])
