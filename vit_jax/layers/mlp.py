"""The two-layer perceptron of an encoder block."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.layers.projection import Projection


def _exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute GELU by erf; `jax.nn.gelu` uses erfc, which takes XLA's CPU code twice as long.

    It computes in float32, since for negative x it subtracts two numbers near 1/2.
    """
    wide = x.astype(jnp.float32)
    return (wide * (0.5 + 0.5 * jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


GELU = {
    "tanh": functools.partial(jax.nn.gelu, approximate=True),
    "exact": _exact_gelu,
    "quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""The GELUs: Google's JAX models use the tanh approximation, PyTorch's the exact one (erf), and OpenAI's CLIP the
quick one (a sigmoid; Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2)."""

UNITS = "MLP hidden units"
"""What tensor parallelism cuts in an MLP."""


class Mlp(nn.Module):
    """Dense, GELU, dropout, dense, dropout; the output is as wide as the input.

    mlp_dim: hidden units.
    gelu: a row of GELU.
    dropout: rate after each dense layer; in [0, 1).
    dtype: of products.

    Source: Dosovitskiy et al. 2020 (arXiv:2010.11929), section 3.1; initial values as in
    vision_transformer's `MlpBlock` (kernels Xavier-uniform, biases normal with deviation 1e-6).
    """

    mlp_dim: int
    gelu: str = "tanh"
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n dim"], *, train: bool) -> Float[Array, "b n dim"]:
        """Map `[B, N, D]` to `[B, N, D]` in `dtype`."""
        if self.gelu not in GELU:
            raise InputError(f"gelu {self.gelu!r} is unknown; valid: {', '.join(GELU)}")
        dim = x.shape[-1]
        options = {"num_inputs": 1, "dtype": self.dtype, "bias_init": nn.initializers.normal(1e-6), "units": UNITS}
        x = GELU[self.gelu](Projection((dim, self.mlp_dim), name="fc1", cut="outputs", **options)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = Projection((self.mlp_dim, dim), name="fc2", cut="inputs", **options)(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)
