"""The operations, by hand on tiny images; what their strengths mean; what none of them may change."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vit_jax.data.augment import operations as augment
from vit_jax.data.augment.operations import OPS, Brush, Scale

FAMILIES = ("google", "timm", "timm_increasing", "autoaugment", "trivial")
PAIRS = [(family, name) for family in FAMILIES for name, op in OPS.items() if getattr(op, family) is not None]


def brush(**options):
    return Brush(np.random.default_rng(0), **({"fill": 9} | options))


def grey(values):
    return Image.fromarray(np.array(values, np.uint8))


def values(image):
    return np.asarray(image).tolist()


def photo(mode="RGB", size=(14, 10)):
    pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    ("function", "value", "before", "after"),
    [
        (augment.posterize, 4, [0, 77, 128, 255], [0, 64, 128, 240]),
        (augment.posterize, 1, [0, 77, 128, 255], [0, 0, 128, 128]),
        (augment.posterize, 0, [0, 77, 128, 255], [0, 0, 0, 0]),
        (augment.posterize, 8, [0, 77, 128, 255], [0, 77, 128, 255]),
        (augment.solarize, 128, [0, 127, 128, 255], [0, 127, 127, 0]),
        (augment.solarize, 0, [0, 127, 128, 255], [255, 128, 127, 0]),
        (augment.solarize, 512, [0, 127, 128, 255], [0, 127, 128, 255]),
        (augment.solarize_add, 110, [0, 20, 127, 128, 255], [110, 130, 237, 128, 255]),
        (augment.solarize_add, 220, [0, 20, 127, 128, 255], [220, 240, 255, 128, 255]),
        (augment.brightness, 0.5, [0, 100, 200], [0, 50, 100]),
        (augment.brightness, 1.5, [0, 100, 200], [0, 150, 255]),
        (augment.contrast, 0, [0, 100, 200], [100, 100, 100]),
        (augment.contrast, 0.5, [0, 100, 200], [50, 100, 150]),
        (augment.contrast, 1.9, [50, 100, 150], [5, 100, 195]),
    ],
)
def test_an_operation_by_hand(function, value, before, after):
    assert values(function(grey([before]), value, brush())) == [after]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Identity", [1, 2, 3], [1, 2, 3]),
        ("Invert", [0, 10, 255], [255, 245, 0]),
        ("AutoContrast", [50, 100, 150], [0, 127, 255]),
        ("Equalize", [7, 7, 7], [7, 7, 7]),
    ],
)
def test_an_operation_without_a_value_by_hand(name, before, after):
    assert values(OPS[name](grey([before]), family="timm", strength=0.3, brush=brush())) == [after]


def test_equalize_spreads_the_values_evenly():
    image = grey(np.repeat(np.arange(100, 116), 255 * 16 // 16).reshape(16, -1))
    equalized = np.unique(values(OPS["Equalize"](image, family="timm", strength=0, brush=brush())))
    np.testing.assert_allclose(np.diff(equalized), 255 / 15, atol=1)
    assert (equalized[0], equalized[-1]) == (0, 255)


@pytest.mark.parametrize(
    ("function", "value", "after"),
    [
        (augment.translate_x, 1 / 3, [[2, 3, 9], [5, 6, 9], [8, 7, 9]]),
        (augment.translate_x, -1 / 3, [[9, 1, 2], [9, 4, 5], [9, 0, 8]]),
        (augment.translate_y, 2 / 3, [[0, 8, 7], [9, 9, 9], [9, 9, 9]]),
        (augment.translate_x_px, 2, [[3, 9, 9], [6, 9, 9], [7, 9, 9]]),
        (augment.translate_y_px, -1, [[9, 9, 9], [1, 2, 3], [4, 5, 6]]),
        # Pixel centres lie at halves, so that the first row moves by half a pixel.
        (augment.shear_x, 0.99, [[1, 2, 3], [5, 6, 9], [7, 9, 9]]),
        (augment.shear_y, -0.99, [[1, 9, 9], [4, 2, 9], [0, 5, 3]]),
        (augment.rotate, 90, [[3, 6, 7], [2, 5, 8], [1, 4, 0]]),
        (augment.rotate, -90, [[0, 4, 1], [8, 5, 2], [7, 6, 3]]),
    ],
)
def test_a_movement_by_hand(function, value, after):
    image = grey([[1, 2, 3], [4, 5, 6], [0, 8, 7]])
    assert values(function(image, value, brush())) == after


def test_empty_areas_have_the_colour_of_the_fill():
    moved = augment.translate_x_px(photo(), 14, brush(fill=(1, 2, 3)))
    assert np.unique(values(moved), axis=None).tolist() == [1, 2, 3] and values(moved)[0][0] == [1, 2, 3]


def test_color_at_0_is_grey_by_rec_601():
    red = Image.new("RGB", (1, 1), (200, 100, 50))
    assert values(augment.color(red, 0.0, brush())) == [[[124, 124, 124]]]  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert values(augment.grayscale(red)) == [[[124, 124, 124]]]


def test_sharpness_at_0_is_pillows_smooth_filter():
    # (5 * 130 + 8 * 0) / 13 in the middle; edges stay.
    image = grey(np.diag([0, 130, 0]))
    assert values(augment.sharpness(image, 0.0, brush())) == [[0, 0, 0], [0, 50, 0], [0, 0, 0]]


def test_cutout_fills_a_square_of_twice_its_reach_or_what_the_edges_leave():
    image = Image.new("L", (40, 30))
    sizes = set()
    rng = np.random.default_rng(0)
    for _ in range(200):
        cut = np.asarray(augment.cutout(image, 0.1, Brush(rng, 9))) == 9
        rows, columns = cut.any(axis=1).sum(), cut.any(axis=0).sum()
        assert cut.sum() == rows * columns and 3 <= rows <= 6 and 3 <= columns <= 6
        sizes.add((rows, columns))
    assert (6, 6) in sizes and len(sizes) > 4
    assert values(image) == values(Image.new("L", (40, 30)))


@pytest.mark.parametrize(("turn", "after"), [(0.0, (255, 0, 0)), (1 / 3, (0, 255, 0)), (-1 / 3, (0, 0, 255))])
def test_hue_turns_red(turn, after):
    turned = augment.hue(Image.new("RGB", (1, 1), (255, 0, 0)), turn)
    np.testing.assert_allclose(values(turned)[0][0], after, atol=6)  # one of 255 steps of hue is 6


def test_hue_leaves_grey_images_alone():
    assert values(augment.hue(photo("L"), 0.3)) == values(photo("L"))


def test_blur_keeps_the_mean_and_lessens_the_differences():
    image = photo(size=(64, 64))
    blurred = np.asarray(augment.gaussian_blur(image, 2.0), float)
    assert blurred.mean() == pytest.approx(np.asarray(image).mean(), abs=2)
    assert blurred.std() < 0.4 * np.asarray(image).std()


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        # google, timm, timm with inc1, AutoAugment and TrivialAugment of torchvision; positive sign
        ("Rotate", 0.9, (27, 27, 27, 27, 121.5)),
        ("ShearX", 1.0, (0.3, 0.3, 0.3, 0.3, 0.99)),
        ("TranslateX", 0.5, (50 / 224, 0.225, 0.225, 75 / 331, None)),
        ("TranslateYPx", 0.5, (None, None, None, None, 16)),
        ("Posterize", 0.9, (3, 3, 1, 4.4, 2.6)),
        ("Posterize", 0.0, (0, 0, 4, 8, 8)),
        ("Solarize", 0.9, (230, 230, 26, 25.5, 25.5)),
        ("SolarizeAdd", 0.9, (99, 99, 99, None, None)),
        ("Contrast", 0.9, (1.72, 1.72, 1.81, 1.81, 1.891)),
        ("Sharpness", 0.0, (0.1, 0.1, 1, 1, 1)),
        ("Cutout", 1.5, (60 / 224, None, None, None, None)),
        # Beyond 10, as AugReg has it.
        ("Rotate", 2.0, (60, 60, 60, 60, 270)),
        ("Solarize", 2.0, (512, 512, -256, -255, -255)),
    ],
)
def test_what_a_strength_means(name, strength, expected):
    class Positive:
        def random(self):
            return 0.5

    for family, value in zip(FAMILIES, expected, strict=True):
        scale = getattr(OPS[name], family)
        assert (scale is None) == (value is None), family
        assert value is None or scale.value(strength, Positive()) == pytest.approx(value), family


def test_signs_come_equally_often():
    rng = np.random.default_rng(0)
    signed, unsigned = Scale(1, 0.5, signed=True), Scale(1, 0.5)
    drawn = [signed.value(1.0, rng) for _ in range(1000)]
    assert set(drawn) == {0.5, 1.5} and 430 < drawn.count(0.5) < 570
    assert {unsigned.value(1.0, rng) for _ in range(100)} == {1.5}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_every_operation_keeps_size_and_mode_and_the_image_it_was_given(family, name, mode):
    image, fill = photo(mode), (1, 2, 3) if mode == "RGB" else 1
    before = values(image)
    for strength in (0.0, 0.5, 1.0, *([2.0] if family == "google" else [])):
        changed = [
            OPS[name](image, family=family, strength=strength, brush=Brush(np.random.default_rng(3), fill))
            for _ in range(2)
        ]
        assert (changed[0].size, changed[0].mode) == (image.size, mode)
        assert values(changed[0]) == values(changed[1])
    assert values(image) == before


@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_enhancements_are_pillows(name):
    expected = getattr(ImageEnhance, name)(photo()).enhance(1.72)
    assert values(OPS[name](photo(), family="timm", strength=0.9, brush=brush())) == values(expected)
