"""Random keys of single examples."""

import jax
from jaxtyping import Array, Key, Shaped


def example_keys(key: Key[Array, ""], index: Shaped[Array, " b"]) -> Key[Array, " b"]:
    """Makes one key for each example: the base key with the example's index folded in.

    Args:
        key: `[]` typed key.
        index: `[B]` uint32, the example's position in the training stream.

    Example:
        >>> example_keys(jax.random.key(0), jax.numpy.arange(3)).shape
        (3,)
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
