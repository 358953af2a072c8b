"""Datasets prepared from archives made here in the published layouts, and what is refused."""

import bz2
import dataclasses
import gzip
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.data.images.decoding import decode
from vit_jax.data.prepare import prepare, shards
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError

SYNSETS = ("n01440764", "n01443537", "n01484850")


def random(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def counts(monkeypatch):
    """`counts(name, train=4)` says how many examples the archives made here have."""

    def change(name, **numbers):
        monkeypatch.setitem(prepare.ARCHIVES, name, dataclasses.replace(prepare.ARCHIVES[name], counts=numbers))

    return change


def images_and_labels(name, split, data_dir):
    """By the number of the example in the archive: the decoded image and its label."""
    source = sources.open_source(name, split, str(data_dir))
    return [(np.asarray(decode(source[i]["image"], 3)), source[i]["label"]) for i in range(len(source))]


def same(found, images, labels):
    """Whether the same pairs of image and label are there, in whatever order."""
    expected = sorted((np.asarray(image).tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    return sorted((image.tobytes(), label) for image, label in found) == expected


def nothing_left(data_dir):
    return not list(data_dir.rglob("*"))


# CIFAR


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, of which the official batches are made."""

    def save_text(self, value):
        data = value if isinstance(value, bytes) else value.encode()
        self.write(b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: save_text, bytes: save_text}

    def save_global(self, obj, name=None):
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or obj.__qualname__}\n".encode())
        self.memoize(obj)

    dispatch[type] = save_global


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def rows(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


CIFAR_NAMES = [f"class{i}" for i in range(10)]


def cifar10(kind):
    """Ten training images and two for testing, and the files of the archive."""
    images, labels = random(12, 32, 32, 3), np.arange(12) % 10
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    files = {}
    for i, name in enumerate(names):
        part = slice(2 * i, 2 * i + 2)
        if kind == "python":
            batch = {"data": rows(images[part]), "labels": labels[part].tolist(), "batch_label": name}
            files[f"cifar-10-batches-py/{name}"] = python2_pickle(batch)
        else:
            data = np.concatenate([labels[part, None].astype(np.uint8), rows(images[part])], axis=1)
            files[f"cifar-10-batches-bin/{name}.bin"] = data.tobytes()
    if kind == "python":
        files["cifar-10-batches-py/batches.meta"] = python2_pickle({"label_names": CIFAR_NAMES})
    else:
        files["cifar-10-batches-bin/batches.meta.txt"] = ("\n".join(CIFAR_NAMES) + "\n\n").encode()
    return images, labels, files


@pytest.mark.parametrize("layout", ["archive", "its folder", "unpacked", "unpacked's parent"])
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar10(kind, layout, tmp_path, counts):
    counts("cifar10", train=10, test=2)
    images, labels, files = cifar10(kind)
    inside = tmp_path / "in"
    inside.mkdir()
    archive = inside / f"cifar-10-{kind}.tar.gz"
    if "unpacked" in layout:
        for name, data in files.items():
            (inside / name).parent.mkdir(exist_ok=True)
            (inside / name).write_bytes(data)
        path = inside if "parent" in layout else inside / next(iter(files)).split("/")[0]
    else:
        write_tar(archive, files, "w:gz")
        path = archive if layout == "archive" else inside
    out = tmp_path / "out"
    assert prepare.prepare("cifar10", str(path), str(out)) == out / "cifar10" / "3.0.2"
    assert same(images_and_labels("cifar10", "train", out), images[:10], labels[:10])
    assert same(images_and_labels("cifar10", "test", out), images[10:], labels[10:])
    info = tfds.builder("cifar10", data_dir=out).info
    assert info.features["label"].names == CIFAR_NAMES and info.splits["train"].num_examples == 10
    # The order is shuffled, and TFDS's number of an example stays its number in the archive.
    raw = tfds.builder("cifar10", data_dir=out).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    numbers = [int(x["id"].decode().removeprefix("train_")) for x in raw]
    assert sorted(numbers) == list(range(10)) != numbers
    assert [x["label"] for x in raw] == [labels[number] for number in numbers]


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar100_has_both_labels(kind, tmp_path, counts):
    counts("cifar100", train=3, test=2)
    images, fine, coarse = random(5, 32, 32, 3), [99, 0, 50, 1, 2], [19, 0, 10, 3, 4]
    names = [f"fine{i:03}" for i in range(100)]
    files = {}
    for name, part in (("train", slice(0, 3)), ("test", slice(3, 5))):
        if kind == "python":
            batch = {"data": rows(images[part]), "fine_labels": fine[part], "coarse_labels": coarse[part]}
            files[name] = python2_pickle(batch)
        else:
            labels = np.array([coarse[part], fine[part]], np.uint8).T
            files[f"{name}.bin"] = np.concatenate([labels, rows(images[part])], axis=1).tobytes()
    if kind == "python":
        files["meta"] = python2_pickle({"fine_label_names": names, "coarse_label_names": ["x"] * 20})
    else:
        files["fine_label_names.txt"] = "\n".join(names).encode()
    path = write_tar(tmp_path / "cifar.tar.gz", {f"cifar-100-{kind}/{k}": v for k, v in files.items()}, "w:gz")
    prepare.prepare("cifar100", str(path), str(tmp_path / "out"))
    assert same(images_and_labels("cifar100", "train", tmp_path / "out"), images[:3], fine[:3])
    builder = tfds.builder("cifar100", data_dir=tmp_path / "out")
    raw = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert {(int(x["label"]), int(x["coarse_label"])) for x in raw} == set(zip(fine[:3], coarse[:3], strict=True))
    assert builder.info.features["label"].names == names


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


def test_a_pickle_that_runs_code_is_refused(tmp_path, counts, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, files = cifar10("python")
    files["cifar-10-batches-py/data_batch_3"] = pickle.dumps({b"data": Evil()})
    path = write_tar(tmp_path / "c.tar", files)
    with pytest.raises(InputError, match=r"c\.tar: data_batch_3: it asks for posix\.system"):
        prepare.prepare("cifar10", str(path), str(tmp_path / "out"))
    assert not (tmp_path / "evil").exists() and nothing_left(tmp_path / "out")


def test_refused_cifar_archives(tmp_path):
    def refused(files, match, kind="w"):
        path = write_tar(tmp_path / "c.tar", files, kind)
        with pytest.raises(InputError, match=match):
            prepare.prepare("cifar10", str(path), str(tmp_path / "out"))
        assert nothing_left(tmp_path / "out")
        return path

    _, _, files = cifar10("python")
    batch = "cifar-10-batches-py/data_batch_2"
    refused(files, "has 10 images in train; cifar10 has 50,000")
    refused({k: v for k, v in files.items() if k != batch}, "lacks data_batch_2 of cifar-10-python")
    refused(files | {batch: files[batch][:-9]}, "data_batch_2 is damaged")
    refused(files | {batch: python2_pickle({"data": 1})}, "data_batch_2 is no batch of CIFAR")
    short = {"data": random(2, 3072), "labels": [1]}
    refused(files | {batch: python2_pickle(short)}, "data_batch_2 has data of shape")
    _, _, files = cifar10("binary")
    batch = "cifar-10-batches-bin/data_batch_2.bin"
    refused(files | {batch: files[batch][:-1]}, "data_batch_2.bin has 6145 bytes; valid: a multiple of 3073")
    refused(files | {batch: b"\x0a" + files[batch][1:]}, r"data_batch_2\.bin, image 0 has the label 10; valid: 0 to 9")
    refused({"../x": b""} | files, "member '../x' leaves the folder")
    refused({"/etc/x": b""} | files, "member '/etc/x' leaves the folder")
    path = refused(files, "50,000", "w:gz")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="is damaged or cut off"):
        prepare.prepare("cifar10", str(path), str(tmp_path / "out"))
    assert nothing_left(tmp_path / "out")


# MNIST


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist():
    images, labels = random(9, 28, 28), np.array([3, 1, 4, 1, 5, 9, 2, 6, 5], np.uint8)
    files = {"train-images-idx3-ubyte": idx(images[:6]), "train-labels-idx1-ubyte": idx(labels[:6])}
    files |= {"t10k-images-idx3-ubyte": idx(images[6:]), "t10k-labels-idx1-ubyte": idx(labels[6:])}
    return images, labels, files


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("spelling", ["{}", "{}.gz", "MNIST/raw/{}", "{}:."])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(name, spelling, tmp_path, counts):
    counts(name, train=6, test=3)
    images, labels, files = mnist()
    if ":" in spelling:  # as some copies of the files are called
        files = {file.replace("-idx", ".idx"): data for file, data in files.items()}
    else:
        pack = gzip.compress if "gz" in spelling else bytes
        files = {spelling.format(file): pack(data) for file, data in files.items()}
    folder = write(tmp_path / "in", files)
    prepare.prepare(name, str(folder), str(tmp_path / "out"))
    rgb = np.repeat(images[..., None], 3, axis=-1)
    assert same(images_and_labels(name, "train", tmp_path / "out"), rgb[:6], labels[:6])
    assert same(images_and_labels(name, "test", tmp_path / "out"), rgb[6:], labels[6:])
    names = sources.open_source(name, "train", str(tmp_path / "out")).class_names
    assert (names[0], len(names)) == ({"mnist": "0", "fashion_mnist": "T-shirt/top"}[name], 10)


def test_refused_idx_files(tmp_path, counts):
    counts("mnist", train=6, test=3)
    _, _, files = mnist()
    image, label = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    for number, (changed, match) in enumerate(
        [
            ({image: files[image][:-1]}, f"{image} has 4,719 bytes; valid for its shape .*: 4,720"),
            ({image: files[label]}, f"{image} is no idx file of 3 axes"),
            ({label: idx(np.zeros(5, np.uint8))}, "has 6 images, .* 5"),
            ({label: idx(np.array([0, 1, 10, 0, 0, 0], np.uint8))}, "image 2 has the label 10; valid: 0 to 9"),
            ({label: None, f"{label}.gz": gzip.compress(files[label])[:-4]}, "is damaged or cut off"),
            ({image: None}, f"lacks {image}"),
            (dict.fromkeys(files), "neither train-images-idx3-ubyte .* nor a folder of images"),
        ]
    ):
        kept = {name: data for name, data in (files | changed).items() if data is not None}
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(InputError, match=match):
            prepare.prepare("mnist", str(write(folder, kept)), str(tmp_path / "out"))
        assert nothing_left(tmp_path / "out")


# ImageNet


def imagenet(folder, labels=SYNSETS[::-1]):
    """Twelve training images of three classes and three validation images."""
    folder.mkdir(exist_ok=True)
    images = [encoded(random(8, 9, 3, seed=i), "JPEG") for i in range(15)]
    inner = {}
    for i, synset in enumerate(SYNSETS):
        part = {f"{synset}_{j}.JPEG": images[j] for j in range(4 * i, 4 * i + 4)}
        inner[f"{synset}.tar"] = write_tar(folder / "inner", part).read_bytes()
    (folder / "inner").unlink()
    write_tar(folder / "ILSVRC2012_img_train.tar", inner)
    # Not in the order of their names.
    names = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (2, 1, 3)]
    write_tar(folder / "ILSVRC2012_img_val.tar", dict(zip(names, (images[13], images[12], images[14]), strict=True)))
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(labels) + "\n")
    return images


def examples(name, split, data_dir):
    source = sources.open_source(name, split, str(data_dir))
    return {source[i]["image"]: source.class_names[source[i]["label"]] for i in range(len(source))}


def test_imagenet(tmp_path, counts):
    counts("imagenet2012", train=12, validation=3)
    images = imagenet(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare.prepare("imagenet2012", str(tmp_path / "in"), str(out)) == out / "imagenet2012" / "5.1.0"
    train = examples("imagenet2012", "train", out)
    assert train == {image: SYNSETS[i // 4] for i, image in enumerate(images[:12])}  # byte for byte
    assert examples("imagenet2012", "validation", out) == dict(zip(images[12:], SYNSETS[::-1], strict=True))
    assert len(sources.open_source("imagenet2012", "train", str(out)).class_names) == 1000
    raw = tfds.builder("imagenet2012", data_dir=out).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert sorted(x["file_name"].decode() for x in raw) == sorted(f"{SYNSETS[j // 4]}_{j}.JPEG" for j in range(12))


@pytest.mark.parametrize("place", ["beside", "kit", "kit unpacked"])
def test_imagenet_labels_as_numbers(place, tmp_path, counts):
    counts("imagenet2012", train=12, validation=3)
    folder = tmp_path / "in"
    images = imagenet(folder)
    truth = folder / "ILSVRC2012_validation_ground_truth.txt"
    truth.unlink()
    rows = np.zeros(3, dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    for i, synset in enumerate(SYNSETS):
        rows[i] = ((i + 5) % 3 + 1, synset)  # 3, 1, 2
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": rows})
    files = {"meta.mat": (tmp_path / "meta.mat").read_bytes(), truth.name: b"3\n1\n1\n"}
    if place == "beside":
        write(folder, files)
    elif place == "kit":
        kit = {f"ILSVRC2012_devkit_t12/data/{name}": data for name, data in files.items()}
        write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", kit, "w:gz")
    else:
        write(folder / "ILSVRC2012_devkit_t12" / "data", files)
    prepare.prepare("imagenet2012", str(folder), str(tmp_path / "out"))
    expected = dict(zip(images[12:], (SYNSETS[0], SYNSETS[1], SYNSETS[1]), strict=True))
    assert examples("imagenet2012", "validation", tmp_path / "out") == expected


@pytest.mark.parametrize(("split", "other"), [("train", "val"), ("validation", "train")])
def test_one_split_of_imagenet_will_do(split, other, tmp_path, counts):
    counts("imagenet2012", train=12, validation=3)
    imagenet(tmp_path / "in")
    (tmp_path / "in" / f"ILSVRC2012_img_{other}.tar").unlink()
    prepare.prepare("imagenet2012", str(tmp_path / "in"), str(tmp_path / "out"))
    assert list(sources.open_builder("imagenet2012", str(tmp_path / "out")).info.splits) == [split]


def test_refused_imagenet_archives(tmp_path, counts):
    counts("imagenet2012", train=12, validation=3)

    def refused(change, match):
        folder = tmp_path / "in"
        imagenet(folder)
        change(folder)
        with pytest.raises(InputError, match=match):
            prepare.prepare("imagenet2012", str(folder), str(tmp_path / "out"))
        assert nothing_left(tmp_path / "out")

    train, val = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
    labels = "ILSVRC2012_validation_ground_truth.txt"
    inner = write_tar(tmp_path / "inner", {"n01440764_1.JPEG": b"no image"}).read_bytes()
    cut = write_tar(tmp_path / "inner", {"n01440764_1.JPEG": bytes(9000)}).read_bytes()[:4000]
    outside = write_tar(tmp_path / "inner", {"../x.JPEG": b"x"}).read_bytes()
    refused(lambda f: (f / train).write_bytes((f / train).read_bytes()[:20000]), "train.tar.* is damaged or cut off")
    refused(lambda f: write_tar(f / train, {"readme": b"x"}), "holds 'readme'; valid: one archive a class")
    refused(lambda f: write_tar(f / train, {"n99999999.tar": inner}), "holds 'n99999999.tar'")
    refused(lambda f: write_tar(f / train, {"n01440764.tar": inner}), "has 1 images in train; imagenet2012 has 12")
    refused(lambda f: write_tar(f / train, {"n01440764.tar": cut}), "n01440764.tar is damaged or cut off")
    refused(lambda f: write_tar(f / train, {"n01440764.tar": outside}), "'../x.JPEG' leaves the folder")
    refused(lambda f: write_tar(f / val, {"a.JPEG": b"x"}), "holds 1 images, but there are labels for 3")
    refused(lambda f: (f / labels).unlink(), "holds 3 images, but there are labels for 50,000")
    refused(lambda f: (f / labels).write_text("n01440764 n01440764 cat"), "validation image 3, 'cat', is not one")
    refused(lambda f: (f / labels).write_text("1\n2\n1\n"), "holds numbers, which only meta.mat beside it explains")
    counts("imagenet2012", train=1, validation=3)
    refused(
        lambda f: write_tar(f / train, {"n01440764.tar": inner}),
        r"train\.tar: n01440764_1\.JPEG \(example 0 of train\): the image is not an image",
    )


# Folders of images


def pets(folder, split=""):
    for name in ("cat", "dog"):
        for i in range(10):
            kind = ("PNG", "JPEG")[i % 2]
            data = encoded(random(8 + i, 9, 3, seed=i + 100 * (name == "cat")), kind)
            write(folder, {f"{split}{name}/{i}.{kind.lower()}": data})
    return folder


@pytest.mark.parametrize("packed", [None, "w", "w:gz", "w:xz"])
def test_a_folder_of_images_under_a_new_name(packed, tmp_path):
    folder = pets(tmp_path / "pets")
    path = folder
    if packed:
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


@pytest.mark.parametrize("packed", [False, True])
def test_splits_of_a_folder_take_the_names_of_the_dataset(packed, tmp_path, counts):
    counts("imagenet2012", train=6, validation=3)
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


def test_refused_folders(tmp_path, counts):
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
    refused("pets", write_tar(tmp_path / "a.tar", {"p/x/a.png": b""}), "has all images in p/x;")
    refused("pets", write_tar(tmp_path / "a.tar", {"train/x/a.png": b"", "test/x/b.png": b""}), "has one class only")
    image = encoded(random(8, 8, 3))
    files = {"train/a/1.png": image, "train/b/1.png": image, "test/c/1.png": image}
    refused("pets", write_tar(tmp_path / "a.tar", files), "has the class 'c' in test, which train lacks")
    (folder / "cat" / "2.png").write_bytes((folder / "cat" / "2.png").read_bytes()[:60])
    refused("pets", folder, r"cat/2\.png \(example \d+ of (train|test)\): the image cannot be read")
    for number in range(10):
        write(tmp_path / "ten", {f"train/{number}/1.png": image, f"test/{number}/1.png": image})
    refused("cifar10", tmp_path / "ten" / "train", "ten/train has no split 'test'; cifar10 has train, test")
    counts("cifar10", train=10, test=10)
    refused("cifar10", tmp_path / "ten", "it has 8x8 pixels; valid for this dataset: 32x32")


# Interruption


PREPARE = """
import sys, os
from vit_jax.data import prepare, shards
prepare.SHARD_BYTES = 2000
write = shards._write_file
def counted(file, *arguments):
    if "{stop}" in file.name:
        {how}
    write(file, *arguments)
shards._write_file = counted
prepare.prepare("pets", sys.argv[1], sys.argv[2])
"""


def run_prepare(source, out, stop="nothing", how=""):
    code = PREPARE.format(stop=stop, how=how or "pass")
    return subprocess.run([sys.executable, "-c", code, str(source), str(out)], capture_output=True, text=True)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "raise KeyboardInterrupt"])
def test_an_interrupted_preparation_continues(how, tmp_path):
    folder = pets(tmp_path / "pets")
    whole, again = tmp_path / "whole" / "pets" / "1.0.0", tmp_path / "again" / "pets" / "1.0.0"
    assert run_prepare(folder, tmp_path / "whole").returncode == 0
    names = sorted(name for name in contents(whole) if "train" in name)
    assert len(names) > 3
    stopped = run_prepare(folder, tmp_path / "again", stop=names[2], how=how)
    assert stopped.returncode in (-signal.SIGKILL, -signal.SIGINT, 1)
    incomplete = again.with_name("1.0.0.incomplete")
    assert not again.exists() and (incomplete / names[1]).exists() and not (incomplete / names[2]).exists()
    with pytest.raises(InputError, match="unknown dataset 'pets'"):
        sources.open_source("pets", "train", str(tmp_path / "again"))
    # What is finished is not written again.
    before = (incomplete / names[1]).stat().st_mtime_ns
    assert run_prepare(folder, tmp_path / "again", stop=names[0], how="sys.exit(7)").returncode == 0
    assert (again / names[1]).stat().st_mtime_ns == before
    assert contents(again) == contents(whole)
    assert not incomplete.exists()


def test_other_input_starts_anew(tmp_path):
    folder = pets(tmp_path / "pets")
    out = tmp_path / "out"
    run_prepare(folder, out, stop="train.array_record-00002", how="sys.exit(7)")
    (folder / "cat" / "0.png").write_bytes(encoded(random(5, 5, 3, seed=9)))
    assert run_prepare(folder, out).returncode == 0
    found = examples("pets", "train", out) | examples("pets", "test", out)
    assert found == {file.read_bytes(): file.parent.name for file in folder.rglob("*.*g")}


def test_a_second_process_is_kept_out(tmp_path):
    target = tmp_path / "pets" / "1.0.0"
    code = "import sys; from vit_jax.data.prepare import prepare; prepare.prepare('pets', *sys.argv[1:])"
    with shards.new_folder(target) as incomplete:
        (incomplete / "kept").touch()
        command = [sys.executable, "-c", code, str(pets(tmp_path / "in")), str(tmp_path)]
        other = subprocess.run(command, capture_output=True, text=True)
        assert "another process is writing" in other.stderr and (incomplete / "kept").exists()
    with pytest.raises(InputError, match="is there already"):
        prepare.prepare("pets", str(tmp_path / "in"), str(tmp_path))


# TFRecord


def crc32c(data):
    """Bit by bit, most significant first on reflected input: another way than the library's."""
    remainder = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            feedback = (remainder ^ (byte >> bit)) & 1
            remainder = remainder >> 1 ^ 0x82F63B78 * feedback
    return remainder ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def to_tfrecord(folder, data_dir):
    """Rewrites a prepared dataset in TFRecord, as TFDS would have."""
    builder = tfds.builder_from_directory(folder)
    for split in builder.info.splits.values():
        raw = builder.as_data_source(split.name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        records = iter(raw)
        for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
            with open(str(file).replace("array_record", "tfrecord"), "wb") as stream:
                for _ in range(length):
                    data = next(records)
                    head = struct.pack("<Q", len(data))
                    stream.write(head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data)))
            os.unlink(file)
    text = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(text.replace("array_record", "tfrecord"))
    return folder


def test_crc32c_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value


def test_tfrecord_is_converted_by_the_command_that_the_message_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_BYTES", 2000)
    out = tmp_path / "out"
    folder = prepare.prepare("pets", str(pets(tmp_path / "pets")), str(out))
    expected = {split: list(examples("pets", split, out).items()) for split in ("train", "test")}
    to_tfrecord(folder, out)
    with pytest.raises(InputError, match="is in tfrecord, which has no random access") as error:
        sources.open_source("pets", "train", str(out))
    old = folder.with_name("1.0.0.old")
    assert f"'mv {folder} {old} && vit-jax data prepare pets --from {old} --data-dir {out}'" in str(error.value)
    folder.rename(old)
    assert prepare.prepare("pets", str(old), str(out)) == folder
    for split, pairs in expected.items():
        assert list(examples("pets", split, out).items()) == pairs
    assert len([*folder.glob("pets-train*")]) > 1


def test_refused_tfrecord_files(tmp_path):
    out = tmp_path / "out"
    old = to_tfrecord(prepare.prepare("pets", str(pets(tmp_path / "pets")), str(out)), out)
    old = old.rename(old.with_name("old"))
    file = old / "pets-train.tfrecord-00000-of-00001"
    whole = file.read_bytes()

    def refused(match, data=whole, name="pets"):
        file.write_bytes(data)
        with pytest.raises(InputError, match=match):
            prepare.prepare(name, str(old), str(out))
        assert [path.name for path in (out / "pets").iterdir()] == ["old"]

    refused("is the dataset pets/1.0.0, not dogs", name="dogs")
    refused(r"record 15 of .*pets-train.tfrecord-00000-of-00001 is cut off", whole[:-100])
    refused("record 0 of .* is damaged: its length", b"\x01" + whole[1:])
    length = struct.unpack("<Q", whole[:8])[0]
    refused("has 15 records; by dataset_info.json 16", whole[16 + length :])
    refused("record 0 of .* cannot be read", whole[:12] + bytes(length) + whole[12 + length :])
    file.unlink()
    with pytest.raises(InputError, match=r"lacks .*pets-train\.tfrecord-00000-of-00001"):
        prepare.prepare("pets", str(old), str(out))
