"""Strips: what is kept of them is resized, and nothing else."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.images import resizing
from vit_jax.data.images.decoding import Reading
from vit_jax.data.images.geometry import Geometry
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop

STRIPS = [(20_000, 1), (1, 20_000), (65_000, 2), (3, 50_000)]
MODES = ["exact", "shortest_edge", "shortest_edge_nearest"]


def pixels(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def largest(monkeypatch):
    """Pixels of the largest image that is resized to."""
    found = [0]
    resize = Image.Image.resize

    def watched(self, size, *args, **kwargs):
        found[0] = max(found[0], size[0] * size[1])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", STRIPS)
def test_a_strip_takes_little_memory(size, mode, largest):
    preprocessing = Preprocessing((224, 200), resize=mode, interpolation="bicubic", crop_offset="nearest")
    image = pixels(*size)
    assert preprocessing(image).shape == (224, 200, 3)
    assert RandomResizedCrop(preprocessing)(image, np.random.default_rng(0)).shape == (224, 200, 3)
    assert largest[0] <= 224 * 200
    geometry = preprocessing.geometry(*size)
    assert geometry.place_mask(image[:, :, 0]).shape == (224, 200)
    assert len(geometry.place_boxes(np.array([[0, 0, size[1], size[0], 1]], np.float32))) == 1


def test_a_mask_is_placed_without_the_resized_whole():
    """Of which one row alone would take 8 TB."""
    geometry = Geometry((4, 2), (0, 0, 2, 4), (10**12, 2), (5 * 10**11 - 1, 0, 2, 2))
    assert geometry.place_mask(np.array([[0, 1], [2, 3], [4, 5], [6, 7]])).tolist() == [[2, 3], [4, 5]]


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("size", [(3000, 7), (2, 901), (5, 640)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_a_strip_has_the_pixels_of_the_whole_resized_and_cut(mode, size, interpolation, monkeypatch):
    image = pixels(*size)
    for options in ({}, {"crop_fraction": 0.9, "crop_offset": "nearest"}):
        preprocessing = Preprocessing((40, 56), resize=mode, interpolation=interpolation, **options)
        geometry = preprocessing.geometry(*size)
        top, left, height, width = geometry.cut
        whole = Image.fromarray(image).resize(geometry.resized[::-1], resizing.INTERPOLATION[interpolation])
        expected = np.asarray(whole, int)[top : top + height, left : left + width]
        np.testing.assert_array_equal(preprocessing(image), expected)  # small enough to be done like this
        monkeypatch.setattr(resizing, "MOST_CUT_OFF", 0)
        np.testing.assert_allclose(preprocessing(image), expected, atol=1)
        monkeypatch.undo()


@pytest.mark.parametrize("size", STRIPS)
@pytest.mark.parametrize("mode", MODES)
def test_a_strip_without_antialiasing_shows_the_same(size, mode):
    pytest.importorskip("cv2")
    pytest.importorskip("simplejpeg")
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([x * 200 // size[1], y * 200 // size[0], 0 * x], -1).astype(np.uint8)
    preprocessing = Preprocessing((32, 40), resize=mode)
    smooth, fast = (preprocessing(image, reading).astype(int) for reading in (Reading(), Reading(antialias=False)))
    assert np.abs(smooth - fast).max() <= 2


def test_enlarging_one_column_of_many_rows_goes_along_it_first(monkeypatch, largest):
    """Pillow's first pass is along the rows, and would make 224 columns of a million rows."""
    image = pixels(5000, 1)
    expected = Preprocessing((224, 224))(image).astype(int)
    monkeypatch.setattr(resizing, "MOST_BETWEEN", 1)
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *args, **kw: sizes.append(size) or resize(self, size, *args, **kw)
    )
    np.testing.assert_allclose(Preprocessing((224, 224))(image), expected, atol=1)
    assert sizes == [(1, 224), (224, 224)]


@pytest.mark.parametrize("size", [(60, 20), (300, 41), (20, 60)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_the_width_is_resized_before_the_height(size, interpolation):
    image, method = pixels(*size) // 128 * 255, resizing.INTERPOLATION[interpolation]
    expected = Image.fromarray(image).resize((24, size[0]), method).resize((24, 24), method)
    preprocessing = Preprocessing((24, 24), interpolation=interpolation, width_first=True)
    np.testing.assert_array_equal(preprocessing(image), expected)


def test_a_random_crop_with_the_width_first_sees_the_same_part():
    """Pillow's filters look beyond the part, so that what is cut off beforehand must not be missed."""
    image = pixels(90, 80)
    crops = (RandomResizedCrop(Preprocessing((24, 30), width_first=first)) for first in (True, False))
    one, two = ([crop(image, np.random.default_rng(i)).astype(int) for i in range(20)] for crop in crops)
    np.testing.assert_allclose(one, two, atol=1)
