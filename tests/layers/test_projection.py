"""The projection: by hand, in whichever form its target wants, and with any axes before the last."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.projection import Projection
from vit_jax.ops import platform

WIDE, TALL = (6, 2, 4), (6, 2, 2)


def layer_and_params(shape=WIDE, **options):
    layer = Projection(shape, 1, **options)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 6)))
    return layer, jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params)


def products(hlo: str) -> list[str]:
    return [line for line in hlo.splitlines() if "dot_general" in line]


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6), (2, 3, 5, 6), (0, 5, 6)])
@pytest.mark.parametrize("target", ["cpu", "tpu"])
@pytest.mark.parametrize("kernel_shape", [WIDE, TALL])
def test_a_projection_by_hand(shape, target, kernel_shape):
    layer, params = layer_and_params(kernel_shape)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with platform.compiling_for(target):
        y = layer.apply(params, x)
    kernel, bias = (np.asarray(params["params"][name]) for name in ("kernel", "bias"))
    by_hand = np.einsum("...i,ihd->...hd", x, kernel) + bias
    chex.assert_trees_all_close(y, by_hand.reshape(*shape[:-1], by_hand.shape[-2] * by_hand.shape[-1]), atol=1e-5)


@pytest.mark.parametrize("kernel_shape", [WIDE, TALL])
def test_tokens_are_rows_of_one_matrix_for_the_cpu_alone(kernel_shape):
    layer, params = layer_and_params(kernel_shape)
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)

    def loss(params):
        return (layer.apply(params, x) ** 2).sum()

    gradients = {}
    for target, tokens in (("cpu", "15x6"), ("tpu", "3x5x6"), ("gpu", "3x5x6")):
        with platform.compiling_for(target):
            lowered = jax.jit(lambda params: layer.apply(params, x)).lower(params)
            gradients[target] = jax.grad(loss)(params)
        (product,) = products(lowered.as_text())
        assert f"tensor<{tokens}xf32>" in product
    chex.assert_trees_all_close(gradients["cpu"], gradients["tpu"], rtol=1e-5)
    assert platform.target() == jax.default_backend()


def test_bfloat16_and_no_bias():
    layer, params = layer_and_params(dtype="bfloat16", use_bias=False)
    assert set(params["params"]) == {"kernel"} and params["params"]["kernel"].dtype == jnp.float32
    assert layer.apply(params, jnp.ones((2, 3, 6))).dtype == jnp.bfloat16
