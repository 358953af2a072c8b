"""CIFAR-10 and CIFAR-100 from their archives, and what is refused."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from archive_files import images_and_labels, nothing_left, random, same, set_counts, write_tar

from vit_jax.data.prepare import prepare
from vit_jax.errors import InputError


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
def test_cifar10(kind, layout, tmp_path, monkeypatch):
    set_counts(monkeypatch, "cifar10", train=10, test=2)
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
def test_cifar100_has_both_labels(kind, tmp_path, monkeypatch):
    set_counts(monkeypatch, "cifar100", train=3, test=2)
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


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
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
