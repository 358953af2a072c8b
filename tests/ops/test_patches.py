"""Patches against a hand-made example, plain slicing, and their refusal."""

import chex
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.ops.patches import extract_patches, join_patches, patch_grid, unfold, unfold_grid


def test_hand_made_example():
    image = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]])
    expected = [[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]]
    np.testing.assert_array_equal(extract_patches(image[None, :, :, None], (2, 2))[0], expected)


@pytest.mark.parametrize("patch_size", [(1, 1), (2, 2), (2, 3), (6, 4), (3, 12)])
def test_each_patch_is_the_slice_of_the_image(patch_size):
    ph, pw = patch_size
    images = np.arange(2 * 6 * 12 * 3).reshape(2, 6, 12, 3)
    patches = extract_patches(images, patch_size)
    chex.assert_shape(patches, (2, 6 // ph, 12 // pw, ph * pw * 3))
    for row in range(6 // ph):
        for column in range(12 // pw):
            cut = images[:, row * ph : (row + 1) * ph, column * pw : (column + 1) * pw]
            np.testing.assert_array_equal(patches[:, row, column], cut.reshape(2, -1))


def test_dtype_stays():
    assert extract_patches(np.zeros((1, 4, 4, 1), np.uint8), (2, 2)).dtype == np.uint8


def test_grid_is_rows_then_columns():
    assert patch_grid((32, 48), (16, 8)) == (2, 6)


@pytest.mark.parametrize("size", [(7, 13), (6, 14), (8, 12)])
def test_what_patches_do_not_divide_is_left_out_at_the_end(size):
    images = np.arange(2 * size[0] * size[1] * 3).reshape(2, *size, 3)
    assert patch_grid(size, (3, 4)) == (2, 3)
    patches = extract_patches(images, (3, 4))
    np.testing.assert_array_equal(patches, extract_patches(images[:, :6, :12], (3, 4)))
    np.testing.assert_array_equal(join_patches(patches.reshape(2, 6, -1), (*size, 3), (3, 4)), images[:, :6, :12])


@pytest.mark.parametrize("image_size", [(15, 48), (32, 11), (8, 8)])
def test_an_image_smaller_than_one_patch_is_refused_by_both_sizes(image_size):
    with pytest.raises(InputError, match=rf"{image_size[0]}x{image_size[1]} px.*16x12 px"):
        patch_grid(image_size, (16, 12))
    with pytest.raises(InputError, match=rf"{image_size[0]}x{image_size[1]} px.*16x12 px"):
        extract_patches(np.zeros((1, *image_size, 3)), (16, 12))


def test_overlapping_patches_by_hand():
    image = np.arange(1, 10).reshape(3, 3)
    # 3x3 patches every 2 pixels of the image with a border of zeros.
    expected = [
        [[0, 0, 0, 0, 1, 2, 0, 4, 5], [0, 0, 0, 2, 3, 0, 5, 6, 0]],
        [[0, 4, 5, 0, 7, 8, 0, 0, 0], [5, 6, 0, 8, 9, 0, 0, 0, 0]],
    ]
    patches = unfold(image[None, :, :, None], 3, stride=2, padding=1)
    np.testing.assert_array_equal(patches[0], expected)


@pytest.mark.parametrize(("size", "stride", "padding"), [(7, 4, 2), (3, 2, 1), (2, 2, 0), (3, 1, 0)])
def test_each_overlapping_patch_is_the_slice_of_the_padded_image(size, stride, padding):
    images = np.arange(2 * 9 * 12 * 3).reshape(2, 9, 12, 3)
    patches = unfold(images, size, stride=stride, padding=padding)
    rows, columns = unfold_grid((9, 12), size, stride=stride, padding=padding)
    chex.assert_shape(patches, (2, rows, columns, 3 * size * size))
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for row in range(rows):
        for column in range(columns):
            y, x = row * stride, column * stride
            cut = padded[:, y : y + size, x : x + size]
            np.testing.assert_array_equal(patches[:, row, column], cut.transpose(0, 3, 1, 2).reshape(2, -1))
    assert (rows * stride + size > padded.shape[1]) and (columns * stride + size > padded.shape[2])


def test_an_image_smaller_than_a_patch_is_refused():
    assert unfold_grid((3, 4), 7, stride=4, padding=2) == (1, 1)
    with pytest.raises(InputError, match="image size 2x9 px is too small; valid: 3 px or more"):
        unfold(np.zeros((1, 2, 9, 3)), 7, stride=4, padding=2)
