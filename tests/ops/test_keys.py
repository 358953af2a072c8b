"""Random keys: every bit of a seed counts."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops.keys import seed_key


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_every_bit_of_a_seed_counts():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**62, 2**63 - 1]
    assert len({data(seed_key(seed)) for seed in seeds}) == len(seeds)


def test_seeds_of_32_bits_give_the_keys_that_they_always_gave():
    for seed in (0, 7, 2**32 - 1):
        assert data(seed_key(seed)) == data(jax.random.key(seed)) == data(seed_key(np.uint32(seed)))
    assert data(jax.jit(seed_key)(jnp.uint32(7))) == data(seed_key(7))
