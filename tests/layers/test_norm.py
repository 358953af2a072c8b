"""Layer normalisation against the definition and Flax's, in value and derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.layers.norm import LayerNorm


def test_by_hand():
    x = jnp.array([[1.0, 3.0], [5.0, 5.0]])
    params = {"params": {"scale": jnp.array([2.0, 1.0]), "bias": jnp.array([0.0, 10.0])}}
    # Mean 2 and variance 1, plus an epsilon of 3; a row without variance becomes the bias.
    chex.assert_trees_all_close(LayerNorm(3.0).apply(params, x), jnp.array([[-1.0, 10.5], [0.0, 10.0]]), rtol=1e-6)


def test_values_and_derivatives_are_those_of_flax():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 2.0, (2, 5, 8)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    ours, flax = LayerNorm(1e-6), nn.LayerNorm(1e-6, use_fast_variance=False)
    params = flax.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(ours.init(jax.random.key(0), x), params)
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)

    def results(module):
        def loss(params, x):
            return (module.apply(params, x) * weights).sum()

        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(params, x)
        forward = jax.jvp(lambda x: module.apply(params, x), (x,), (weights,))
        curvature = jax.grad(lambda x: (jax.grad(loss, argnums=1)(params, x) ** 2).sum())(x)
        return value, gradients, forward, curvature

    chex.assert_trees_all_close(results(ours), results(flax), rtol=1e-4, atol=1e-5)


def test_a_large_mean_costs_no_digits_and_the_result_is_float32():
    x = jnp.array([[1.0, 3.0]]) + 3000.0
    params = LayerNorm(1e-6).init(jax.random.key(0), x)
    chex.assert_trees_all_close(LayerNorm(1e-6).apply(params, x), jnp.array([[-1.0, 1.0]]), rtol=1e-6)
    assert LayerNorm(1e-6).apply(params, x.astype(jnp.bfloat16)).dtype == jnp.float32
