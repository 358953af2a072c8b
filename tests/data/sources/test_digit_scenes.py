"""The digits drawn for every kind of task: fields that agree with the pixels, and no test digit in training."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vit_jax.data.sources import digit_scenes
from vit_jax.data.sources import tfds as sources
from vit_jax.data.sources.digits import TEST_SIZE, stratified_test_records
from vit_jax.types import Field

DIGITS = tuple("0123456789")


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded))).astype(int)


@pytest.fixture(scope="module")
def scenes():
    source = sources.open_source("digit_scenes", "train[:60]")
    return source, [source[record] for record in range(60)]


def test_fields_of_each_dataset():
    image = {side: Field("image", (side, side, 1), "uint8") for side in (32, 48)}
    boxes = Field("boxes", (None, 5), "float32", DIGITS)
    mask = Field("mask", (48, 48), "int32", ("background", *DIGITS), (255,))
    expected = {
        "digit_scenes": {"image": image[48], "mask": mask, "boxes": boxes}
        | {"instances": Field("instances", (48, 48), "int32", DIGITS)},
        "digit_clips": {"image": Field("image", (8, 32, 32, 1), "uint8"), "label": Field("label", names=DIGITS)},
        "digit_pairs": {"image": image[32], "label": Field("labels", (10,), "float32", DIGITS)},
    } | {name: {"image": image[32], "target": image[32]} for name in sources.OWN if name[6:] in ("noise", "holes")}
    for name, fields in expected.items():
        assert sources.known_fields(name) == fields


def test_boxes_enclose_the_digits_tightly(scenes):
    counts = set()
    for example in scenes[1]:
        instances = pixels(example["instances"])
        assert example["boxes"].dtype == np.float32
        counts.add(len(example["boxes"]))
        for number, (left, top, right, bottom, label) in enumerate(example["boxes"]):
            rows, columns = np.nonzero(instances == 1 + label + 10 * number)
            expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose((left, top, right, bottom), expected, atol=1e-4)
    assert counts == {1, 2, 3, 4, 5}


def test_masks_instances_and_pixels_agree(scenes):
    for example in scenes[1]:
        instances, mask, image = (pixels(example[name]) for name in ("instances", "mask", "image"))
        np.testing.assert_array_equal(mask, np.where(instances > 0, 1 + (instances - 1) % 10, 0))
        assert image[mask > 0].min() > 96
        assert {1 + int(label) for label in example["boxes"][:, 4]} == set(np.unique(mask)) - {0}


def test_boxes_overlap_little(scenes):
    for example in scenes[1]:
        boxes = example["boxes"][:, :4]
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
                smaller = min(np.prod(box[2:] - box[:2]) for box in (one, other))
                assert np.prod(np.maximum(sides, 0)) <= 0.1 * smaller + 1e-3


def test_no_test_digit_is_trained_on():
    test_records = set(stratified_test_records(load_digits().target, TEST_SIZE, seed=0).tolist())
    used = {}
    for split in ("train", "test"):
        builder = sources.open_builder("digit_scenes")
        raw = builder.as_data_source(split, decoders={name: digit_scenes.tfds.decode.SkipDecoding() for name in IMAGES})
        used[split] = {int(record) for example in raw for record in example["objects"]["record"]}
    assert used["test"] <= test_records and not used["train"] & test_records
    assert len(used["test"]) > 300 and len(used["train"]) > 1000


IMAGES = ("image", "mask", "instances")


def test_two_preparations_are_equal_byte_for_byte(tmp_path, monkeypatch):
    for builder in digit_scenes.BUILDERS:
        monkeypatch.setattr(builder, "COUNTS", {"train": 8, "test": 3})
    for name in sources.OWN.keys() - {"digits"}:
        folders = [sources.open_builder(name, str(tmp_path / place)).data_path for place in ("one", "two")]
        for file in folders[0].glob("*.array_record-*"):
            assert file.read_bytes() == (folders[1] / file.name).read_bytes()


def test_a_clip_moves_one_digit():
    source = sources.open_source("digit_clips", "test[:20]")
    moved = 0
    for record in range(20):
        frames = source[record]["image"]
        assert frames.shape == (8, 32, 32, 1) and frames.dtype == np.uint8
        totals = frames.astype(int).sum(axis=(1, 2, 3))
        assert (totals == totals[0]).all()  # the digit never leaves the frame
        moved += (frames[0] != frames[-1]).any()
    assert moved > 15


def test_pairs_have_two_labels():
    source = sources.open_source("digit_pairs", "test[:20]")
    assert {source[record]["label"].sum() for record in range(20)} == {2.0}


@pytest.mark.parametrize(
    ("name", "error"), [("digit_low_resolution", (5, 60)), ("digit_noise", (25, 45)), ("digit_holes", (5, 90))]
)
def test_what_is_to_be_restored_differs_from_its_target(name, error):
    source = sources.open_source(name, "test[:40]")
    examples = [source[record] for record in range(40)]
    differences = np.stack([pixels(example["image"]) - pixels(example["target"]) for example in examples])
    assert error[0] < np.sqrt((differences**2).mean()) < error[1]
