"""What the tests of preparing make archives and folders of, and what they read back."""

import dataclasses
import io
import tarfile

import numpy as np
from PIL import Image

from vit_jax.data.images.decoding import decode
from vit_jax.data.prepare import prepare
from vit_jax.data.sources import tfds as sources

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


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def examples(name, split, data_dir):
    source = sources.open_source(name, split, str(data_dir))
    return {source[i]["image"]: source.fields["label"].names[source[i]["label"]] for i in range(len(source))}


def pets(folder, split=""):
    for name in ("cat", "dog"):
        for i in range(10):
            kind = ("PNG", "JPEG")[i % 2]
            data = encoded(random(8 + i, 9, 3, seed=i + 100 * (name == "cat")), kind)
            write(folder, {f"{split}{name}/{i}.{kind.lower()}": data})
    return folder


def set_counts(monkeypatch, name, **numbers):
    """Says how many examples the archives made here have: `set_counts(monkeypatch, "mnist", train=6, test=3)`."""
    monkeypatch.setitem(prepare.ARCHIVES, name, dataclasses.replace(prepare.ARCHIVES[name], counts=numbers))
