"""Overlays: which pixel has which colour, where the boxes are, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.figures.overlay import draw_boxes, index_png, mask_overlay, palette, panels

GREY = Image.new("RGB", (400, 300), (100, 100, 100))


def test_colours_are_distinct_and_do_not_depend_on_how_many_there_are():
    colours = palette(150)
    assert colours.dtype == np.uint8 and colours.shape == (150, 3)
    assert len({tuple(row) for row in colours.tolist()}) == 150
    np.testing.assert_array_equal(palette(9), colours[:9])
    assert palette(0).shape == (0, 3)


def test_a_mask_blends_each_pixel_with_its_classs_colour():
    mask = np.full((300, 400), -1)
    mask[:, 200:] = 1
    picture = np.asarray(mask_overlay(GREY, mask, ["sky", "sea"], opacity=0.25))
    np.testing.assert_array_equal(picture[10, 10], [100, 100, 100])  # ignored
    np.testing.assert_array_equal(picture[10, 300], np.rint(75 + 0.25 * palette(2)[1].astype(float)))
    assert picture.shape[0] > 300  # the legend


def test_the_legend_names_only_what_occurs():
    mask = np.zeros((300, 400), int)
    one = mask_overlay(GREY, mask, ["sky", "sea"])
    assert one.size == mask_overlay(GREY, mask, ["sky", "sea" * 50]).size
    mask[0, 0] = 1
    assert one.height < mask_overlay(GREY, mask, ["sky", "sea" * 50]).height  # two lines
    assert mask_overlay(GREY, np.full((300, 400), -1), ["sky"]).size == GREY.size  # nothing to name


def test_small_images_are_enlarged_pixel_by_pixel():
    mask = np.array([[0, 1], [1, 0]])
    picture = np.asarray(mask_overlay(Image.new("L", (2, 2)), mask, ["a", "b"], opacity=1.0))
    for (y, x), label in np.ndenumerate(mask):
        square = picture[160 * y : 160 * (y + 1), 160 * x : 160 * (x + 1)].reshape(-1, 3)
        np.testing.assert_array_equal(np.unique(square, axis=0), palette(2)[[label]])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((400, 300), int), "does not fit an image of 300x400"),
        (np.full((300, 400), 2), "the values 2 to 2, and there are 2 classes"),
        (np.full((300, 400), -2), "the values -2 to -2"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        mask_overlay(GREY, mask, ["sky", "sea"])


def test_a_boxs_outline_lies_on_its_edges_inside():
    picture = np.asarray(draw_boxes(GREY, np.array([[100, 120, 200, 220.0]]), ["seven"], [0.93]))
    colour = palette(1)[0]
    for y, x in ((150, 100), (150, 199), (219, 150)):
        np.testing.assert_array_equal(picture[y, x], colour)
    for y, x in ((150, 99), (150, 200), (220, 150), (150, 150)):
        np.testing.assert_array_equal(picture[y, x], [100, 100, 100])


def test_boxes_are_scaled_with_a_small_image_and_may_leave_it():
    picture = np.asarray(draw_boxes(Image.new("L", (32, 16)), np.array([[16, 8, 90, 90.0], [-9, -9, -3, -3]]), "ab"))
    assert picture.shape == (160, 320, 3)
    np.testing.assert_array_equal(picture[150, 160], palette(2)[0])
    assert draw_boxes(GREY, np.zeros((0, 4)), []).tobytes() == GREY.tobytes()


def test_a_classs_colour_does_not_depend_on_the_others_found():
    box = np.array([[100, 120, 200, 220.0]])
    picture = np.asarray(draw_boxes(GREY, box, ["sea"], names=["sky", "sea"]))
    np.testing.assert_array_equal(picture[150, 100], palette(2)[1])


@pytest.mark.parametrize(("labels", "scores"), [(["a"], None), (["a", "b"], [0.5]), ([], None)])
def test_labels_and_boxes_are_as_many(labels, scores):
    with pytest.raises(ValueError):
        draw_boxes(GREY, np.zeros((2, 4)), labels, scores)


def test_panels_stand_side_by_side_at_one_height():
    red, blue = Image.new("RGB", (400, 300), "red"), Image.new("RGB", (200, 150), "blue")
    picture = panels([red, blue], ["original", "a caption that is too long " * 20])
    pixels = np.asarray(picture)
    assert picture.width == 400 + 400 + 3 * 6
    np.testing.assert_array_equal(pixels[-20, 200], [255, 0, 0])
    np.testing.assert_array_equal(pixels[-20, 600], [0, 0, 255])
    np.testing.assert_array_equal(pixels[-1, 200], [255, 255, 255])
    with pytest.raises(ValueError, match="1 images have 2 captions"):
        panels([red], ["a", "b"])
    with pytest.raises(ValueError):
        panels([], [])


def test_an_index_png_keeps_the_numbers():
    mask = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
    file = io.BytesIO()
    index_png(mask, ["a", "b", "c"]).save(file, "PNG")
    again = Image.open(file)
    assert again.mode == "P"
    np.testing.assert_array_equal(np.asarray(again), mask)
    colours = np.asarray(again.convert("RGB"))
    np.testing.assert_array_equal(colours[0], palette(3))
    np.testing.assert_array_equal(colours[1, 0], [0, 0, 0])
    for wrong, names in ((mask.astype(np.int32), ["a"]), (mask[0], ["a"]), (mask, ["a"] * 257)):
        with pytest.raises(ValueError):
            index_png(wrong, names)
