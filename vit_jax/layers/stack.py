"""A stack of blocks, computed one by one or as a loop, and what its backward pass keeps of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.ops.batch_axes import keep_cut

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass finds of a block, the rest being computed once more (Chen et al. 2016, arXiv:1604.06174):
`none`, everything; `full`, its input alone; `dots`, also what its matrix products with parameters give, which leaves
norms, GELU and attention weights to be computed again."""


def run_stack(
    parent: nn.Module,
    blocks: Sequence[nn.Module],
    x: Float[Array, "b n dim"],
    *,
    train: bool,
    remat: str,
    scan: bool,
    outputs: int | None = None,
) -> Float[Array, "b m dim"]:
    """Passes x through the blocks in turn.

    A scanned stack is compiled once instead of once a block. The parameters stay those of each block, and are stacked
    for the loop in every step: that copy is a small part of a step (docs/memory.md), and whatever goes by a parameter's
    path (checkpoints, freezing, rates by layer, sharding) need not know of the loop.

    Args:
        parent: the module that the blocks are in.
        blocks: called with `(x, *, train)`, they give an array like x. To be scanned they must be of one class, with
            parameters of the same shapes, and the fields they differ by must be numbers that may be traced.
        x: `[B, N, D]`, or any other array.
        train: passed on.
        remat: one of REMAT. Neither the result nor the gradients change.
        scan: whether to loop. Dropout then draws other random numbers from the same key.
        outputs: how many of the first tokens are wanted; None is all. The last block then computes no others, and must
            take `outputs` too; in a loop it is like all before it.

    Returns:
        `[B, outputs, D]`, or like x.
    """
    if scan and not parent.is_initializing():
        x = _scanned(parent, blocks, x, train=train, remat=remat)
        return x if outputs is None else x[:, :outputs]

    def run(block: nn.Module, x: Array, **options: int) -> Array:
        def call(block: nn.Module, x: Array) -> Array:
            return block(x, train=train, **options)

        return (call if remat == "none" else nn.remat(call, policy=REMAT[remat]))(block, x)

    for block in blocks[:-1]:
        x = run(block, x)
    return run(blocks[-1], x) if outputs is None else run(blocks[-1], x, outputs=outputs)


def _scanned(parent: nn.Module, blocks: Sequence[nn.Module], x: Array, *, train: bool, remat: str) -> Array:
    mutable = ["intermediates"] if parent.is_mutable_collection("intermediates") else []
    first = blocks[0].clone(parent=None, name=None)

    def run(x: Array, each: tuple) -> tuple[Array, Any]:
        params, key, fields = each
        rngs = None if key is None else {"dropout": key}
        x, sown = first.clone(**fields).apply({"params": params}, x, train=train, rngs=rngs, mutable=mutable)
        return keep_cut(x), sown

    if remat != "none":
        run = jax.checkpoint(run, policy=REMAT[remat], prevent_cse=False)  # a loop's two passes are never merged
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(block.variables["params"] for block in blocks))
    keys = jax.random.split(parent.make_rng("dropout"), len(blocks)) if parent.has_rng("dropout") else None
    x, sown = jax.lax.scan(run, keep_cut(x), (params, keys, _differing_fields(blocks)))
    for i, block in enumerate(blocks):
        for name, values in sown.get("intermediates", {}).items():
            block.put_variable("intermediates", name, jax.tree.map(lambda leaf, i=i: leaf[i], values))
    return x


def _differing_fields(blocks: Sequence[nn.Module]) -> dict[str, Array]:
    """Field -> its values, one a block, of those fields that are not the same for all blocks."""
    names = [field.name for field in dataclasses.fields(blocks[0]) if field.name not in ("name", "parent")]
    values = {name: [getattr(block, name) for block in blocks] for name in names}
    return {name: jnp.asarray(each) for name, each in values.items() if any(value != each[0] for value in each)}
