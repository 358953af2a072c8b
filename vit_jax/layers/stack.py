"""A stack of blocks, computed one by one or as a loop, and what its backward pass keeps of them."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.ops.batch_axes import keep_cut

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass keeps of a block; it computes the rest again (Chen et al. 2016, arXiv:1604.06174): `none`
keeps everything; `full` the block's input alone; `dots` also the outputs of matrix products with parameters, so that
norms, GELU and attention weights are computed again."""


class Stacked(NamedTuple):
    """What a stack of blocks gives.

    x: output of the last block.
    intermediates: outputs of the blocks that were asked for, in the order of the blocks.
    """

    x: Array
    intermediates: tuple[Array, ...] = ()


def run_stack(
    parent: nn.Module,
    blocks: Sequence[nn.Module],
    x: Float[Array, "b n dim"],
    *,
    train: bool,
    remat: str,
    scan: bool,
    outputs: int | None = None,
    intermediates: Collection[int] = (),
) -> Stacked:
    """Pass x through the blocks in turn.

    A scanned stack compiles one block instead of all. The parameters stay those of each block and are stacked for the
    loop in every step: that copy is a small part of a step (docs/memory.md), and checkpoints, freezing, rates by layer
    and sharding, which go by the parameters' paths, do not depend on the loop.

    Args:
        parent: the module that the blocks are in.
        blocks: called with `(x, *, train)`, they give an array like x. To be scanned they must be of one class, with
            parameters of the same shapes, and the fields they differ by must be numbers that may be traced.
        x: `[B, N, D]`, or any other array.
        train: passed on.
        remat: a row of REMAT. Neither the result nor the gradients change.
        scan: whether to loop. Dropout then draws other random numbers from the same key.
        outputs: number of leading tokens that are wanted; None is all. The last block then computes no others, and must
            take `outputs` too. In a loop, or where its output is among the intermediates, it computes all.
        intermediates: numbers of the blocks, from 1, whose outputs are wanted too; see `block_numbers`.

    Returns:
        The outputs; x is `[B, outputs, D]`, or like the argument.
    """
    if scan and not parent.is_initializing():
        stacked = _scanned(parent, blocks, x, train=train, remat=remat, intermediates=intermediates)
        return stacked._replace(x=stacked.x[:, :outputs]) if outputs is not None else stacked

    def run(block: nn.Module, x: Array, **options: int) -> Array:
        def call(block: nn.Module, x: Array) -> Array:
            return block(x, train=train, **options)

        return (call if remat == "none" else nn.remat(call, policy=REMAT[remat]))(block, x)

    kept = []
    for number, block in enumerate(blocks, start=1):
        is_last, is_kept = number == len(blocks), number in intermediates
        x = run(block, x, outputs=outputs) if is_last and outputs is not None and not is_kept else run(block, x)
        if is_kept:
            kept.append(x)
            x = x[:, :outputs] if is_last and outputs is not None else x
    return Stacked(x, tuple(kept))


def block_numbers(intermediates: Sequence[int], depth: int) -> tuple[int, ...]:
    """Turn the numbers of blocks, as a user gives them, into numbers from 1 to depth.

    Args:
        intermediates: numbers from 1, or from -depth to -1 counted from the end; in any order.
        depth: number of blocks.

    Returns:
        In rising order, each once.

    Raises:
        InputError: there is no such block.

    Example:
        >>> block_numbers((-1, 3, 12), 12)
        (3, 12)
    """
    for number in intermediates:
        if not 1 <= abs(number) <= depth:
            raise InputError(f"intermediates has block {number}; valid: 1 to {depth}, or -{depth} to -1 from the end")
    return tuple(sorted({number if number > 0 else depth + 1 + number for number in intermediates}))


def _scanned(
    parent: nn.Module, blocks: Sequence[nn.Module], x: Array, *, train: bool, remat: str, intermediates: Collection[int]
) -> Stacked:
    mutable = ["intermediates"] if parent.is_mutable_collection("intermediates") else []
    first = blocks[0].clone(parent=None, name=None)

    def run(x: Array, each: tuple) -> tuple[Array, Any]:
        params, key, fields = each
        rngs = None if key is None else {"dropout": key}
        x, sown = first.clone(**fields).apply({"params": params}, x, train=train, rngs=rngs, mutable=mutable)
        x = keep_cut(x)
        return x, (sown, x if intermediates else None)

    if remat != "none":
        run = jax.checkpoint(run, policy=REMAT[remat], prevent_cse=False)  # a loop's two passes are never merged
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(block.variables["params"] for block in blocks))
    keys = jax.random.split(parent.make_rng("dropout"), len(blocks)) if parent.has_rng("dropout") else None
    x, (sown, each) = jax.lax.scan(run, keep_cut(x), (params, keys, _differing_fields(blocks)))
    for i, block in enumerate(blocks):
        for name, values in sown.get("intermediates", {}).items():
            block.put_variable("intermediates", name, jax.tree.map(lambda leaf, i=i: leaf[i], values))
    return Stacked(x, tuple(each[number - 1] for number in sorted(intermediates)))


def _differing_fields(blocks: Sequence[nn.Module]) -> dict[str, Array]:
    """Stack the values of those fields that are not the same for all blocks: field -> `[blocks]`."""
    names = [field.name for field in dataclasses.fields(blocks[0]) if field.name not in ("name", "parent")]
    values = {name: [getattr(block, name) for block in blocks] for name in names}
    return {name: jnp.asarray(each) for name, each in values.items() if any(value != each[0] for value in each)}
