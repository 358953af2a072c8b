"""Where a batch lies among the devices of a mesh, seen from inside a compiled program."""

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

BATCH_AXES = ("data", "fsdp")
"""The axes of a mesh that cut a batch."""


def keep_cut(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """The same array, its first axis cut over BATCH_AXES where a mesh with them is in scope.

    Without it XLA, which sees parameters cut over `fsdp` and a batch cut over it too, may gather the batch instead of
    the parameters, and have each device keep activations of more than its slice (docs/parallel.md has what that takes).

    Args:
        x: `[B, ...]`, B a multiple of the axes' product; the other axes lie as XLA likes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not set(BATCH_AXES) <= set(mesh.axis_names):
        return x
    free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *free))
