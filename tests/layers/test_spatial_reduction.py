"""Strided convolutions, pooling to a grid, and the reduction of keys and values."""

import jax
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.layers.spatial_reduction import Convolution, SpatialReduction, pooled_to, windows

X = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype(np.float32)


def made(module, x):
    variables = module.init(jax.random.key(0), x)
    return variables["params"], module.apply(variables, x)


def test_a_window_is_a_matrix_product():
    params, y = made(Convolution(4, size=3, stride=2, padding=1), X)
    assert y.shape == (2, 4, 5, 4) and windows((7, 9), 3, 2, 1) == (4, 5)
    inside = np.einsum("ijc,ijcD->D", X[1, 1:4, 3:6], params["kernel"]) + params["bias"]
    corner = np.einsum("ijc,ijcD->D", X[0, :2, :2], params["kernel"][1:, 1:])
    np.testing.assert_allclose(y[1, 1, 2], inside, atol=1e-5)
    np.testing.assert_allclose(y[0, 0, 0], corner, atol=1e-5)


def test_what_is_left_over_is_cut_off():
    _, y = made(Convolution(4, size=2, stride=2), X)
    assert y.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(y, made(Convolution(4, size=2, stride=2), X[:, :6, :8])[1], atol=1e-6)


def test_images_that_do_not_fit_are_refused():
    module = Convolution(4, size=8, stride=8, name="patch_embed")
    with pytest.raises(InputError, match="too small: patch_embed takes windows of 8x8 from a map of 7x9"):
        made(module, X)
    params, _ = made(Convolution(4, size=2, stride=2), X)
    with pytest.raises(InputError, match="the images have 1 channels, but the model was made for 3"):
        Convolution(4, size=2, stride=2).apply({"params": params}, X[..., :1])


def test_pooling_takes_means_of_cells_that_overlap_where_they_must():
    y = pooled_to(X, (2, 3))
    np.testing.assert_allclose(y[0, 0, 1], X[0, :4, 3:6].mean(axis=(0, 1)), atol=1e-6)  # rows 0 to 3
    np.testing.assert_allclose(y[0, 1, 2], X[0, 3:, 6:].mean(axis=(0, 1)), atol=1e-6)  # rows 3 to 6
    np.testing.assert_allclose(pooled_to(X, (7, 9)), X, atol=1e-6)
    np.testing.assert_allclose(pooled_to(X[:, :1, :1], (2, 2)), np.broadcast_to(X[:, :1, :1], (2, 2, 2, 3)), atol=1e-6)


def test_a_reduction_is_the_norm_of_patches():
    params, y = made(SpatialReduction(3, linear=False, norm_eps=1e-5, dtype="float32"), X)
    assert y.shape == (2, 2 * 3, 3)
    patch = np.einsum("ijc,ijcD->D", X[1, 3:6, :3], params["conv"]["kernel"])
    np.testing.assert_allclose(y[1, 3], (patch - patch.mean()) / np.sqrt(patch.var() + 1e-5), atol=1e-4)


def test_a_linear_reduction_has_49_places_whatever_the_map():
    params, y = made(SpatialReduction(8, linear=True, norm_eps=1e-5, dtype="float32"), X)
    assert y.shape == (2, 49, 3) and params["conv"]["kernel"].shape == (1, 1, 3, 3)
    pooled = X[0, 0, :2].mean(axis=0) @ params["conv"]["kernel"][0, 0]  # rows 0 to 0, columns 0 to 1
    normed = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-5)
    np.testing.assert_allclose(y[0, 0], jax.nn.gelu(normed, approximate=False), atol=1e-4)
