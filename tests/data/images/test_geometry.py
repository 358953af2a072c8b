"""Where pixels, masks and boxes go: there and back, and all of them to the same place."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.images.decoding import decode_numbers
from vit_jax.data.images.geometry import Geometry, clipped, move_boxes, move_mask, rotation
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.errors import InputError

RNG = np.random.default_rng(0)
PREPROCESSINGS = [
    Preprocessing((20, 14)),
    Preprocessing((16, 16), resize="shortest_edge"),
    Preprocessing((15, 22), resize="shortest_edge", crop_fraction=0.8, crop_offset="nearest"),
    Preprocessing((15, 22), resize="shortest_edge_nearest", crop_fraction=0.9, crop_offset="nearest"),
    Preprocessing((12, 12), resize_to=(17, 30)),
]
SIZES = [(30, 40), (57, 23), (16, 16), (9, 100)]


def geometries():
    for preprocessing in PREPROCESSINGS:
        for size in SIZES:
            yield preprocessing, preprocessing.geometry(*size)
            yield preprocessing, RandomResizedCrop(preprocessing, 0.2).geometry(*size, RNG)


def hull(mask):
    """Left, top, right, bottom of what is not 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_there_and_back_is_the_identity():
    for _, geometry in geometries():
        placement = geometry.placement
        points = RNG.uniform(-10, 120, (20, 2))
        np.testing.assert_allclose(placement.to_image(placement.to_input(points)), points, atol=1e-9)
        np.testing.assert_allclose(placement.to_input(placement.to_image(points)), points, atol=1e-9)


def test_the_input_of_a_resized_image_is_all_of_it():
    assert Preprocessing((5, 7)).geometry(50, 21).placement.box == (0, 0, 21, 50)


def test_a_centre_crop_by_hand():
    # 10 x 40 to 20 x 80, of which columns 30 to 49: in the image columns 15 to 25.
    placement = Preprocessing((20, 20), resize="shortest_edge").geometry(10, 40).placement
    assert placement.box == (15, 0, 25, 10) and placement.scale == (0.5, 0.5)


def test_boxes_and_masks_of_a_rectangle_agree():
    checked = 0
    for _, geometry in geometries():
        height, width = geometry.image_size
        for _ in range(10):
            left, top = RNG.integers(width - 3), RNG.integers(height - 3)
            right, bottom = RNG.integers(left + 3, width + 1), RNG.integers(top + 3, height + 1)
            mask = np.zeros((height, width), np.int32)
            mask[top:bottom, left:right] = 1
            placed = geometry.place_mask(mask)
            boxes = geometry.place_boxes(np.array([[left, top, right, bottom, 4, 9]], np.float32))
            assert placed.shape == geometry.cut[2:]
            if placed.any():
                assert boxes.shape == (1, 6) and boxes[0, 4:].tolist() == [4, 9]
                np.testing.assert_allclose(boxes[0, :4], hull(placed), atol=1)
                checked += 1
            else:  # nothing is left, or less than a pixel
                assert not len(boxes) or (boxes[0, 2:4] - boxes[0, :2]).min() < 1
    assert checked > 100


def test_a_mask_goes_where_pillow_takes_the_image_by_the_nearest_neighbour():
    for preprocessing, geometry in geometries():
        (rows, columns), (top, left, height, width) = geometry.resized, geometry.cut
        for mask in np.indices(geometry.image_size, np.uint8):
            nearest = Image.fromarray(mask).resize((columns, rows), Image.Resampling.NEAREST, box=geometry.box)
            expected = np.asarray(nearest, int)[top : top + height, left : left + width]
            # A centre between two pixels is rounded one way or the other.
            np.testing.assert_allclose(geometry.place_mask(mask), expected, atol=1)
        assert (height, width) == preprocessing.image_size


def test_an_image_that_stays_keeps_its_mask_and_boxes():
    mask = RNG.integers(0, 9, (16, 16))
    boxes = np.array([[1.5, 2, 8, 9.25, 3]], np.float32)
    geometry = Preprocessing((16, 16), resize="shortest_edge").geometry(16, 16)
    np.testing.assert_array_equal(geometry.place_mask(mask), mask)
    np.testing.assert_array_equal(geometry.place_boxes(boxes), boxes)


