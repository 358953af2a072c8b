"""Preprocessing from preprocessor_config.json and pretrained_cfg."""

import math

import numpy as np
import pytest
from PIL import Image

import vit_jax


def loaded(copy, **changes):
    copy.preprocessor = changes
    return vit_jax.load(copy.save()).preprocessing


def test_size_is_a_number_or_height_and_width_or_the_shortest_edge(changed):
    copy = changed("hf_vit")
    for size in (48, [48, 48], {"height": 48, "width": 48}):
        preprocessing = loaded(copy, size=size)
        assert (preprocessing.resize, preprocessing.image_size) == ("exact", (48, 48))
        assert preprocessing.interpolation == "bilinear"
    edge = loaded(copy, size={"shortest_edge": 55}, do_center_crop=True, crop_size=48, resample=3)
    assert (edge.resize, edge.resize_to, edge.image_size) == ("shortest_edge", (55, 55), (48, 48))
    image = np.random.default_rng(0).integers(0, 255, (60, 93, 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize((85, 55), Image.Resampling.BICUBIC)  # 55 * 93 / 60 = 85.25
    np.testing.assert_array_equal(edge(image), np.asarray(resized)[3:51, 18:66])


def test_the_cut_is_the_models_input(changed):
    copy = changed("hf_deit")
    assert vit_jax.load(copy.folder).preprocessing.resize_to == (64, 64)
    assert vit_jax.load(copy.folder, image_size=(96, 24)).preprocessing.resize_to == (128, 32)
    # Made for 224 px, as in many a fine-tuned copy; in proportion it is 256 / 224 of 48.
    assert loaded(copy, size=256, crop_size=224).resize_to == (55, 55)


def test_without_the_file_it_is_the_processors_own(changed):
    vit, deit = changed("hf_vit"), changed("hf_deit")
    vit.preprocessor = deit.preprocessor = None
    first, second = vit_jax.load(vit.save()).preprocessing, vit_jax.load(deit.save()).preprocessing
    assert (first.resize_to, first.interpolation, first.mean) == (None, "bilinear", (0.5, 0.5, 0.5))
    assert (second.resize_to, second.interpolation, second.mean) == ((55, 55), "bicubic", (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}, [1.8, 4 / 3, 1.0]),
        ({"image_mean": 0.5, "image_std": 0.25}, [2.0, 2.0, 2.0]),
        ({"do_normalize": False}, [1.0, 1.0, 1.0]),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, [2.0, 2.0, 2.0]),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3}, [1.0, 1.0, 1.0]),
    ],
)
def test_white_is_rescaled_and_normalised(changed, options, expected):
    copy = changed("hf_vit")
    copy.preprocessor = options
    white = np.full((48, 48, 3), 255, np.uint8)
    pixels = vit_jax.load(copy.save()).preprocess(white)
    np.testing.assert_allclose(pixels[0, 0, 0], expected, rtol=1e-5)


def test_timms_crop(changed):
    copy = changed("timm_vit")
    copy.config["pretrained_cfg"] |= {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"}
    squash = vit_jax.load(copy.save()).preprocessing
    assert (squash.resize, squash.resize_to, squash.interpolation) == ("exact", (60, 60), "bilinear")
    for key in ("crop_pct", "crop_mode", "interpolation", "mean", "std"):
        copy.config["pretrained_cfg"].pop(key)
    default = vit_jax.load(copy.save()).preprocessing
    assert (default.resize, default.crop_fraction, default.interpolation) == ("shortest_edge", 0.875, "bicubic")
    assert math.isclose(default.mean[0], 0.485) and math.isclose(default.std[2], 0.225)


def test_timms_sizes_for_tests_and_training_change_nothing(changed):
    """`resolve_data_config` takes them only where it is asked to."""
    copy = changed("timm_vit")
    before = vit_jax.load(copy.folder).preprocessing
    copy.config["pretrained_cfg"] |= {"test_input_size": [3, 96, 96], "test_crop_pct": 1.0, "min_input_size": [3, 8, 8]}
    assert vit_jax.load(copy.save()).preprocessing == before


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hf_vit", {"size": {"longest_edge": 9}}, "size {'longest_edge': 9} is not supported; valid: height and"),
        ("hf_vit", {"resample": 9}, "resample 9 is not supported; valid: 0 to 5"),
        ("timm_vit", {"crop_mode": "border"}, "crop_mode 'border' is not supported; valid: center, squash"),
        ("timm_vit", {"crop_mode": "pad"}, "crop_mode 'pad' is not supported; valid: center, squash"),
        ("timm_vit", {"crop_pct": 1.1}, "crop_pct 1.1 is not supported; valid: a number above 0, at most 1"),
        ("timm_vit", {"crop_pct": 1e-9}, "crop_pct 1e-09 is not supported; valid: a number above 0, at most 1"),
        ("timm_vit", {"crop_border_pixels": 4}, "crop_border_pixels 4 is not supported; valid: without it"),
        ("timm_vit", {"mean": [0.5, 0.5]}, r"mean is \[0.5, 0.5\]; valid: 3 numbers"),
        ("timm_vit", {"std": "imagenet"}, "std is 'imagenet'; valid: 3 numbers"),
        ("timm_vit", {"interpolation": "random"}, "interpolation 'random' is not supported; valid: bilinear"),
    ],
)
def test_what_is_not_supported_is_refused(changed, name, options, message):
    copy = changed(name)
    if name == "hf_vit":
        copy.preprocessor = options
    else:
        copy.config["pretrained_cfg"] |= options
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(copy.save())
