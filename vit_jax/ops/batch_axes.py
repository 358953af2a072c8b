"""Where a batch lies among devices, seen from inside a compiled program."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

BATCH_AXES = ("data", "fsdp")
"""The axes of a mesh that cut a batch."""

_AXIS = contextvars.ContextVar[str | None]("batch axis", default=None)


@contextlib.contextmanager
def sliced_over(axis_name: str | None) -> Iterator[None]:
    """Say that what is traced in this context sees a device's slice of a batch, cut over an axis of `pmap`."""
    token = _AXIS.set(axis_name)
    try:
        yield
    finally:
        _AXIS.reset(token)


def mean_over_devices(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Average an array over the devices that each hold a slice of the batch; the same on all of them.

    Statistics of a whole batch (batch normalisation, a centre) are the mean of those of equal slices. Where one program
    sees the whole batch, as on one device or under `mesh`, the array is returned as it is.
    """
    axis_name = _AXIS.get()
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def keep_cut(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Return the same array, its first axis cut over BATCH_AXES where a mesh with them is in scope.

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
