"""The depth-wise convolution, its derivative, and the perceptron around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.layers.depthwise import DepthwiseMlp, depthwise_convolution

RNG = np.random.default_rng(0)
X, KERNEL = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32), RNG.normal(size=(3, 3, 1, 3)).astype(np.float32)


def by_groups(x, kernel):
    """The same by XLA's convolution with a group a channel."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1]
    )


def test_a_place_is_the_sum_of_its_neighbours_times_the_kernel():
    y = depthwise_convolution(X, KERNEL)
    inside = (X[1, 1:4, 2:5, 2] * KERNEL[:, :, 0, 2]).sum()
    corner = (X[0, :2, :2, 1] * KERNEL[1:, 1:, 0, 1]).sum()  # beyond the edge there are zeros
    np.testing.assert_allclose([y[1, 2, 3, 2], y[0, 0, 0, 1]], [inside, corner], rtol=1e-5)
    np.testing.assert_allclose(y, by_groups(X, KERNEL), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 1, 1, 3), (1, 1, 4, 3)])
def test_the_derivative_is_that_of_a_convolution(shape):
    x, dy = (RNG.normal(size=shape).astype(np.float32) for _ in range(2))
    ours, theirs = (jax.vjp(f, x, KERNEL)[1](dy) for f in (depthwise_convolution, by_groups))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bfloat16_sums_the_kernels_derivative_in_float32():
    x, kernel = jnp.ones((1, 40, 40, 1), jnp.bfloat16), jnp.zeros((3, 3, 1, 1), jnp.bfloat16)
    gradient = jax.grad(lambda k: depthwise_convolution(x, k).astype(jnp.float32).sum())(kernel)
    assert gradient.dtype == jnp.bfloat16
    assert gradient[1, 1, 0, 0] == 1600  # a sum in bfloat16 stays at 256


def mlp(x, **options):
    module = DepthwiseMlp(4, **options)
    variables = module.init(jax.random.key(0), x, train=False)
    return module, variables, module.apply(variables, x, train=False)


def test_the_mlp_is_dense_convolution_activation_dense():
    _, variables, y = mlp(X, activation="silu", extra_relu=True)
    p = variables["params"]
    hidden = np.maximum(X @ p["fc1"]["kernel"] + p["fc1"]["bias"], 0)
    hidden = jax.nn.silu(by_groups(hidden, p["dwconv"]["kernel"]) + p["dwconv"]["bias"])
    np.testing.assert_allclose(y, hidden @ p["fc2"]["kernel"] + p["fc2"]["bias"], atol=1e-5)


def test_without_convolution_it_takes_tokens():
    tokens = X.reshape(2, 20, 3)
    module, variables, y = mlp(tokens, depthwise=False, dropout=0.5)
    assert set(variables["params"]) == {"fc1", "fc2"}
    np.testing.assert_allclose(module.apply(variables, X, train=False).reshape(y.shape), y, atol=1e-6)
    dropped = module.apply(variables, tokens, train=True, rngs={"dropout": jax.random.key(1)})
    assert np.abs(dropped - y).max() > 1e-3


def test_an_unknown_activation_is_named():
    with pytest.raises(InputError, match="activation 'gelu' is unknown; valid: tanh, exact, quick, relu, silu"):
        mlp(X, activation="gelu")
