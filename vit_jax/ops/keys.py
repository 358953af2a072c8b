"""Random keys of single examples."""

import jax
from jaxtyping import Array, Key, Shaped

EXAMPLE_STREAMS = ("mask", "noise")
"""Random streams that have a key for each example."""


def seed_key(seed: int | Array) -> Key[Array, ""]:
    """Make the base key of a seed from all its bits; `jax.random.key` alone would take the low 32.

    Args:
        seed: 0 or more, below 2**64.

    Example:
        >>> bool((seed_key(1) == jax.random.key(1)).all()), bool((seed_key(1) == seed_key(1 + 2**32)).all())
        (True, False)
    """
    if isinstance(seed, jax.Array):  # which has no more than 32 bits
        return jax.random.key(seed)
    high, low = divmod(int(seed), 2**32)
    return jax.random.fold_in(jax.random.key(low), high) if high else jax.random.key(low)


def example_keys(key: Key[Array, ""], index: Shaped[Array, " b"]) -> Key[Array, " b"]:
    """Make one key for each example: the base key with the example's index folded in.

    Args:
        key: `[]` typed key.
        index: `[B]` uint32, the example's position in the training stream.

    Example:
        >>> example_keys(jax.random.key(0), jax.numpy.arange(3)).shape
        (3,)
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def example_streams(key: Key[Array, ""], index: Shaped[Array, " b"]) -> dict[str, Key[Array, " b"]]:
    """Make the keys of EXAMPLE_STREAMS, `[B]` each: functions of the base key and the example's index alone.

    Args:
        key: `[]` typed key.
        index: `[B]` uint32.

    Example:
        >>> sorted(example_streams(jax.random.key(0), jax.numpy.arange(3)))
        ['mask', 'noise']
    """
    return {
        name: example_keys(jax.random.fold_in(key, number), index) for number, name in enumerate(EXAMPLE_STREAMS, 1)
    }
