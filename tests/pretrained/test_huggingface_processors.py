"""Image processors of transformers: their pixels, what is refused, and what is written.

tests/golden/processors/pixels.npz holds what transformers 5.24 computes of `picture()` for each of `CASES`, and of
`portrait()` for each of `PORTRAITS`, as float16
`[3, height, width]`. To make it, write a case as preprocessor_config.json into a folder, beside a config.json of
`{"model_type": "vit"}`, and keep, with torchvision 0.28 installed so that tensors are resized,
`AutoImageProcessor.from_pretrained(folder)(Image.fromarray(picture()), return_tensors="np")["pixel_values"][0]`.
"""

import json

import numpy as np
import pytest

import vit_jax
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.pretrained.huggingface_processors import read_processor, unsupported_preprocessing, write_processor

HALVES = {"image_mean": [127.5] * 3, "image_std": [127.5] * 3}
CASES = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 14}},
    "vit_old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 12, "resample": 3},
    "vit_cut": {"image_processor_type": "ViTImageProcessor", "size": [16, 15], "do_center_crop": True, "crop_size": 12},
    "vit_edge": {"size": 15, "default_to_square": None, "do_center_crop": True, "crop_size": 12, "resample": 1},
    "vit_enlarged": {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 45, "width": 70}},
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 15, "crop_size": 12},
    "deit_uncut": {"image_processor_type": "DeiTImageProcessor", "size": 12, "do_center_crop": None},
    "pvt": {"image_processor_type": "PvtImageProcessor", "size": [12, 14]},
    "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 12}, "crop_pct": 0.8},
    "convnext_old": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 14},
    "levit": {"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 15}, "crop_size": [12, 13]},
    "beit": {"feature_extractor_type": "BeitFeatureExtractor", "size": 12, "crop_size": 8, "reduce_labels": True},
    "bit": {"image_processor_type": "BitImageProcessorFast", "size": 14, "crop_size": {"height": 12, "width": 9}},
    "dinov3": {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": 12, "do_pad": None, "device": None},
    "clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 14, "crop_size": 12},
    "clip_uncut": {"image_processor_type": "CLIPImageProcessor", "size": [12, 12], "do_center_crop": False},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 12, "width": 12}},
    "segformer": {
        "image_processor_type": "SegformerImageProcessor",
        "size": 12,
        "crop_size": 8,
        "do_center_crop": True,
    },
    "detr": {"image_processor_type": "DetrImageProcessor", "size": {"height": 12, "width": 14}, "max_size": 20},
    "yolos": {"image_processor_type": "YolosImageProcessor", "size": [12, 14], "pad_size": [12, 14]},
    "raw": {"image_processor_type": "ViTImageProcessor", "size": 12, "do_rescale": None, **HALVES},
    "raised": {"image_processor_type": "ViTImageProcessor", "size": 12, "rescale_factor": 1 / 127.5, "image_std": 1.0},
    "unnormalised": {"image_processor_type": "SiglipImageProcessor", "size": [12, 12], "do_normalize": None},
}
PORTRAITS = {
    "portrait_bicubic": {"image_processor_type": "ViTImageProcessor", "size": 24, "resample": 3},
    "portrait_lanczos": {"image_processor_type": "ViTImageProcessor", "size": 20, "resample": 1},
}


