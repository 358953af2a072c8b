"""The depth-wise convolution of 3 x 3, and the perceptron that has one in its middle."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.layers.mlp import GELU, UNITS
from vit_jax.layers.projection import Projection

ACTIVATIONS = GELU | {"relu": jax.nn.relu, "silu": jax.nn.silu}
"""Activations of `DepthwiseMlp`, by name."""


@jax.custom_vjp
def depthwise_convolution(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"]) -> Float[Array, "b h w c"]:
    """Convolve each channel of x `[B, h, w, C]`, padded by zeros, with its own kernel `[3, 3, 1, C]`.

    It is written as a sum of nine shifted products, which XLA's CPU code computes 8 to 30 times as fast as its
    convolution with as many groups as channels, and elsewhere in one pass over memory. The derivative is written out:
    that of the nine shifts would be nine padded copies.
    """
    return functools.reduce(operator.add, (shifted * kernel[i, j, 0] for (i, j), shifted in _shifted(x)))


def _shifted(x: Float[Array, "b h w c"]):
    """Return ((row, column) in the kernel, the map that it is multiplied with) for the kernel's nine elements."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [((i, j), padded[:, i : i + height, j : j + width]) for i in range(3) for j in range(3)]


def _forward(x, kernel):
    return depthwise_convolution(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    sums = [jnp.sum((shifted * dy).astype(jnp.float32), axis=(0, 1, 2)) for _, shifted in _shifted(x)]
    return depthwise_convolution(dy, kernel[::-1, ::-1]), jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


depthwise_convolution.defvjp(_forward, _backward)


class DepthwiseConv(nn.Module):
    """A depth-wise convolution of 3 x 3 with stride 1, zeros around the map, and a bias.

    Parameters: `kernel` `[3, 3, 1, C]`, `bias` `[C]`.

    Source: PVT v2's `DWConv` (classification/pvt_v2.py), whose initial values these are too.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Map `[B, h, w, C]` to the same shape in `dtype`."""
        channels = x.shape[-1]
        cut = roles.Cut(-1, UNITS)
        init = nn.initializers.normal(math.sqrt(2 / 9))
        kernel = roles.param(self, "kernel", init, (3, 3, 1, channels), roles.kernel(None, cut=cut))
        bias = roles.param(self, "bias", nn.initializers.zeros, (channels,), roles.Role(cut=cut))
        return depthwise_convolution(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class DepthwiseMlp(nn.Module):
    """Dense, depth-wise convolution, activation, dropout, dense, dropout; the width comes back to the input's.

    mlp_dim: hidden units.
    activation: a row of ACTIVATIONS.
    depthwise: whether there is a convolution.
    extra_relu: whether a ReLU precedes it, as in the linear variant.
    dropout: rate after the activation and after the second dense layer; in [0, 1).
    dtype: of products.

    Source: Wang et al. 2021 (PVT v2, arXiv:2106.13797), section 3.3, and `Mlp` in classification/pvt_v2.py; initial
    values of the dense layers as in `layers.mlp.Mlp`.
    """

    mlp_dim: int
    activation: str = "exact"
    depthwise: bool = True
    extra_relu: bool = False
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b ... dim"], *, train: bool) -> Float[Array, "b ... dim"]:
        """Map `[B, h, w, D]`, or without the convolution any `[B, ..., D]`, to the same shape in `dtype`."""
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation {self.activation!r} is unknown; valid: {', '.join(ACTIVATIONS)}")
        dim = x.shape[-1]
        options = {"num_inputs": 1, "dtype": self.dtype, "bias_init": nn.initializers.normal(1e-6), "units": UNITS}
        x = Projection((dim, self.mlp_dim), name="fc1", cut="outputs", **options)(x)
        if self.extra_relu:
            x = jax.nn.relu(x)
        if self.depthwise:
            x = DepthwiseConv(self.dtype, name="dwconv")(x)
        x = ACTIVATIONS[self.activation](x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = Projection((self.mlp_dim, dim), name="fc2", cut="inputs", **options)(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)
