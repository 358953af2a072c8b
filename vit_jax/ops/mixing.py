"""Blending each example of a batch with another one.

Partners depend on the whole batch, not on how it lies on devices, so that the result does not either.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped


def cut_box(key: Key[Array, ""], share: Float[Array, ""], height_px: int, width_px: int) -> Bool[Array, "H W"]:
    """Return a box around a random pixel with the image's proportions and 1 - share of its area, cut off at the edges.

    Source: Yun et al. 2019, section 3.1 and algorithm A1; sides are rounded down, as in timm.
    """
    ratio = jnp.sqrt(1.0 - share)

    def within(key, side_px):
        cut_px = (side_px * ratio).astype(jnp.int32)
        start = jax.random.randint(key, (), 0, side_px) - cut_px // 2
        place = jnp.arange(side_px)
        return (place >= start) & (place < start + cut_px)

    row_key, column_key = jax.random.split(key)
    return within(row_key, height_px)[:, None] & within(column_key, width_px)[None]


def blend(one: Shaped[Array, "..."], other: Shaped[Array, "..."], share: Float[Array, "..."]) -> Float[Array, "..."]:
    """Share * one + (1 - share) * other."""
    return share * one + (1.0 - share) * other


def mirrored(x: Shaped[Array, "b ..."], axis_name: str | None) -> Shaped[Array, "b ..."]:
    """Return the batch in reverse order; of a slice, what lies in its place in the whole batch reversed.

    A process has every n-th example of a global batch, and its devices have consecutive parts of these. Reversing the
    devices and then each slice therefore reverses the global batch whatever their numbers.
    """
    if axis_name is not None:
        devices = jax.lax.axis_size(axis_name)
        x = jax.lax.ppermute(x, axis_name, [(i, devices - 1 - i) for i in range(devices)])
    return x[::-1]
