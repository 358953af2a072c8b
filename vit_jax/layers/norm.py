"""Layer normalisation whose backward pass is one expression, and group normalisation."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, always in float32.

    Parameters: `scale` `[D]` and `bias` `[D]`, as those of `nn.LayerNorm`. The variance is computed in two passes, as
    in the other libraries. The derivative is written out, since the automatic one makes a whole training step a sixth
    slower on the CPU (docs/measurements.md).

    Source: Ba et al. 2016 (arXiv:1607.06450), equation 3.
    """

    epsilon: float
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "... dim"]) -> Float[Array, "... dim"]:
        """Map `[..., D]` to `[..., D]` float32."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        return _normalised(x.astype(jnp.float32), self.epsilon) * scale + bias


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalised(x: Float[Array, "... dim"], epsilon: float) -> Float[Array, "... dim"]:
    return _with_factor(x, epsilon)[0]


@_normalised.defjvp
def _normalised_jvp(epsilon: float, primals: tuple, tangents: tuple):
    (x,), (dx,) = primals, tangents
    y, factor = _with_factor(x, epsilon)
    along = (y * dx).mean(axis=-1, keepdims=True)
    return y, factor * (dx - dx.mean(axis=-1, keepdims=True) - y * along)


def _with_factor(x: Float[Array, "... dim"], epsilon: float):
    """Return x with mean 0 and variance 1, and the factor `[..., 1]` that scaled it."""
    centred = x - x.mean(axis=-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    return centred * factor, factor


class GroupNorm(nn.Module):
    """Normalisation over height, width and the channels of a group, always in float32.

    Parameters: `scale` `[C]` and `bias` `[C]`. The groups are neighbouring channels.

    Source: Wu and He 2018 (arXiv:1803.08494), section 3; 32 groups and 1e-6 are the defaults of Flax's `nn.GroupNorm`,
    with which Google's ResNets were trained.
    """

    num_groups: int = 32
    epsilon: float = 1e-6
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Map `[B, H, W, C]` to `[B, H, W, C]` float32.

        Raises:
            InputError: the groups do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise InputError(f"{channels} channels are not divisible by the {self.num_groups} groups of a GroupNorm")
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], self.num_groups, -1)
        centred = grouped - grouped.mean(axis=(1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean(axis=(1, 2, 4), keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape) * scale + bias
