"""Windows on maps: how they fit, what is where, who may see whom."""

import numpy as np
import pytest

from vit_jax.ops import windows


@pytest.mark.parametrize(
    ("size", "window", "shift", "how", "fixed", "expected"),
    [
        # Divided by the window, larger than it: nothing to decide.
        ((8, 12), (4, 4), (2, 2), "authors", False, ((4, 4), (2, 2), (8, 12), True)),
        ((8, 12), (4, 4), (2, 2), "timm", False, ((4, 4), (2, 2), (8, 12), True)),
        # Not divided: padded, before or after rolling.
        ((9, 12), (4, 4), (2, 2), "authors", False, ((4, 4), (2, 2), (12, 12), True)),
        ((9, 12), (4, 4), (2, 2), "timm", False, ((4, 4), (2, 2), (12, 12), False)),
        # One window spans the rows: the authors shift nothing, timm the columns.
        ((4, 12), (4, 4), (2, 2), "authors", False, ((4, 4), (0, 0), (4, 12), True)),
        ((4, 12), (4, 4), (2, 2), "timm", False, ((4, 4), (0, 2), (4, 12), True)),
        # A window larger than the map becomes the map's size, or the map is padded where windows are fixed.
        ((2, 12), (4, 4), (2, 2), "timm", False, ((2, 4), (0, 2), (2, 12), True)),
        ((2, 3), (4, 4), (2, 2), "authors", False, ((2, 3), (0, 0), (2, 3), True)),
        ((2, 12), (4, 4), (2, 2), "authors", True, ((4, 4), (2, 2), (4, 12), True)),
        ((8, 8), (8, 8), (0, 0), "timm", True, ((8, 8), (0, 0), (8, 8), True)),
    ],
)
def test_fit(size, window, shift, how, fixed, expected):
    assert windows.fit(size, window, shift, how=how, fixed=fixed) == windows.Fit(*expected)


def test_partition_cuts_windows_and_heads_and_merge_undoes_it():
    x = np.arange(2 * 4 * 6 * 4).reshape(2, 4, 6, 4)
    cut = windows.partition(x, (2, 3), 2)
    assert cut.shape == (2, 4, 2, 6, 2)
    np.testing.assert_array_equal(cut[1, 3, 1], x[1, 2:4, 3:6, 2:4].reshape(6, 2))  # last window, second head
    np.testing.assert_array_equal(cut[0, 1, 0, 5], x[0, 1, 5, :2])
    np.testing.assert_array_equal(windows.merge(cut, (2, 3), (4, 6)), x)


def test_relative_index_by_hand():
    # Tokens (0, 0), (0, 1) of a 1 x 2 window; offsets -1, 0, 1 are the table's entries 0, 1, 2.
    np.testing.assert_array_equal(windows.relative_index((1, 2), (1, 2)), [[1, 0], [2, 1]])
    index = windows.relative_index((2, 3), (2, 3))
    assert sorted(set(index.reshape(-1))) == list(range(3 * 5))
    assert index[5, 0] == 14 and index[0, 5] == 0  # offsets (1, 2) and (-1, -2)


def test_a_smaller_window_has_the_same_offsets():
    """Of a table that holds its own offsets."""
    table = np.stack(np.meshgrid(range(-3, 4), range(-4, 5), indexing="ij"), axis=-1).reshape(-1, 2)
    found = table[windows.relative_index((2, 3), (4, 5))]
    places = [(y, x) for y in range(2) for x in range(3)]
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            assert tuple(found[i, j]) == (query[0] - key[0], query[1] - key[1])


@pytest.mark.parametrize("shift", [(1, 2), (2, 1), (0, 2), (2, 0)])
def test_only_tokens_that_were_near_see_one_another(shift):
    """Each token carries where it was before rolling; in a window, near means less than a window's side away."""
    size, window = (8, 12), (4, 4)
    place = np.stack(np.indices(size), axis=-1)
    rolled = np.roll(place, (-shift[0], -shift[1]), axis=(0, 1))
    cut = windows.partition(rolled[None], window, 1)[0, :, 0]  # [windows, n, 2]
    near = (np.abs(cut[:, :, None] - cut[:, None]) < window).all(axis=-1)
    mask = windows.shift_mask(windows.Fit(window, shift, size, pad_first=True), -7.0)
    np.testing.assert_array_equal(mask, np.where(near, 0.0, -7.0))
    assert not near.all()


def test_without_a_shift_there_is_no_mask():
    assert windows.shift_mask(windows.Fit((4, 4), (0, 0), (8, 8), pad_first=True), -1.0) is None


def test_log_offsets_by_hand():
    # A 2 x 4 window: dy in -1 .. 1, dx in -3 .. 3; the largest becomes 8, and log2(9) / 3 after that.
    offsets = windows.log_offsets((2, 4))
    assert offsets.shape == (3, 7, 2)
    largest = np.log2(9) / 3
    np.testing.assert_allclose(offsets[2, 6], [largest, largest], rtol=1e-6)
    np.testing.assert_allclose(offsets[0, 3], [-largest, 0], rtol=1e-6)
    np.testing.assert_allclose(offsets[1, 4], [0, np.log2(1 + 8 / 3) / 3], rtol=1e-6)
    # Of a window that was 3 x 3 before: an offset of 2 was the largest.
    np.testing.assert_allclose(windows.log_offsets((2, 4), (3, 3))[1, 5], [0, largest], rtol=1e-6)
    np.testing.assert_array_equal(windows.log_offsets((1, 1)), np.zeros((1, 1, 2)))


def test_a_table_is_resized_about_its_centre():
    """The offset of nothing stays in the middle, left stays the mirror of right, and a constant stays itself."""
    table = np.random.default_rng(0).normal(size=(13, 13, 2)).astype(np.float32)
    table[..., 1] = 5.0
    resized = np.asarray(windows.resize_table(table, (27, 23)))
    assert resized.shape == (27, 23, 2)
    np.testing.assert_allclose(resized[13, 11], table[6, 6], atol=1e-6)
    np.testing.assert_allclose(windows.resize_table(table[::-1, ::-1], (27, 23)), resized[::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(resized[..., 1], 5.0, atol=1e-5)
    np.testing.assert_array_equal(windows.resize_table(table, (13, 13)), table)
