"""Folders of images and archives of them, and what is refused."""

import bz2
import os
import pathlib
import shutil
import tarfile

import pytest
from archive_files import SYNSETS, encoded, examples, nothing_left, pets, random, set_counts, write, write_tar

from vit_jax.data.prepare import prepare
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError

KINDS = {".TIF": "TIFF", ".tiff": "TIFF", ".jfif": "JPEG", ".ppm": "PPM"}


@pytest.mark.parametrize("packed", [None, "w", "w:gz", "w:xz", "zip"])
def test_a_folder_of_images_under_a_new_name(packed, tmp_path):
    folder = pets(tmp_path / "pets")
    path = folder
    if packed == "zip":
        path = pathlib.Path(shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path, "pets"))
    elif packed:
        path = tmp_path / "pets.tar"
        with tarfile.open(path, packed) as tar:
            tar.add(folder, "pets")
    out = tmp_path / "out"
    assert prepare.prepare("my_pets", str(path), str(out)) == out / "my_pets" / "1.0.0"
    train, test = (examples("my_pets", split, out) for split in ("train", "test"))
    assert (len(train), len(test)) == (16, 4)
    expected = {file.read_bytes(): file.parent.name for file in folder.rglob("*.*g")}
    assert train | test == expected
    assert sorted(test.values()) == ["cat", "cat", "dog", "dog"]
    assert [file.name for file in sorted((out / "my_pets" / "1.0.0").iterdir())] == [
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
        "my_pets-test.array_record-00000-of-00001",
        "my_pets-train.array_record-00000-of-00001",
    ]


def test_a_folder_and_its_archive_are_split_alike(tmp_path):
    folder = pets(tmp_path / "pets")
    with tarfile.open(tmp_path / "pets.tar.bz2", "w:bz2") as tar:
        tar.add(folder, "pets")
    prepare.prepare("one", str(folder), str(tmp_path / "out"), eval_fraction=0.3)
    prepare.prepare("two", str(tmp_path / "pets.tar.bz2"), str(tmp_path / "out"), eval_fraction=0.3)
    for split in ("train", "test"):
        one, two = (examples(name, split, tmp_path / "out") for name in ("one", "two"))
        assert list(one) == list(two)
    plain = tmp_path / "plain.tar"
    plain.write_bytes(bz2.decompress((tmp_path / "pets.tar.bz2").read_bytes()))
    prepare.prepare("three", str(plain), str(tmp_path / "out"), eval_fraction=0.0)
    assert list(sources.open_builder("three", str(tmp_path / "out")).info.splits) == ["train"]


def test_what_pillow_reads_counts_in_an_archive(tmp_path):
    images = {
        f"{name}/1{ending}": encoded(random(8, 8, 3, seed=i), kind)
        for name in "ab"
        for i, (ending, kind) in enumerate(KINDS.items(), 10 * ord(name))
    }
    write(tmp_path / "in", images)
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(tmp_path / "in", "in")
    for name in ("in", "in.tar"):
        prepare.prepare("kinds", str(tmp_path / name), str(tmp_path / f"out_{name}"), eval_fraction=0.0)
        assert len(examples("kinds", "train", tmp_path / f"out_{name}")) == 2 * len(KINDS)


@pytest.mark.parametrize("packed", [False, True])
def test_splits_of_a_folder_take_the_names_of_the_dataset(packed, tmp_path, monkeypatch):
    set_counts(monkeypatch, "imagenet2012", train=6, validation=3)
    for i, synset in enumerate(SYNSETS):
        image = encoded(random(8, 8, 3, seed=i), "JPEG")
        files = {f"train/{synset}/a.JPEG": image + b"0", f"train/{synset}/b.JPEG": image + b"1"}
        write(tmp_path / "in", files | {f"val/{synset}/c.JPEG": image + b"2"})
    path = tmp_path / "in"
    if packed:
        path = tmp_path / "in.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "in", ".")
    prepare.prepare("imagenet2012", str(path), str(tmp_path / "out"))
    assert sorted(examples("imagenet2012", "train", tmp_path / "out").values()) == sorted(2 * SYNSETS)
    assert sorted(examples("imagenet2012", "validation", tmp_path / "out").values()) == list(SYNSETS)