def test_boxes_are_clipped_and_dropped_where_nothing_is_left():
    # The right half of 10 x 20, twice as large.
    geometry = Geometry((10, 20), (10, 0, 20, 10), (20, 20), (0, 0, 20, 20))
    boxes = [[8, 1, 12, 5, 0], [0, 0, 10, 10, 1], [19, 9, 20, 10, 2], [0, 0, 3, 3, 3]]
    assert geometry.place_boxes(np.array(boxes, np.float32)).tolist() == [[0, 2, 4, 10, 0], [18, 18, 20, 20, 2]]
    assert geometry.place_boxes(np.zeros((0, 5), np.float32)).shape == (0, 5)


def test_clipping_leaves_the_array_it_is_given():
    boxes = np.array([[-1, -1, 3, 3, 0]], np.float32)
    assert clipped(boxes, 2, 2).tolist() == [[0, 0, 2, 2, 0]]
    assert boxes[0, 0] == -1


@pytest.mark.parametrize("degrees", [0, 30, 90, 180, 200, -45, 270])
@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_a_turned_mask_is_pillows(degrees, size):
    mask = RNG.integers(1, 200, size, np.uint8)
    turned = move_mask(mask.astype(np.int32), [rotation(degrees, *size)], empty=0)
    expected = np.asarray(Image.fromarray(mask).rotate(degrees, Image.Resampling.NEAREST, fillcolor=0))
    assert (turned == expected).mean() > 0.9  # at 45 degrees many centres lie between two pixels


@pytest.mark.parametrize(
    "matrix", [(1, 0.3, 0, 0, 1, 0), (1, 0, 0, -0.2, 1, 0), (1, 0, 3, 0, 1, 0), (1, 0, 0, 0, 1, -2)]
)
def test_a_moved_rectangle_has_the_hull_of_its_box(matrix):
    mask = np.zeros((40, 40), np.int32)
    mask[15:25, 12:22] = 1
    boxes = move_boxes(np.array([[12, 15, 22, 25, 7]], np.float32), [matrix], height=40, width=40)
    np.testing.assert_allclose(boxes[0, :4], hull(move_mask(mask, [matrix], empty=0)), atol=1)
    assert boxes[0, 4] == 7


def test_moves_come_one_after_the_other():
    mask = RNG.integers(0, 9, (6, 6)).astype(np.int32)
    away, back = (1, 0, 6, 0, 1, 0), (1, 0, -6, 0, 1, 0)
    np.testing.assert_array_equal(move_mask(mask, [away, back]), -1)  # what has left does not come back
    assert not len(move_boxes(np.array([[1, 1, 2, 2, 0]], np.float32), [away, back], height=6, width=6))


@pytest.mark.parametrize(
    ("mode", "values"), [("L", [[0, 3], [255, 1]]), ("P", [[0, 3], [255, 1]]), ("I;16", [[0, 300], [65535, 1]])]
)
def test_the_numbers_of_a_file_are_kept(mode, values):
    image = Image.fromarray(np.array(values, np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image.putpalette([channel for colour in range(256) for channel in (255 - colour, 7, colour)])
        assert image.mode == "P"
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # of no account: a mask is that of the upright image
    image.save(file, "PNG", exif=exif)
    assert decode_numbers(file.getvalue()).tolist() == values


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 2, 3), np.uint8), r"array of shape \(2, 2, 3\)"),
        (np.zeros((2, 2)), "type float64; valid: whole numbers"),
        (b"nothing", "the mask is not an image in a format"),
        ("/nowhere/mask.png", "/nowhere/mask.png cannot be read: No such file"),
    ],
)
def test_what_is_no_mask_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        decode_numbers(value)


def test_a_mask_of_colours_or_of_too_many_pixels_is_refused():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    with pytest.raises(InputError, match="colours of mode RGB; valid: a number for each pixel"):
        decode_numbers(file.getvalue())
    with pytest.raises(InputError, match="4 x 4 pixels; valid: at most 15"):
        decode_numbers(file.getvalue(), max_pixels=15)
