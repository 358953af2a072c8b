"""MNIST and Fashion-MNIST from their idx files, and what is refused."""

import gzip
import struct

import numpy as np
import pytest
from archive_files import images_and_labels, nothing_left, random, same, set_counts, write

from vit_jax.data.prepare import prepare
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError


def idx(array):
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist():
    images, labels = random(9, 28, 28), np.array([3, 1, 4, 1, 5, 9, 2, 6, 5], np.uint8)
    files = {"train-images-idx3-ubyte": idx(images[:6]), "train-labels-idx1-ubyte": idx(labels[:6])}
    files |= {"t10k-images-idx3-ubyte": idx(images[6:]), "t10k-labels-idx1-ubyte": idx(labels[6:])}
    return images, labels, files


@pytest.mark.parametrize("spelling", ["{}", "{}.gz", "MNIST/raw/{}", "{}:."])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(name, spelling, tmp_path, monkeypatch):
    set_counts(monkeypatch, name, train=6, test=3)
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
    names = sources.open_source(name, "train", str(tmp_path / "out")).fields["label"].names
    assert (names[0], len(names)) == ({"mnist": "0", "fashion_mnist": "T-shirt/top"}[name], 10)


def test_refused_idx_files(tmp_path, monkeypatch):
    set_counts(monkeypatch, "mnist", train=6, test=3)
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
