"""The last layer of a task."""

from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.layers import roles


class Head(nn.Dense):
    """A dense layer whose kernel has the role `head` and starts at zero.

    A checkpoint with another head can then be fine-tuned, and a head that was never trained is noticed. Fields and
    parameters are those of `nn.Dense`.
    """

    kernel_init: nn.initializers.Initializer = nn.initializers.zeros

    def __call__(self, inputs: Float[Array, "... dim"]) -> Float[Array, "... features"]:
        """Map `[..., D]` to `[..., features]`."""
        roles.declare(self, "kernel", roles.kernel(1, kind="head"))
        return super().__call__(inputs)
