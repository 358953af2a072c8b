"""Decoding, resizing and cropping."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.images.decoding import decode
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.errors import InputError

GREY = {"channels": 1, "mean": (0.5,), "std": (0.5,)}


def png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_the_same_size_is_left_as_it_is():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for image in (png(pixels), pixels, pixels[:, :, None], Image.fromarray(pixels)):
        np.testing.assert_array_equal(Preprocessing((3, 4), **GREY)(image)[:, :, 0], pixels)


def test_a_path_is_opened(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png([[1, 2]]))
    np.testing.assert_array_equal(Preprocessing((1, 2), **GREY)(file), [[[1], [2]]])


def test_channels_are_converted():
    colour = np.array([[[255, 0, 0]]], np.uint8)
    assert Preprocessing((1, 1), **GREY)(colour).item() == 76  # 0.299 of 255, ITU-R 601
    assert Preprocessing((1, 1))(np.array([[7]], np.uint8)).tolist() == [[[7, 7, 7]]]


def test_a_photograph_is_turned_as_the_camera_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right: turn a quarter clockwise
    file = tmp_path / "a.png"
    Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8)).save(file, exif=exif)
    assert Preprocessing((2, 2), **GREY)(file)[:, :, 0].tolist() == [[3, 1], [4, 2]]


def test_shrinking_by_bilinear_averages_over_the_triangle():
    """Halving a row of eight: weights 1/8, 3/8, 3/8, 1/8 around each new pixel, renormalised at the border."""
    row = np.array([0, 80, 160, 240, 0, 80, 160, 240], float)
    expected = [(row[i - 1 : i + 3] @ [1, 3, 3, 1]) / 8 for i in (2, 4)]
    result = Preprocessing((1, 4), **GREY)(row[None].astype(np.uint8))[0, :, 0]
    np.testing.assert_allclose(result[1:3], expected, atol=1)
    assert result[0] == round((0 * 3 + 80 * 3 + 160) / 7)


def test_shortest_edge_keeps_proportions_and_cuts_the_middle():
    image = np.zeros((4, 8), np.uint8)
    image[:, 2:6] = 200
    result = Preprocessing((4, 4), resize="shortest_edge", **GREY)(image)
    assert (result == 200).all()


def test_crop_fraction_enlarges_before_the_cut():
    image = np.zeros((8, 8), np.uint8)
    image[2:6, 2:6] = 200
    assert (Preprocessing((4, 4), resize="shortest_edge", crop_fraction=0.5, **GREY)(image) == 200).all()


def test_the_size_before_the_cut_can_be_given():
    image = np.zeros((8, 16), np.uint8)
    image[2:6, 4:12] = 200
    assert (Preprocessing((4, 4), resize_to=(8, 8), interpolation="nearest", **GREY)(image) == 200).all()
    assert (Preprocessing((4, 4), resize="shortest_edge", resize_to=(8, 8), **GREY)(image) == 200).all()


@pytest.mark.parametrize(("offset", "left"), [("floor", 1), ("nearest", 2)])
def test_half_a_pixel_of_the_margin_goes_where_it_is_told(offset, left):
    row = np.arange(7, dtype=np.uint8)[None]
    result = Preprocessing((1, 4), resize_to=(1, 7), crop_offset=offset, **GREY)(row)
    np.testing.assert_array_equal(result[0, :, 0], row[0, left : left + 4])


def test_the_other_edge_is_rounded_down():
    """300 x 200 to a shortest edge of 53 is 79.5 pixels wide: torchvision's and Hugging Face's 79."""
    cut = Preprocessing((48, 48), resize="shortest_edge", crop_fraction=0.9, crop_offset="nearest", **GREY)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300), dtype=np.uint8))
    expected = np.asarray(image.resize((79, 53), Image.Resampling.BILINEAR))[2:50, 16:64]
    np.testing.assert_array_equal(cut(image)[:, :, 0], expected)


@pytest.mark.parametrize(
    ("image_size", "fraction", "size", "expected"),
    [
        # timm 1.0's ResizeKeepRatio, then torchvision's CenterCrop: height and width, then top and left.
        ((145, 29), 0.875, (100, 37), ((165, 61), (10, 16))),
        ((42, 153), 1.0, (135, 65), ((318, 153), (138, 0))),
        ((118, 8), 0.95, (141, 374), ((124, 329), (3, 160))),
        ((120, 134), 0.9, (181, 123), ((218, 148), (49, 7))),
        ((10, 14), 1.0, (25, 33), ((11, 14), (0, 0))),
    ],
)
def test_a_rectangle_is_covered_as_by_timm(image_size, fraction, size, expected):
    preprocessing = Preprocessing(
        image_size, resize="shortest_edge_nearest", crop_fraction=fraction, crop_offset="nearest"
    )
    geometry = preprocessing.geometry(*size)
    assert (geometry.resized, geometry.cut[:2]) == expected


def test_images_of_other_channels_than_pillows_are_not_decoded():
    preprocessing = Preprocessing((4, 4), channels=5, mean=(0.5,) * 5, std=(0.5,) * 5)
    with pytest.raises(InputError, match=r"images of 5 channels, which are not decoded; valid: 1 .*3"):
        preprocessing(np.zeros((4, 4, 3), np.uint8))


def test_grey_palette_alpha_and_cmyk_come_out_as_rgb(tmp_path):
    colours = Image.fromarray(np.array([[[200, 10, 30], [0, 90, 250]]], np.uint8))
    for mode, name in [("P", "a.png"), ("RGBA", "a.png"), ("CMYK", "a.tiff"), ("RGB", "a.png")]:
        colours.convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / name)
        np.testing.assert_allclose(Preprocessing((1, 2))(tmp_path / name).astype(int), np.asarray(colours), atol=1)
    colours.convert("L").save(tmp_path / "grey.png")
    grey = Preprocessing((1, 2))(tmp_path / "grey.png")
    assert (grey == np.asarray(colours.convert("L"))[:, :, None]).all()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.filterwarnings("error")  # Pillow warns of what it then does wrong
@pytest.mark.parametrize("transparency", [0, bytes([0, 128])], ids=["one colour", "a value a colour"])
def test_transparency_of_a_palette_is_dropped(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    pixels = decode(encoded(image, "PNG", transparency=transparency), 3)
    assert np.asarray(pixels).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        (Image.new("RGBA", (1, 1), (7, 8, 9, 0)), "PNG", {}, (7, 8, 9)),
        (Image.new("RGBA", (1, 1), (7, 8, 9, 0)), "WEBP", {"lossless": True, "exact": True}, (7, 8, 9)),
        (Image.new("LA", (1, 1), (77, 0)), "PNG", {}, (77, 77, 77)),
        (Image.new("1", (1, 1), 1), "PNG", {}, (255, 255, 255)),
        (Image.new("L", (1, 1), 9), "BMP", {}, (9, 9, 9)),
        # JPEG as print shops have it: all of cyan and nothing else.
        (Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", {"quality": 95}, (0, 255, 255)),
    ],
)
def test_other_kinds_of_pixels(image, kind, options, expected):
    assert decode(encoded(image, kind, **options), 3).getpixel((0, 0)) == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_it_is_the_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("black", "white")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert decode(data, 3).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_of_sixteen_bits_the_upper_eight_are_taken(kind, channels):
    data = encoded(Image.fromarray(np.array([[0, 255, 256, 0x1234, 65535]], np.uint16)), kind)
    pixels = np.asarray(decode(data, channels)).reshape(5, channels)
    assert pixels.tolist() == [[level] * channels for level in (0, 0, 1, 0x12, 255)]


def test_sixteen_bits_are_turned_as_well():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    data = encoded(Image.fromarray(np.array([[256, 512]], np.uint16)), "PNG", exif=exif)
    assert np.asarray(decode(data, 1)).tolist() == [[2, 1]]


@pytest.mark.parametrize("pixels", [np.ones((2, 2), np.float32), np.ones((2, 2), np.int32)])
def test_pixels_of_unknown_range_are_refused(pixels):
    with pytest.raises(InputError, match=r"32-bit numbers.*valid: 8 or 16 bits"):
        decode(encoded(Image.fromarray(pixels), "TIFF"), 3)


def test_sixteen_and_twelve_bits_of_tiff():
    levels = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    white_is_zero = encoded(levels, "TIFF", tiffinfo={262: 0})
    assert np.asarray(decode(white_is_zero, 1)).tolist() == [[255, 254, 0]]
    entries = [(256, 4, 4), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 1)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in [*entries, (279, 4, 6)])
    packed = b"II*\0" + struct.pack("<I", 14) + bytes.fromhex("000fff800123") + b"\x09\0" + directory + bytes(4)
    assert np.asarray(decode(packed, 1)).tolist() == [[0, 255, 128, 18]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"hello", "not an image"),
        (b"", "the image is empty"),
        (png(np.random.default_rng(0).integers(0, 255, (50, 50)))[:900], "cannot be read"),
        ("/nowhere/x.png", "/nowhere/x.png cannot be read: No such file"),
        (np.zeros((2, 2), np.float32), "type float32 is not valid"),
        (np.zeros((2, 2, 4), np.uint8), r"shape \(2, 2, 4\)"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(InputError, match=message):
        decode(image, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (8,)}, "image_size"),
        ({"image_size": (8, 0)}, "image_size"),
        ({"image_size": (8, 8), "channels": 0}, "channels is 0"),
        ({"image_size": (8, 8), "resize": "crop"}, "'crop'; valid: exact, shortest_edge"),
        ({"image_size": (8, 8), "interpolation": "area"}, "'area'; valid: bilinear, bicubic"),
        ({"image_size": (8, 8), "crop_fraction": 1.5}, "crop_fraction is 1.5"),
        ({"image_size": (8, 8), "resize_to": (9, 7)}, r"resize_to is \(9, 7\)"),
        ({"image_size": (8, 8), "crop_offset": "up"}, "'up'; valid: floor, nearest"),
        ({"image_size": (8, 8), "width_first": "yes"}, "width_first is 'yes'; valid: true, false"),
        ({"image_size": (8, 8), "mean": (0.5,)}, "mean.*3 numbers"),
        ({"image_size": (8, 8), "std": (1.0, 1.0, 0.0)}, "std"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(**options)


def test_random_crops_stay_inside_and_keep_their_bounds():
    crop = RandomResizedCrop(Preprocessing((4, 4), **GREY), min_area=0.25, max_aspect=2.0)
    rng = np.random.default_rng(0)
    for _ in range(300):
        top, left, height, width = crop.box(60, 100, rng)
        assert 0 <= top <= 60 - height and 0 <= left <= 100 - width
        assert height * width >= 0.25 * 6000 * 0.9
        assert 0.45 <= width / height <= 2.2


def test_a_strip_falls_back_to_its_middle():
    crop = RandomResizedCrop(Preprocessing((4, 4), **GREY), min_area=1.0, max_aspect=4 / 3)
    assert crop.box(10, 100, np.random.default_rng(0)) == (0, 43, 10, 13)


def test_the_crop_is_what_the_box_says():
    image = np.random.default_rng(0).integers(0, 255, (9, 9), dtype=np.uint8)
    crop = RandomResizedCrop(Preprocessing((3, 3), **GREY), min_area=0.1)
    top, left, height, width = crop.box(9, 9, np.random.default_rng(4))
    part = Image.fromarray(image[top : top + height, left : left + width])
    expected = np.asarray(part.resize((3, 3), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(crop(image, np.random.default_rng(4))[:, :, 0], expected)
