"""Patch embedding against a convolution, and each kind of position embedding."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.layers.patch_embed import POSEMB, PatchEmbed, PositionEmbedding
from vit_jax.ops import posemb

RNG = np.random.default_rng(0)
PATCHES = RNG.normal(size=(2, 3, 4, 8)).astype(np.float32)
PREFIX = RNG.normal(size=(2, 2, 8)).astype(np.float32)


@pytest.mark.parametrize("patch_size", [(2, 2), (4, 2), (3, 6), (1, 1), (5, 7)])
def test_patch_embed_is_a_convolution(patch_size):
    images = RNG.normal(size=(2, 12, 12, 3)).astype(np.float32)
    layer = PatchEmbed(patch_size, 5)
    params = layer.init(jax.random.key(0), images)["params"] | {"bias": jnp.arange(5.0)}
    chex.assert_shape(params["kernel"], (*patch_size, 3, 5))
    expected = params["bias"] + jax.lax.conv_general_dilated(
        images, params["kernel"], patch_size, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    chex.assert_trees_all_close(layer.apply({"params": params}, images), expected, atol=1e-5)


def test_patch_embed_in_bfloat16_keeps_float32_parameters():
    images = RNG.normal(size=(1, 4, 4, 3)).astype(np.float32)
    layer = PatchEmbed((2, 2), 5, dtype="bfloat16")
    params = layer.init(jax.random.key(0), images)
    chex.assert_type(jax.tree.leaves(params), jnp.float32)
    y = layer.apply(params, images)
    chex.assert_type(y, jnp.bfloat16)
    expected = PatchEmbed((2, 2), 5).apply(params, images)
    chex.assert_trees_all_close(y.astype(jnp.float32), expected, atol=0.05)


def test_patch_embed_refuses_an_image_smaller_than_a_patch_by_both_sizes():
    with pytest.raises(InputError, match=r"3x12 px.*4x3 px"):
        PatchEmbed((4, 3), 5).init(jax.random.key(0), jnp.zeros((1, 3, 12, 3)))


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
@pytest.mark.parametrize("kind", POSEMB)
def test_position_embedding_of_each_kind(kind, num_prefix):
    prefix = PREFIX[:, :num_prefix]
    layer = PositionEmbedding(kind)
    params = layer.init(jax.random.key(0), PATCHES, prefix).get("params", {})
    positions = {
        "learned": lambda: (params.get("prefix", np.zeros((0, 8))), params["grid"].reshape(12, 8)),
        "sincos2d_mae": lambda: (np.zeros((num_prefix, 8)), posemb.sincos2d_mae((3, 4), 8).reshape(12, 8)),
        "sincos2d": lambda: (np.zeros((num_prefix, 8)), posemb.sincos2d((3, 4), 8).reshape(12, 8)),
        "sincos1d": lambda: np.split(posemb.sincos1d(num_prefix + 12, 8), [num_prefix]),
        "none": lambda: (np.zeros((num_prefix, 8)), np.zeros((12, 8))),
    }[kind]()
    expected = np.concatenate([prefix + positions[0], PATCHES.reshape(2, 12, 8) + positions[1]], axis=1)
    np.testing.assert_allclose(layer.apply({"params": params}, PATCHES, prefix), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["sincos2d", "sincos1d", "none"])
def test_computed_positions_have_no_parameters(kind):
    assert not PositionEmbedding(kind).init(jax.random.key(0), PATCHES, PREFIX)


def test_learned_parameters_keep_the_grids_two_axes():
    params = PositionEmbedding().init(jax.random.key(0), PATCHES, PREFIX)["params"]
    assert jax.tree.map(jnp.shape, params) == {"grid": (3, 4, 8), "prefix": (2, 8)}
    np.testing.assert_allclose(np.std(params["grid"]), 0.02, rtol=0.3)


def test_no_prefix_parameter_without_prefix_tokens():
    params = PositionEmbedding().init(jax.random.key(0), PATCHES, PREFIX[:, :0])["params"]
    assert list(params) == ["grid"]


@pytest.mark.parametrize("kind", POSEMB)
def test_position_embedding_keeps_bfloat16(kind):
    patches, prefix = jnp.asarray(PATCHES, jnp.bfloat16), jnp.asarray(PREFIX, jnp.bfloat16)
    tokens, params = PositionEmbedding(kind).init_with_output(jax.random.key(0), patches, prefix)
    chex.assert_type(tokens, jnp.bfloat16)
    chex.assert_type(jax.tree.leaves(params), jnp.float32)


@pytest.mark.parametrize("grid", [(4, 3), (2, 6), (5, 5)])
def test_learned_embedding_refuses_another_grid_by_both_grids(grid):
    params = PositionEmbedding().init(jax.random.key(0), PATCHES, PREFIX)
    with pytest.raises(InputError, match=f"give {grid[0]}x{grid[1]} patches.*made for 3x4"):
        PositionEmbedding().apply(params, jnp.zeros((2, *grid, 8)), PREFIX)


def test_unknown_kind_is_refused_by_name():
    with pytest.raises(InputError, match="is unknown; valid: learned, sincos2d, sincos2d_mae, sincos1d, none"):
        PositionEmbedding("rope").init(jax.random.key(0), PATCHES, PREFIX)


def test_maes_positions_are_made_once_and_never_trained():
    layer = PositionEmbedding("sincos2d_mae")
    params = layer.init(jax.random.key(0), PATCHES, PREFIX)
    np.testing.assert_array_equal(params["params"]["grid"], posemb.sincos2d_mae((3, 4), 8))
    assert not params["params"]["prefix"].any()
    gradient = jax.grad(lambda p: (layer.apply(p, PATCHES, PREFIX) ** 2).sum())(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
