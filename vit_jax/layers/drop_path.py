"""Stochastic depth."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class DropPath(nn.Module):
    """Drops a residual branch for randomly chosen examples and scales it up for the others.

    Source: Huang et al. 2016 (arXiv:1603.09382); dividing by the survival rate while training, instead of
    multiplying in evaluation, is what timm and vision_transformer do.

    rate: of dropping, in [0, 1); a traced array where one loop computes blocks of different rates.
    """

    rate: float | Float[Array, ""]

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], *, train: bool) -> Float[Array, "b ..."]:
        """Keep each example of x `[B, ...]` with probability 1 - rate; the identity in evaluation."""
        if not train or (not isinstance(self.rate, jax.Array) and self.rate == 0.0):
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return jnp.where(kept, (x / keep).astype(x.dtype), jnp.zeros_like(x))
