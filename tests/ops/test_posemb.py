"""Computed position embeddings against their formulas in NumPy float64, and the resizing of learned ones."""

import chex
import jax
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.ops.posemb import resize_grid, sincos1d, sincos2d, sincos2d_mae


@pytest.mark.parametrize(("length", "dim", "temperature"), [(5, 8, 10_000.0), (197, 2, 10_000.0), (7, 6, 100.0)])
def test_sincos1d_interleaves_sine_and_cosine(length, dim, temperature):
    expected = np.empty((length, dim))
    for position in range(length):
        for i in range(dim // 2):
            angle = position / temperature ** (2 * i / dim)
            expected[position, 2 * i : 2 * i + 2] = np.sin(angle), np.cos(angle)
    embedding = sincos1d(length, dim, temperature=temperature)
    chex.assert_type(embedding, np.float32)
    np.testing.assert_allclose(embedding, expected, atol=3e-5)


def test_sincos1d_starts_with_zeros_and_ones():
    np.testing.assert_array_equal(sincos1d(3, 6)[0], [0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (5, 2), (1, 4)])
def test_sincos2d_has_the_column_first_then_the_row(grid):
    dim, quarter = 16, 4
    expected = np.empty((*grid, dim))
    for row in range(grid[0]):
        for column in range(grid[1]):
            for k in range(quarter):
                frequency = 10_000.0 ** (-k / (quarter - 1))
                expected[row, column, k::quarter] = [
                    np.sin(column * frequency),
                    np.cos(column * frequency),
                    np.sin(row * frequency),
                    np.cos(row * frequency),
                ]
    embedding = sincos2d(grid, dim)
    chex.assert_type(embedding, np.float32)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_sincos2d_of_the_transposed_grid_swaps_the_halves():
    embedding = sincos2d((2, 3), 8)
    swapped = np.concatenate([embedding[..., 4:], embedding[..., :4]], axis=-1)
    np.testing.assert_array_equal(sincos2d((3, 2), 8), swapped.swapaxes(0, 1))


def test_sincos2d_takes_a_temperature():
    np.testing.assert_allclose(sincos2d((1, 3), 8, temperature=10.0)[0, 2, :2], np.sin([2.0, 0.2]), rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 7])
def test_sincos1d_refuses_an_odd_width(dim):
    with pytest.raises(InputError, match=f"sincos1d .* not {dim}"):
        sincos1d(4, dim)


@pytest.mark.parametrize("dim", [4, 6, 10, 13])
def test_sincos2d_refuses_a_width_without_four_quarters(dim):
    with pytest.raises(InputError, match=f"sincos2d .* multiple of 4, at least 8, not {dim}"):
        sincos2d((2, 2), dim)


RESIZES = [((6, 6), (9, 4)), ((2, 8), (4, 4)), ((14, 14), (24, 24)), ((5, 7), (3, 11)), ((1, 4), (3, 3))]


@pytest.mark.parametrize("antialias", [True, False])
def test_the_same_grid_is_left_bitwise(antialias):
    grid = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
    assert resize_grid(grid, (2, 8), antialias=antialias) is grid


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_antialiased_resizing_is_that_of_jax_image(old, new):
    grid = np.random.default_rng(0).normal(size=(*old, 3)).astype(np.float32)
    expected = jax.image.resize(grid, (*new, 3), "bicubic", precision="highest")
    np.testing.assert_allclose(resize_grid(grid, new), expected, atol=1e-5)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resizing_keeps_constants_and_treats_rows_as_columns(old, new, antialias):
    np.testing.assert_allclose(resize_grid(np.ones((*old, 2)), new, antialias=antialias), np.ones((*new, 2)), atol=1e-6)
    grid = np.random.default_rng(0).normal(size=(*old, 3)).astype(np.float32)
    turned = resize_grid(grid.swapaxes(0, 1), new[::-1], antialias=antialias).swapaxes(0, 1)
    chex.assert_shape(turned, (*new, 3))
    np.testing.assert_allclose(resize_grid(grid, new, antialias=antialias), turned, atol=1e-6)


def test_doubling_without_antialiasing_by_hand():
    """The cubic with a = -0.75 at distances 1.25, 0.25, 0.75 and 1.75; the border repeats."""
    w = np.array([-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    row = np.array([1.0, 2.0, 4.0, 8.0])
    padded = np.array([1.0, 1.0, *row, 8.0, 8.0])
    expected = [padded[i // 2 + i % 2 :][:4] @ (w if i % 2 else w[::-1]) for i in range(8)]
    result = resize_grid(row.reshape(1, 4, 1), (1, 8), antialias=False)[0, :, 0]
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(("grid", "dim"), [((3, 5), 8), ((2, 2), 4), ((1, 7), 12)])
def test_sincos2d_mae_has_the_column_first_and_its_own_frequencies(grid, dim):
    """As util/pos_embed.py of facebookresearch/mae: half the channels for the column, half for the row."""
    half, expected = dim // 2, np.empty((*grid, dim))
    for row, column in np.ndindex(grid):
        for start, position in ((0, column), (half, row)):
            for k in range(half // 2):
                angle = position / 10_000 ** (k / (half / 2))
                expected[row, column, start + k] = np.sin(angle)
                expected[row, column, start + half // 2 + k] = np.cos(angle)
    embedding = sincos2d_mae(grid, dim)
    chex.assert_type(embedding, np.float32)
    np.testing.assert_allclose(embedding, expected, atol=1e-7)


@pytest.mark.parametrize("dim", [0, 6])
def test_sincos2d_mae_needs_multiples_of_four(dim):
    with pytest.raises(InputError, match=f"sincos2d_mae needs a width that is a multiple of 4, not {dim}"):
        sincos2d_mae((2, 2), dim)
