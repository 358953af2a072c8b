"""A linear map of tokens, by a kernel of any shape."""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.ops import platform


class Projection(nn.Module):
    """A matrix product, plus a bias if `use_bias`, in `dtype`.

    The kernel is seen as a matrix: on the CPU XLA is slower with a product that also moves heads before tokens. On GPUs
    and TPUs both are one product, with the transposition in its layout. On the CPU the tokens of all examples are one
    matrix too, since XLA would otherwise copy them, transposed, for the kernel's gradient; on TPUs that would cost
    copies instead of saving them. And there the gradient of a kernel that is taller than wide is computed wide, which
    XLA is quicker at (docs/speed.md).

    Parameters: `kernel`, Xavier-uniform, and `bias` `shape[num_inputs:]`, both float32.

    shape: the kernel's shape; its first `num_inputs` axes, as one, are summed over.
    """

    shape: tuple[int, ...]
    num_inputs: int
    dtype: str = "float32"
    use_bias: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens inputs"]) -> Float[Array, "*tokens outputs"]:
        """Maps `[..., I]` to `[..., O]` in `dtype`."""
        axes = range(len(self.shape))
        init = nn.initializers.xavier_uniform(in_axis=axes[: self.num_inputs], out_axis=axes[self.num_inputs :])
        kernel = self.param("kernel", init, self.shape).astype(self.dtype).reshape(x.shape[-1], -1)
        rows = x.astype(self.dtype)
        if platform.target() == "cpu":
            rows = rows.reshape(-1, x.shape[-1])
            if kernel.shape[0] > kernel.shape[1]:
                kernel = _with_wide_gradient(kernel)
        y = rows @ kernel
        if self.use_bias:
            y += self.param("bias", self.bias_init, self.shape[self.num_inputs :]).astype(self.dtype).reshape(-1)
        return y.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_jvp
def _with_wide_gradient(kernel: Float[Array, "inputs outputs"]) -> Float[Array, "inputs outputs"]:
    """The kernel itself, whose gradient is computed wide and then transposed."""
    return kernel


@_with_wide_gradient.defjvp
def _with_wide_gradient_jvp(primals: tuple, tangents: tuple):
    return primals[0], jax.lax.optimization_barrier(tangents[0].T).T  # else XLA takes both transpositions away
