"""Which axis of a mesh cuts which dimension of a parameter.

The rule looks at a leaf's path and shape alone. The moments of the optimizer and the moving average, whose paths end
with that of the parameter they belong to and whose shapes are the same, are therefore cut as it is.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.ops.trees import leaf_names

TENSOR = (
    (r"attention/(query|key|value)/(kernel|bias)$", -2, "attention heads"),
    (r"attention/out/kernel$", -3, "attention heads"),
    (r"mlp/fc1/(kernel|bias)$", -1, "MLP hidden units"),
    (r"mlp/dwconv/(kernel|bias)$", -1, "MLP hidden units"),
    (r"mlp/fc2/kernel$", -2, "MLP hidden units"),
)
"""Path, dimension that the axis `tensor` cuts (counted from the last, since layers may be stacked along a first one),
and what it holds. One sum over the devices of the axis then follows each attention and each MLP, as in Shoeybi et al.
2019 (Megatron-LM, arXiv:1909.08053), section 3."""


def partition(path: str, shape: Sequence[int], sizes: dict[str, int], *, min_size: int) -> PartitionSpec:
    """Which axis, if any, cuts each dimension of a leaf.

    `tensor` cuts as TENSOR says, `fsdp` the largest other dimension that it divides, the first of equals.

    Args:
        path: `params/encoder/block_0/mlp/fc1/kernel`.
        shape: of the leaf.
        sizes: of the mesh's axes by name.
        min_size: a leaf of fewer elements is not cut over `fsdp`.

    Raises:
        InputError: the axis `tensor` does not divide the dimension.
    """
    axes: list[str | None] = [None] * len(shape)
    for pattern, dimension, what in TENSOR if sizes["tensor"] > 1 else ():
        if re.search(pattern, path):
            if shape[dimension] % sizes["tensor"]:
                raise InputError(
                    f"parallel.tensor is {sizes['tensor']}, which does not divide the {shape[dimension]} {what} of "
                    f"{path}; valid: a common divisor of the model's heads and MLP hidden units"
                )
            axes[dimension] = "tensor"
    if sizes["fsdp"] > 1 and math.prod(shape) >= min_size:
        free = [i for i, length in enumerate(shape) if axes[i] is None and length % sizes["fsdp"] == 0]
        if free:
            axes[max(free, key=lambda i: shape[i])] = "fsdp"
    while axes and axes[-1] is None:  # as JAX itself writes it, so that a state compares equal to the rule
        axes.pop()
    return PartitionSpec(*axes)


def shardings(tree: Any, mesh: Mesh, *, min_size: int) -> Any:
    """A tree of shardings for the leaves of a state or of parameters, real or abstract; see `partition`."""
    sizes = dict(mesh.shape)
    return jax.tree.unflatten(
        jax.tree.structure(tree),
        [
            NamedSharding(mesh, partition(path, leaf.shape, sizes, min_size=min_size))
            for path, leaf in zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
        ],
    )
