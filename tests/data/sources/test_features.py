"""TFDS features as fields, and their records as values; no TensorFlow is needed."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tfds_files import png, write_dataset

from vit_jax.data.sources import tfds as sources
from vit_jax.data.sources.features import features_of
from vit_jax.errors import InputError
from vit_jax.types import Field

ANIMALS = tfds.features.ClassLabel(names=["cat", "dog"])
IMAGE = tfds.features.Image(shape=(None, None, 3))
GREY = tfds.features.Image(shape=(None, None, 1))
OBJECTS = {"bbox": tfds.features.BBoxFeature(), "label": ANIMALS, "is_crowd": tfds.features.Scalar(np.bool_)}


def grey(size=(4, 4), value=1, dtype=np.uint8):
    file = io.BytesIO()
    Image.fromarray(np.full(size, value, dtype)).save(file, "PNG")
    return file.getvalue()


def fields_of(**features):
    found = features_of(tfds.features.FeaturesDict({"image": IMAGE, **features}))
    return {name: feature.field for name, feature in found.items() if name != "image"}


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"label": ANIMALS}, {"label": Field("label", names=("cat", "dog"))}),
        ({"labels": tfds.features.Sequence(ANIMALS)}, {"label": Field("labels", (2,), "float32", ("cat", "dog"))}),
        ({"objects": tfds.features.Sequence(OBJECTS)}, {"boxes": Field("boxes", (None, 5), "float32", ("cat", "dog"))}),
        (
            {"faces": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()})},
            {"boxes": Field("boxes", (None, 5), "float32", ("faces",))},
        ),
        ({"segmentation_mask": GREY}, {"mask": Field("mask", (None, None), ignore=(255,))}),
        (
            {"map": tfds.features.LabeledImage(shape=(8, 6, 1), labels=["sky", "road"])},
            {"mask": Field("mask", (8, 6), names=("sky", "road"), ignore=(255,))},
        ),
        ({"target": GREY}, {"target": Field("image", (None, None, 1), "uint8")}),
        ({"gaze": tfds.features.Tensor(shape=(3,), dtype=np.float32)}, {"gaze": Field("array", (3,), "float32")}),
        ({"age": tfds.features.Scalar(np.int64)}, {"age": Field("array", (), "int64")}),
        ({"text": tfds.features.Text()}, {}),
        ({"any": tfds.features.Tensor(shape=(None, 3), dtype=np.float32)}, {}),
        ({"depth": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16)}, {}),
        ({"frames": tfds.features.Sequence(IMAGE)}, {}),
        (
            {"frames": tfds.features.Sequence(IMAGE, length=4)},
            {"frames": Field("image", (4, None, None, 3), "uint8")},
        ),
    ],
)
def test_fields(features, expected):
    assert fields_of(**features) == expected


def test_further_labels_and_arrays_have_to_be_asked_for(tmp_path):
    features = {"coarse_label": ANIMALS, "label": ANIMALS, "image": IMAGE, "age": tfds.features.Scalar(np.int64)}
    features = tfds.features.FeaturesDict(features)
    # A coarse label that is unknown, as of CIFAR-100 from folders, does no harm unless it is asked for.
    example = {"coarse_label": -1, "label": 1, "image": png(), "age": 7}
    write_dataset(tmp_path / "small" / "1.0.0", features, [example])
    source = sources.open_source("small", "train", str(tmp_path))
    assert list(source.fields) == ["image", "label"] and source[0] == {"image": png(), "label": 1}
    asked = sources.open_source("small", "train", str(tmp_path), names=("image", "age"))
    assert asked[0] == {"image": png(), "age": 7} and asked[0]["age"].dtype == np.int64
    coarse = sources.open_source("small", "train", str(tmp_path), names=("image", "coarse_label"))
    with pytest.raises(InputError, match="example 0 of small train has the class in coarse_label -1; valid: 0 to 1"):
        coarse[0]
    with pytest.raises(InputError, match="has no field 'mask'; it has image, label, age, coarse_label"):
        sources.open_source("small", "train", str(tmp_path), names=("mask",))


def test_a_dataset_of_images_alone(tmp_path):
    write_dataset(tmp_path / "small" / "1.0.0", tfds.features.FeaturesDict({"image": IMAGE}), [{"image": png()}])
    assert sources.open_source("small", "train", str(tmp_path))[0] == {"image": png()}


def test_a_dataset_without_images_is_refused(tmp_path):
    features = tfds.features.FeaturesDict({"label": ANIMALS, "text": tfds.features.Text()})
    write_dataset(tmp_path / "small" / "1.0.0", features, [{"label": 0, "text": "a"}])
    with pytest.raises(
        InputError, match=r"dataset 'small' has the features (label, text|text, label); valid: one called image"
    ):
        sources.open_source("small", "train", str(tmp_path))


def test_boxes_are_pixels_of_the_image(tmp_path):
    """Of an image of 40 x 20 (width x height), as TFDS has them: ymin, xmin, ymax, xmax in [0, 1]."""
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "JPEG")
    box = {"bbox": tfds.features.BBox(ymin=0.25, xmin=0.1, ymax=0.5, xmax=1.0), "label": 1, "is_crowd": False}
    features = tfds.features.FeaturesDict({"image": IMAGE, "objects": tfds.features.Sequence(OBJECTS)})
    examples = [{"image": file.getvalue(), "objects": objects} for objects in ([box], [])]
    write_dataset(tmp_path / "small" / "1.0.0", features, examples)
    source = sources.open_source("small", "train", str(tmp_path))
    np.testing.assert_allclose(source[0]["boxes"], [[4, 5, 40, 10, 1]], rtol=1e-6)
    assert source[0]["boxes"].dtype == np.float32 and source[1]["boxes"].shape == (0, 5)


def test_masks_and_clips(tmp_path):
    mask = tfds.features.LabeledImage(shape=(4, 4, 1), labels=["sky", "road"])
    frames = tfds.features.Sequence(tfds.features.Image(shape=(4, 4, 3)), length=3)
    features = tfds.features.FeaturesDict({"image": frames, "mask": mask})
    example = {"image": [io.BytesIO(png(level)) for level in (0, 100, 200)], "mask": io.BytesIO(grey())}
    write_dataset(tmp_path / "small" / "1.0.0", features, [example])
    source = sources.open_source("small", "train", str(tmp_path))
    assert source.fields["image"].shape == (3, 4, 4, 3)
    assert source[0]["image"][:, 0, 0, 0].tolist() == [0, 100, 200] and source[0]["mask"] == grey()


def test_names_do_not_depend_on_the_order_of_the_features():
    features = {"a_mask": GREY, "mask": GREY, "labels": tfds.features.Sequence(ANIMALS), "label": ANIMALS}
    expected = list(fields_of(**features))
    assert expected == ["label", "mask", "a_mask", "labels"]
    assert list(fields_of(**dict(reversed(features.items())))) == expected
