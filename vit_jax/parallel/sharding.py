"""Which axis of a mesh cuts which dimension of a parameter.

The rule looks at a leaf's role and shape. The moments of the optimizer and the moving average, whose paths end with
that of the parameter they belong to and whose shapes are the same, are therefore cut as it is. One sum over the devices
of the axis `tensor` then follows each attention and each MLP, as in Shoeybi et al. 2019 (Megatron-LM,
arXiv:1909.08053), section 3.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.layers.roles import Role, Roles, role_of
from vit_jax.ops.trees import leaf_names


def partition(path: str, shape: Sequence[int], sizes: dict[str, int], *, role: Role, min_size: int) -> PartitionSpec:
    """Return the axis, if any, that cuts each dimension of a leaf.

    `tensor` cuts as the role says, `fsdp` the largest other dimension that it divides, the first of equals.

    Args:
        path: for messages, `params/encoder/block_0/mlp/fc1/kernel`.
        shape: of the leaf.
        sizes: of the mesh's axes by name.
        role: of the parameter that the leaf belongs to.
        min_size: a leaf of fewer elements is not cut over `fsdp`.

    Raises:
        InputError: the axis `tensor` does not divide the dimension.
    """
    axes: list[str | None] = [None] * len(shape)
    if role.cut is not None and sizes["tensor"] > 1 and len(shape) >= -role.cut.axis:
        length = shape[role.cut.axis]
        if length % sizes["tensor"]:
            raise InputError(
                f"parallel.tensor is {sizes['tensor']}, which does not divide the {length} {role.cut.units} of "
                f"{path}; valid: a common divisor of the model's heads and MLP hidden units"
            )
        axes[role.cut.axis] = "tensor"
    if sizes["fsdp"] > 1 and math.prod(shape) >= min_size:
        free = [i for i, length in enumerate(shape) if axes[i] is None and length % sizes["fsdp"] == 0]
        if free:
            axes[max(free, key=lambda i: shape[i])] = "fsdp"
    while axes and axes[-1] is None:  # as JAX itself writes it, so that a state compares equal to the rule
        axes.pop()
    return PartitionSpec(*axes)


def shardings(tree: Any, mesh: Mesh, *, roles: Roles, min_size: int) -> Any:
    """Make a tree of shardings for the leaves of a state or of parameters.

    Args:
        tree: of arrays or of `jax.ShapeDtypeStruct`.
        mesh: with the axes `data`, `fsdp` and `tensor`.
        roles: path -> role of the model's parameters; see `layers.roles.role_of` for those that it lacks.
        min_size: see `partition`.

    Raises:
        InputError: see `partition`.
    """
    sizes = dict(mesh.shape)
    return jax.tree.unflatten(
        jax.tree.structure(tree),
        [
            NamedSharding(mesh, partition(path, leaf.shape, sizes, role=role_of(roles, path), min_size=min_size))
            for path, leaf in zip(leaf_names(tree), jax.tree.leaves(tree), strict=True)
        ],
    )