def test_refused_folders(tmp_path, monkeypatch):
    def refused(name, path, match):
        with pytest.raises(InputError, match=match):
            prepare.prepare(name, str(path), str(tmp_path / "out"))
        assert nothing_left(tmp_path / "out")

    folder = pets(tmp_path / "pets")
    refused("Pets", folder, "'Pets' cannot name a dataset")
    refused("../pets", folder, "cannot name a dataset")
    refused("digits", folder, "digits is prepared on its first use")
    with pytest.raises(InputError, match="TFDS's folder is gs://bucket/x; valid: a local one"):
        prepare.prepare("pets", str(folder), "gs://bucket/x")
    refused("pets", tmp_path / "none", "none does not exist")
    refused("oxford_iiit_pet", folder, "with head_bbox, segmentation_mask, species, which images do not have")
    refused("imagenet2012", folder, "'(cat|dog)' is no class of imagenet2012")
    refused("cifar10", folder, "there are 2 classes, cat, dog; cifar10 has 10")
    (tmp_path / "text").write_text("hello")
    refused("pets", tmp_path / "text", "is a file, not a folder")
    refused("pets", write_tar(tmp_path / "a.tar", {"x/a.txt": b""}), "a.tar holds no images")
    refused("pets", write_tar(tmp_path / "a.tar", {"x/a.png": b"", "b.png": b""}), "b.png lies in no class folder")
    refused("pets", write_tar(tmp_path / "a.tar", {"p/x/a.png": b""}), "a.tar: p has one class only, 'x';")
    refused("pets", write_tar(tmp_path / "a.tar", {"train/x/a.png": b"", "test/x/b.png": b""}), "has one class only")
    image = encoded(random(8, 8, 3))
    files = {"train/a/1.png": image, "train/b/1.png": image, "test/c/1.png": image}
    refused("pets", write_tar(tmp_path / "a.tar", files), "a.tar: test has classes that train lacks: c; valid: a, b")
    (folder / "cat" / "2.png").write_bytes((folder / "cat" / "2.png").read_bytes()[:60])
    refused("pets", folder, r"cat/2\.png \(example \d+ of (train|test)\): the image cannot be read")
    for number in range(10):
        write(tmp_path / "ten", {f"train/{number}/1.png": image, f"test/{number}/1.png": image})
    refused("cifar10", tmp_path / "ten" / "train", "ten/train has no split 'test'; cifar10 has train, test")
    set_counts(monkeypatch, "cifar10", train=10, test=10)
    refused("cifar10", tmp_path / "ten", "it has 8x8 pixels; valid for this dataset: 32x32")


@pytest.mark.parametrize("name", ["a\nb", "a\rb", " a", "a ", "\t"])
def test_a_class_that_tfds_would_read_back_as_another_is_refused(name, tmp_path):
    """Its file of names has one a line, without spaces at the ends."""
    folder = pets(tmp_path / "pets")
    (folder / "cat").rename(folder / name)
    with pytest.raises(InputError, match="cannot be kept by TFDS, which writes a class a line"):
        prepare.prepare("my_pets", str(folder), str(tmp_path / "out"))
    assert nothing_left(tmp_path / "out")


def test_a_folder_of_data_that_is_not_utf8_is_refused(tmp_path):
    folder = pets(tmp_path / "pets")
    out = os.path.join(tmp_path, os.fsdecode(b"zo\xeb"))
    with pytest.raises(InputError, match="is not UTF-8"):
        prepare.prepare("my_pets", str(folder), out)
    assert not os.path.exists(out)


def test_images_and_folders_that_are_not_utf8_are_read(tmp_path):
    folder = pets(tmp_path / os.fsdecode(b"zo\xeb"))
    file = next(folder.rglob("*.*g"))
    file.rename(file.with_name(os.fsdecode(b"\xeb.png")))
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(folder, "pets")
    for name, source in (("of_folder", folder), ("of_tar", tmp_path / "pets.tar")):
        prepare.prepare(name, str(source), str(tmp_path / "out"), eval_fraction=0.0)
        assert len(examples(name, "train", tmp_path / "out")) == 20
