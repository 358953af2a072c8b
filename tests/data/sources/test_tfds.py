"""Refusals of unknown and unusable datasets."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tfds_files import png, write_dataset

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading.loader import Share
from vit_jax.data.loading.memory import InMemory
from vit_jax.data.loading.pipeline import Pipeline
from vit_jax.data.loading.streaming import Streaming
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError
from vit_jax.types import Field


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digts", "train", "unknown dataset 'digts'; nearest: digits"),
        ("digits", "tran", "no split 'tran'; valid: train, test"),
        ("digits", "train[:0%]", "no split|is empty"),
        ("cifar10", "train", "not prepared.*cifar10/3.0.2"),
        ("cifar10:9.9.9", "train", "cannot be opened.*only: 3.0.2"),
    ],
)
def test_refusals(name, split, message, tmp_path):
    with pytest.raises(InputError, match=message):
        sources.open_source(name, split, str(tmp_path))


def test_slices_and_class_names():
    source = sources.open_source("digits", "train[:10%]")
    assert len(source) == 144
    assert source.fields["label"].names == tuple("0123456789")
    assert source.name == "digits train[:10%]"


def test_a_sample_is_some_of_the_examples_and_always_the_same():
    whole = sources.open_source("digits", "test[:40]")
    sample = whole.sample(7)
    assert (len(sample), sample.fields) == (7, whole.fields)
    images = [whole[record]["image"] for record in range(40)]
    places = [images.index(sample[record]["image"]) for record in range(7)]
    assert places == sorted(set(places)) and places != list(range(7))
    assert [sample[record] for record in range(7)] == [whole.sample(7)[record] for record in range(7)]
    assert len(whole.sample(100)) == 40


CLASSES = tfds.features.ClassLabel(names=["cat", "dog", "fish"])
FEATURES = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3)), "label": CLASSES})


def test_not_prepared_names_the_command_and_the_folder(tmp_path):
    with pytest.raises(InputError) as error:
        sources.open_source("mnist", "train", str(tmp_path))
    assert f"found nothing in {tmp_path}/mnist/3.0.1" in str(error.value)
    assert f"'vit-jax data prepare mnist --data-dir {tmp_path}'" in str(error.value)


def test_remote_folders_are_read_where_array_record_does():
    with pytest.raises(InputError, match=r"s3://bucket/x; array_record reads local folders and gs:// alone"):
        sources.open_source("cifar10", "train", "s3://bucket/x")


def test_missing_files_are_named(tmp_path):
    folder = tmp_path / "small" / "1.0.0"
    write_dataset(folder, FEATURES, [{"image": png(), "label": i % 3} for i in range(8)], shards=6)
    for shard in (0, 2, 3, 5):
        (folder / f"small-train.array_record-0000{shard}-of-00006").unlink()
    with pytest.raises(InputError, match=r"lacks .*00000-of-00006, .*00002-of-00006, .*00003-of-00006 and 1 more"):
        sources.open_source("small", "train[:1]", str(tmp_path))


def test_a_damaged_record_is_named_with_its_file(tmp_path):
    folder = tmp_path / "small" / "1.0.0"
    write_dataset(folder, FEATURES, [{"image": png(), "label": i % 3} for i in range(9)], shards=3)
    file = folder / "small-train.array_record-00001-of-00003"
    data = bytearray(file.read_bytes())
    data[data.rindex(b"IHDR") + 20] ^= 255  # in the last of its three records
    file.write_bytes(data)
    source = sources.open_source("small", "train[2:]", str(tmp_path))
    assert [source[record]["label"] for record in (0, 1, 2, 4)] == [2, 0, 1, 0]
    with pytest.raises(InputError, match=r"example 3 of small train\[2:\], record 2 of .*00001-of-00003, cannot be re"):
        source[3]
    file.write_bytes(data[:1000])
    with pytest.raises(InputError, match=r"example 1 of .*, record 0 of .*00001-of-00003, cannot be read"):
        sources.open_source("small", "train[2:]", str(tmp_path))[1]


def test_labels_out_of_range_are_refused(tmp_path):
    examples = [{"image": png(), "label": label} for label in (2, -1)]
    write_dataset(tmp_path / "small" / "1.0.0", FEATURES, examples)
    source = sources.open_source("small", "train", str(tmp_path))
    assert source[0]["label"] == 2
    with pytest.raises(InputError, match="example 1 of small train has the label -1; valid: 0 to 2"):
        source[1]


@pytest.mark.parametrize("key", ["label", "labels"])
def test_several_labels(key, tmp_path):
    image = tfds.features.Image(shape=(None, None, 3))
    features = tfds.features.FeaturesDict({"image": image, key: tfds.features.Sequence(CLASSES)})
    labels = [[0, 2], [], [1], [0, 1, 2]]
    write_dataset(tmp_path / "small" / "1.0.0", features, [{"image": png(), key: some} for some in labels])
    source = sources.open_source("small", "train", str(tmp_path))
    rows = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32)
    assert source.fields["label"] == Field("labels", (3,), "float32", ("cat", "dog", "fish"))
    np.testing.assert_array_equal([source[record]["label"] for record in range(4)], rows)
    pipeline = Pipeline(source, Preprocessing((4, 4), 3))
    for data in (InMemory(pipeline), Streaming(pipeline)):
        batches = list(data.eval_batches(Share(3)))
        assert [batch["label"].dtype for batch in batches] == [np.float32] * 2
        np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in batches]), [*rows, *np.zeros((2, 3))])
        batch = next(data.train_batches(Share(4), seed=0, start_step=0, total_steps=1))
        assert batch["label"].shape == pipeline.blank(4)["label"].shape == (4, 3)


@pytest.mark.parametrize("folder", ["s3://bucket/data", "gs://bucket/data"])
def test_remote_folders_that_cannot_be_read_are_refused_in_one_line(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gs:// alone|pip install 'vit-jax\[gcs\]'"):
        sources.open_builder("digits", folder)
