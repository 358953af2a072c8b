"""Reduced decoding, resizing without antialiasing, and the limit of an image's size."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.images import decoding, metadata
from vit_jax.data.images.decoding import Picture, Reading, decode
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.data.sources import folder
from vit_jax.errors import InputError

REDUCED = Reading(reduced=True)


def picture(height=256, width=384):
    """Smooth, with edges: a disk on a slope."""
    y, x = np.mgrid[:height, :width]
    disk = 90 * (np.hypot(y - height / 2, x - width / 3) < height / 4)
    return Image.fromarray(np.stack([x * 160 // width, y * 160 // height, disk], -1).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **{"quality": 95, **options} if kind == "JPEG" else options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "reduction"), [(256, 1), (129, 1), (128, 2), (65, 2), (64, 4), (33, 4), (32, 8), (8, 8)]
)
def test_the_smallest_scale_that_is_large_enough_is_taken(size, reduction, monkeypatch):
    taken = []
    decode = Picture.decode
    monkeypatch.setattr(Picture, "decode", lambda self, scale=1: taken.append(scale) or decode(self, scale))
    Preprocessing((size, size))(encoded(picture()), REDUCED)
    assert taken == [reduction]


@pytest.mark.parametrize("size", [(257, 385), (250, 391)])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_jpeg_is_decoded_at_that_scale(size, reduction):
    image = Picture(encoded(picture(*size)), 3).decode(reduction)
    assert (image.height, image.width) == tuple(-(-side // reduction) for side in size)


@pytest.mark.parametrize("size", [(100, 150), (40, 60), (30, 30)])
def test_a_reduced_image_is_nearly_the_same(size):
    data = encoded(picture())
    whole, reduced = Preprocessing(size)(data), Preprocessing(size)(data, REDUCED)
    assert (whole != reduced).any()
    assert np.abs(whole.astype(int) - reduced).mean() < 1


def test_a_crop_of_a_reduced_image_is_the_same_region():
    """A wrong box would move the disk's edge, which differs from the ground by 90."""
    crop = RandomResizedCrop(Preprocessing((24, 24)), 0.3)
    data = encoded(picture(255, 383))
    for seed in range(8):
        whole = crop(data, np.random.default_rng(seed)).astype(int)
        reduced = crop(data, np.random.default_rng(seed), REDUCED)
        assert np.abs(whole - reduced).mean() < 1.5
        shifted = np.roll(whole, 1, axis=1)[:, 1:]
        assert np.abs(whole - reduced).mean() < np.abs(shifted - reduced[:, 1:]).mean()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_turned_photograph_is_reduced_to_the_same_pixels(orientation, antialias, channels):
    """On a slope a shift by one pixel of the file changes all levels by 2 to 3."""
    if not antialias:
        pytest.importorskip("cv2")
        pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[0x0112] = orientation
    for height, width in ((103, 97), (97, 127)):  # the last blocks of 8 have 7 and 1, 1 and 7 rows and columns
        y, x = np.mgrid[:height, :width]
        slope = np.stack([x * 250 / width, y * 250 / height, (x / width + y / height) * 120], -1).round()
        image = Image.fromarray(slope.astype(np.uint8))
        image = image.convert("L") if channels == 1 else image
        # Turned the other way is how it is stored.
        back = {6: 8, 8: 6}.get(orientation, orientation)
        stored = metadata.turned(image, back)
        data = encoded(stored, exif=exif, quality=98, subsampling=0)
        assert Picture(data, 3).height == height
        reading = Reading(reduced=True, antialias=antialias)
        options = {"channels": channels, "mean": (0.5,) * channels, "std": (0.5,) * channels}
        for crop in (
            Preprocessing((height // 9, width // 9), **options),
            Preprocessing((20, 20), resize="shortest_edge", **options),
        ):
            difference = crop(data, reading).astype(int) - crop(image)
            assert np.abs(difference[1:-1, 1:-1].mean(axis=(0, 1))).max() < 0.8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_not_reduced(kind):
    data = encoded(picture(), kind)
    np.testing.assert_array_equal(Preprocessing((20, 20))(data, REDUCED), Preprocessing((20, 20))(data))


def test_without_a_need_nothing_changes():
    data = encoded(picture())
    np.testing.assert_array_equal(Preprocessing((200, 200))(data, REDUCED), Preprocessing((200, 200))(data))


@pytest.mark.parametrize(("shape", "image_size"), [((30, 20), (60, 40)), ((64, 48), (64, 48))])
def test_enlarging_does_not_depend_on_antialiasing(shape, image_size):
    pytest.importorskip("cv2")
    pytest.importorskip("simplejpeg")
    fast = Reading(antialias=False)
    for data in (encoded(picture(*shape)), encoded(picture(*shape), "PNG"), encoded(picture(*shape).convert("L"))):
        left, right = (Preprocessing(image_size)(data, reading).astype(int) for reading in (Reading(), fast))
        assert left.shape == right.shape
        assert np.abs(left - right).max() <= 2


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("reduction", [1, 4])
def test_rows_below_what_is_needed_are_left_out_and_change_nothing_above(subsampling, options, reduction):
    pytest.importorskip("cv2")
    pytest.importorskip("simplejpeg")
    data = encoded(picture(), subsampling=subsampling, **options)
    whole = Picture(data, 3).pixels(reduction)
    for bottom in (1, 63, 64, 65, 200, 256):
        part = Picture(data, 3).pixels(reduction, bottom=bottom)
        rows = -(-bottom // reduction)
        assert len(part) < len(whole) or bottom > 190 or options == {"progressive": True}
        np.testing.assert_array_equal(part[:rows], whole[:rows])


def test_without_antialiasing_the_region_is_the_same():
    pytest.importorskip("cv2")
    pytest.importorskip("simplejpeg")
    crop = RandomResizedCrop(Preprocessing((100, 100)))
    for seed in range(8):
        smooth, fast = (
            crop(encoded(picture()), np.random.default_rng(seed), Reading(reduced=True, antialias=antialias))
            for antialias in (True, False)
        )
        assert np.abs(smooth.astype(int) - fast).mean() < 2


def test_a_cut_off_jpeg_is_refused_in_every_way():
    data = encoded(picture())[:-2000]
    for reading in (Reading(), REDUCED):
        with pytest.raises(InputError, match="the image cannot be read"):
            Preprocessing((20, 20))(data, reading)
    pytest.importorskip("cv2")
    pytest.importorskip("simplejpeg")
    with pytest.raises(InputError, match="the image cannot be read"):
        Preprocessing((20, 20))(data, Reading(antialias=False))


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    decoding.fast_libraries.cache_clear()
    with pytest.raises(InputError, match=r"antialias=false needs cv2.*pip install 'vit-jax\[fast\]'"):
        Reading(antialias=False)
    decoding.fast_libraries.cache_clear()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_above_the_limit_is_refused_before_it_is_decoded(kind, monkeypatch):
    data = encoded(Image.new("RGB", (40, 30)), kind)
    assert decode(data, 3, max_pixels=1200).size == (40, 30)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"too large: 40 x 30 pixels; valid: at most 1199 pixels \(data.max_image"):
        decode(data, 3, max_pixels=1199)


def test_the_limit_can_be_above_pillows(monkeypatch):
    data = encoded(Image.new("RGB", (40, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"1200 pixels.*valid: at most 200 pixels \(data.max_image_pixels"):
        decode(data, 3, max_pixels=200)
    assert decode(data, 3, max_pixels=2000).size == (40, 30)


def test_up_to_the_limit_pillow_does_not_warn(monkeypatch, recwarn):
    """Its warning would name no file."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encoded(Image.new("RGB", (15, 10))), 3, max_pixels=200).size == (15, 10)
    assert not recwarn.list


def test_a_limit_below_1_is_refused():
    with pytest.raises(InputError, match=r"data.max_image_pixels is 0; valid: 1 or more"):
        Reading(0)


def test_a_folder_with_an_image_above_the_limit_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "0.png")
    images = folder.open_folder(str(tmp_path), eval_fraction=0)
    assert len(images.source("train")) == 2
    Image.new("RGB", (20, 30)).save(tmp_path / "b" / "1.png")
    images = folder.open_folder(str(tmp_path), eval_fraction=0)
    assert len(images.source("train")) == 3
    with pytest.raises(InputError, match=r"1 of 3 images.*1\.png is too large: 20 x 30 pixels; valid: at most 400"):
        images.source("train", max_pixels=400)
