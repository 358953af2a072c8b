"""A linear map of tokens, by a kernel of any shape."""

from typing import Literal

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.layers import roles
from vit_jax.ops import platform


class Projection(nn.Module):
    """A matrix product and the addition of a bias.

    The kernel is used as a matrix: on the CPU XLA is slower with a product that also moves heads before tokens. On GPUs
    and TPUs both are one product, with the transposition in its layout. On the CPU the tokens of all examples form one
    matrix too, since XLA would otherwise copy them, transposed, for the kernel's gradient; on TPUs that would add
    copies. On the CPU the gradient of a kernel that is taller than wide is computed as its transpose, which is faster
    in XLA (docs/measurements.md).

    Parameters: `kernel`, Xavier-uniform, and `bias` `shape[num_inputs:]`, both float32.

    shape: of the kernel.
    num_inputs: number of its leading axes, which are summed over together.
    dtype: of the product.
    use_bias: whether there is a bias.
    bias_init: initialiser of the bias.
    cut: how tensor parallelism cuts the kernel: along its first output axis (and the bias likewise), along its first
        input axis, or not at all.
    units: what lies along that axis; see `roles.Cut`.
    """

    shape: tuple[int, ...]
    num_inputs: int
    dtype: str = "float32"
    use_bias: bool = True
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    cut: Literal["outputs", "inputs"] | None = None
    units: str = ""

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens inputs"]) -> Float[Array, "*tokens outputs"]:
        """Map `[..., I]` to `[..., O]` in `dtype`."""
        axes = range(len(self.shape))
        init = nn.initializers.xavier_uniform(in_axis=axes[: self.num_inputs], out_axis=axes[self.num_inputs :])
        cut, bias_cut = self._cuts()
        kernel = roles.param(self, "kernel", init, self.shape, roles.kernel(self.num_inputs, cut=cut))
        kernel = kernel.astype(self.dtype).reshape(x.shape[-1], -1)
        rows = x.astype(self.dtype)
        if platform.target() == "cpu":
            rows = rows.reshape(-1, x.shape[-1])
            if kernel.shape[0] > kernel.shape[1]:
                kernel = _with_wide_gradient(kernel)
        y = rows @ kernel
        if self.use_bias:
            shape = self.shape[self.num_inputs :]
            bias = roles.param(self, "bias", self.bias_init, shape, roles.Role(cut=bias_cut))
            y += bias.astype(self.dtype).reshape(-1)
        return y.reshape(*x.shape[:-1], kernel.shape[-1])

    def _cuts(self) -> tuple[roles.Cut | None, roles.Cut | None]:
        """Return the cuts of the kernel and of the bias."""
        if self.cut is None:
            return None, None
        if self.cut == "inputs":
            return roles.Cut(-len(self.shape), self.units), None
        outputs = roles.Cut(self.num_inputs - len(self.shape), self.units)
        return outputs, outputs


@jax.custom_jvp
def _with_wide_gradient(kernel: Float[Array, "inputs outputs"]) -> Float[Array, "inputs outputs"]:
    """Return the kernel itself; its gradient is computed wide and then transposed."""
    return kernel


@_with_wide_gradient.defjvp
def _with_wide_gradient_jvp(primals: tuple, tangents: tuple):
    return primals[0], jax.lax.optimization_barrier(tangents[0].T).T  # without it XLA removes both transpositions