def picture():
    """A ramp to the right, a ramp down and a pattern, 40 px high and 66 wide."""
    y, x = np.mgrid[:40, :66]
    pattern = (x * y * 37 + x // 5 * 91 + y // 3 * 53) % 256
    return np.stack([x * 255 // 65, y * 255 // 39, pattern], axis=-1).astype(np.uint8)


def portrait():
    """Hard edges, 66 px high and 40 wide."""
    y, x = np.mgrid[:66, :40]
    edges = [(x * 37 + y * 91 + k * x * y) // 8 % 2 * 255 for k in (1, 2, 3)]
    return np.stack(edges, axis=-1).astype(np.uint8)


def pixels(preprocessing, image=None):
    """What a model takes, `[3, height, width]`."""
    shown = preprocessing(picture() if image is None else image) / 255
    return ((shown - preprocessing.mean) / preprocessing.std).transpose(2, 0, 1)


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_those_of_transformers(golden, name):
    with np.load(golden / "processors" / "pixels.npz") as file:
        np.testing.assert_allclose(pixels(read_processor("x", CASES[name])), file[name], atol=0.02)


@pytest.mark.parametrize("name", PORTRAITS)
def test_hard_edges_of_a_portrait_are_those_of_transformers(golden, name):
    """Of which Pillow resizes the height first."""
    preprocessing = read_processor("x", PORTRAITS[name])
    with np.load(golden / "processors" / "pixels.npz") as file:
        np.testing.assert_allclose(pixels(preprocessing, portrait()), file[name], atol=0.02)


@pytest.mark.parametrize(("filter_", "width_first"), [(0, False), (1, True), (2, True), (3, True), (4, False)])
def test_filters_that_tensors_have_take_the_width_first(filter_, width_first):
    assert read_processor("x", {"size": 8, "resample": filter_}).width_first == width_first


@pytest.mark.parametrize("name", ["convnext", "levit", "vit_cut", "clip_uncut", "raw"])
def test_what_is_written_gives_the_same_pixels(name):
    before = read_processor("x", CASES[name])
    assert not unsupported_preprocessing(before)
    after = read_processor("x", json.loads(json.dumps(write_processor(before))))
    np.testing.assert_array_equal(pixels(after), pixels(before))


@pytest.mark.parametrize(
    ("preprocessing", "kind"),
    [
        (Preprocessing((8, 12)), "ViT"),
        (Preprocessing((8, 12), resize_to=(9, 15)), "DeiT"),
        (Preprocessing((8, 12), resize="shortest_edge", resize_to=(15, 15)), "CLIP"),
    ],
)
def test_the_type_that_is_written_is_the_one_that_does_it(preprocessing, kind):
    written = write_processor(preprocessing)
    assert written["image_processor_type"] == f"{kind}ImageProcessor"
    assert read_processor("x", written).geometry(30, 50) == preprocessing.geometry(30, 50)


def test_a_large_image_of_convnext_is_squashed():
    small, large = ({"image_processor_type": "ConvNextImageProcessor", "size": size} for size in (383, 384))
    assert read_processor("x", small).resize_to == (437, 437)  # 383 / (224 / 256) = 437.7
    assert (read_processor("x", large).resize, read_processor("x", large).resize_to) == ("exact", None)


def test_a_processor_for_another_size_is_scaled_along_with_its_cut():
    convnext = read_processor("x", CASES["convnext"], image_size=(24, 48))
    assert (convnext.resize, convnext.resize_to, convnext.image_size) == ("shortest_edge", (30, 60), (24, 48))


def test_a_model_is_read_with_its_processors_type(changed):
    copy = changed("hf_vit")
    copy.preprocessor = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 48}
    preprocessing = vit_jax.load(copy.save()).preprocessing
    assert (preprocessing.resize, preprocessing.resize_to, preprocessing.interpolation) == (
        "shortest_edge",
        (54, 54),
        "bicubic",
    )


def test_processor_config_goes_before_preprocessor_config(changed):
    copy = changed("hf_vit")
    copy.preprocessor = {"image_processor_type": "ViTImageProcessor", "size": 48, "resample": 2}
    file = copy.save() / "processor_config.json"
    file.write_text(json.dumps({"processor_class": "CLIPProcessor"}))  # the older form, without the image processor
    assert vit_jax.load(copy.folder).preprocessing.interpolation == "bilinear"
    file.write_text(json.dumps({"image_processor": {"image_processor_type": "SiglipImageProcessor", "size": [48, 48]}}))
    assert vit_jax.load(copy.folder).preprocessing.interpolation == "bicubic"
    file.write_text(json.dumps({"image_processor": {"image_processor_type": "FuyuImageProcessor"}}))
    with pytest.raises(vit_jax.InputError, match=r"processor_config\.json: image_processor_type 'FuyuImageProcessor'"):
        vit_jax.load(copy.folder)
    file.write_text(json.dumps({"image_processor": 3}))
    with pytest.raises(vit_jax.InputError, match="image_processor is 3; valid: an object"):
        vit_jax.load(copy.folder)


def test_a_file_without_a_type_has_the_familys(changed):
    for name, mean in (("hf_pvt", 0.485), ("hf_swin", 0.5)):
        copy = changed(name)
        copy.preprocessor = {"do_resize": True}
        assert vit_jax.load(copy.save()).preprocessing.mean[0] == mean


def test_means_for_other_channels():
    grey = {"image_processor_type": "PvtImageProcessor", "size": 8}
    assert read_processor("x", grey, channels=1).mean == (0.5,)
    assert read_processor("x", grey | {"image_mean": [0.1] * 3}, channels=1).mean == (0.1,)
    with pytest.raises(
        vit_jax.InputError, match=r"image_mean has 3 numbers: \[0.1, 0.2, 0.3\]; valid: 1, one a channel"
    ):
        read_processor("x", grey | {"image_mean": [0.1, 0.2, 0.3]}, channels=1)


VIT, CLIP, DETR = ({"image_processor_type": f"{kind}ImageProcessor"} for kind in ("ViT", "CLIP", "Detr"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"image_processor_type": "MobileViTImageProcessor"},
            "'MobileViTImageProcessor' is not supported; valid: ViTIm",
        ),
        (
            {"feature_extractor_type": "PoolFormerFeatureExtractor"},
            "feature_extractor_type 'PoolFormerFeatureExtractor'",
        ),
        ({"image_processor_type": ["ViT"]}, r"image_processor_type \['ViT'\] is not supported"),
        (
            VIT | {"do_flip_channel_order": True},
            "do_flip_channel_order True is not supported in ViTImageProcessor; valid k",
        ),
        (
            VIT | {"crop_pct": 0.9},
            "crop_pct 0.9 is not supported in ViTImageProcessor; valid keys: crop_size, default_to",
        ),
        (VIT | {"size_divisor": 32}, "size_divisor 32 is not supported"),
        (VIT | {"offset": True}, "offset True is not supported"),
        (
            VIT | {"do_resize": False},
            "do_resize false is not supported; valid: true, so that the input's size does not",
        ),
        (VIT | {"do_rescale": "no"}, "do_rescale is 'no'; valid: true, false"),
        (
            VIT | {"size": {"shortest_edge": 8}},
            "'shortest_edge': 8} without a cut is not supported; valid: height and wid",
        ),
        (VIT | {"size": [8]}, r"size \[8\] is not supported; valid: height and width or shortest_edge"),
        (VIT | {"size": 10**9}, "size 1000000000 is not supported; valid: .* of 1 to 65536 pixels"),
        (VIT | {"size": {"height": 8, "width": 8.5}}, "'width': 8.5} is not supported"),
        (VIT | {"do_center_crop": True}, "do_center_crop true needs crop_size in ViTImageProcessor"),
        (VIT | {"do_pad": True, "pad_size": 300}, "pad_size 300 is not supported; valid: height 224 and width 224"),
        (VIT | {"image_mean": [0.5, 0.5]}, r"image_mean has 2 numbers: \[0.5, 0.5\]; valid: 3, one a channel"),
        (VIT | {"image_std": 0}, "image_std is 0; valid: numbers above 0"),
        (VIT | {"image_std": ["a"]}, r"image_std is \['a'\]; valid: a number for each of 3 channels"),
        (VIT | {"rescale_factor": 0}, "rescale_factor is 0; valid: a number above 0"),
        (VIT | {"resample": "bicubic"}, "resample 'bicubic' is not supported; valid: 0 to 5"),
        (
            CLIP | {"crop_size": 256},
            "crop_size 256 is not supported, since it would give images a black border; valid: at m",
        ),
        (
            CLIP | {"crop_size": {"shortest_edge": 8}},
            "crop_size {'shortest_edge': 8} is not supported; valid: height and",
        ),
        (
            CLIP | {"size": {"shortest_edge": 8, "longest_edge": 9}},
            "'longest_edge': 9} is not supported; valid: .* not va",
        ),
        (
            CASES["convnext"] | {"size": [8, 8]},
            r"size \[8, 8\] is not supported in ConvNextImageProcessor; valid: shorte",
        ),
        (CASES["convnext"] | {"crop_pct": 1e-300}, "crop_pct is 1e-300; valid: a number above 0, at most 1"),
        (
            CASES["convnext"] | {"do_center_crop": True, "crop_size": 8},
            "crop_size 8 is not supported after the cut by cr",
        ),
        (CASES["dinov3"] | {"resample": 3}, "resample 3 is not supported; valid: 2 in DINOv3ViTImageProcessor"),
        (
            DETR,
            "'longest_edge': 1333} is not supported; valid: height and width, so that the input's size does not vary",
        ),
        (DETR | {"size": 800}, "size 800 is not supported in DetrImageProcessor; valid: height and width"),
    ],
)
def test_what_would_give_other_pixels_is_refused(given, message):
    with pytest.raises(vit_jax.InputError, match=f"^x: .*{message}") as caught:
        read_processor("x", given)
    assert "\n" not in str(caught.value)
