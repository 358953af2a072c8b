"""Where a model looks: the weights of its self-attention, their rollout over the layers, and maps of the patches."""

import re
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.types import Params

HEAD_FUSION = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}


def attention_of(
    encoder: nn.Module, params: Params, pixel_values: Float[Array, "b H W c"]
) -> Float[Array, "layers b heads n n"]:
    """Return the weights of an encoder's self-attention.

    They are those that the layers `block_<i>/attention` leave in the collection `intermediates`, so that attention
    elsewhere (in the pooling, for one) does not count.

    Args:
        encoder: images to `Features`.
        params: the encoder's.
        pixel_values: `[B, H, W, C]` float, normalised.

    Returns:
        `[layers, B, heads, N, N]` float32, each row sums to 1.

    Raises:
        InputError: the encoder has no such layers.
    """
    _, variables = encoder.apply({"params": params}, pixel_values, train=False, mutable=["intermediates"])
    sown: Any = flax.traverse_util.flatten_dict(variables.get("intermediates", {}), sep="/")
    layers = {}
    for name, weights in sown.items():
        if match := re.fullmatch(r"block_(\d+)/attention/attention_weights", name):
            (layers[int(match[1])],) = weights
    shapes = {weights.shape[1:] for weights in layers.values()}
    if len(shapes) != 1 or any(queries != keys for *_, queries, keys in shapes):  # none, or a pyramid's
        raise InputError(
            f"{type(encoder).__name__} has no self-attention between all its tokens; valid: vit, deit, hybrid, t2t"
        )
    return jnp.stack([layers[i] for i in sorted(layers)])


def attention_rollout(
    attention: Float[Array, "layers b heads n n"], *, head_fusion: str = "mean", residual: float = 0.5
) -> Float[Array, "b n n"]:
    """Compute how much each last token is made of each first one, if attention were all that mixes them.

    The product A_L ... A_1 of each layer's A = (1 - residual) W + residual I, where W is the layer's attention with
    its heads fused.

    Args:
        attention: `[layers, B, heads, N, N]`, first layer first, as `Classifier.attention` gives it; `attention[k:]`
            leaves out the first k layers.
        head_fusion: `mean`, `max` or `min` over the heads.
        residual: the identity's weight in [0, 1], which stands for the residual connection.

    Returns:
        `[B, N, N]` float32, each row sums to 1.

    Raises:
        InputError: a shape or value that is not valid.

    Source: Abnar and Zuidema 2020 (arXiv:2005.00928), section 3, which has `mean` and 0.5. The rows of `max` and
    `min`, which do not sum to 1, are divided by their sum before the identity is added, so that `residual` is its
    weight there too; where `min` leaves nothing of a row, the token keeps to itself.
    """
    attention = jnp.asarray(attention)
    if attention.ndim != 5 or attention.shape[-1] != attention.shape[-2] or not attention.size:
        raise InputError(f"attention has the shape {attention.shape}; valid: [layers, B, heads, N, N]")
    check_rollout(head_fusion, residual)
    identity = jnp.eye(attention.shape[-1], dtype=jnp.float32)
    rollout = identity
    for layer in attention:
        weights = HEAD_FUSION[head_fusion](layer.astype(jnp.float32), axis=1)  # [b, n, n]
        total = weights.sum(axis=-1, keepdims=True)
        weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), identity)
        mixing = (1.0 - residual) * weights + residual * identity
        rollout = jnp.matmul(mixing, rollout, precision="highest")
    return rollout


def check_rollout(head_fusion: str, residual: float) -> None:
    """Raise InputError for an option of `attention_rollout` that is not valid."""
    if head_fusion not in HEAD_FUSION:
        raise InputError(f"head_fusion is {head_fusion!r}; valid: {', '.join(HEAD_FUSION)}")
    if not 0.0 <= residual <= 1.0:
        raise InputError(f"residual is {residual}; valid: 0 to 1")


def patch_map(
    weights: Float[Array, "*leading n n"], *, grid: tuple[int, int], class_token: bool
) -> Float[Array, "*leading h w"]:
    """Return what an image's description takes from each patch, as a map.

    Args:
        weights: `[..., N, N]`, attention or its rollout; its last h * w tokens are the patches, row by row.
        grid: rows and columns of patches `(h, w)`.
        class_token: whether the first token describes the image: then its row is the map. Else the patches together
            do, and it is the mean of their rows.

    Returns:
        `[..., h, w]`; it sums to less than 1 where prefix tokens have a share.

    Raises:
        InputError: fewer tokens than patches.
    """
    patches = grid[0] * grid[1]
    prefix = weights.shape[-1] - patches
    if prefix < int(class_token):
        raise InputError(f"{weights.shape[-1]} tokens are too few for a grid of {grid[0]}x{grid[1]} patches")
    row = weights[..., 0, :] if class_token else weights[..., prefix:, :].mean(axis=-2)
    return row[..., prefix:].reshape(*row.shape[:-1], *grid)
