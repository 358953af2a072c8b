"""ImageNet from its tar archives, and what is refused."""

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from archive_files import SYNSETS, encoded, examples, nothing_left, random, set_counts, write, write_tar

from vit_jax.data.prepare import prepare
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError


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


def test_imagenet(tmp_path, monkeypatch):
    set_counts(monkeypatch, "imagenet2012", train=12, validation=3)
    images = imagenet(tmp_path / "in")
    out = tmp_path / "out"
    assert prepare.prepare("imagenet2012", str(tmp_path / "in"), str(out)) == out / "imagenet2012" / "5.1.0"
    train = examples("imagenet2012", "train", out)
    assert train == {image: SYNSETS[i // 4] for i, image in enumerate(images[:12])}  # byte for byte
    assert examples("imagenet2012", "validation", out) == dict(zip(images[12:], SYNSETS[::-1], strict=True))
    assert len(sources.open_source("imagenet2012", "train", str(out)).fields["label"].names) == 1000
    raw = tfds.builder("imagenet2012", data_dir=out).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert sorted(x["file_name"].decode() for x in raw) == sorted(f"{SYNSETS[j // 4]}_{j}.JPEG" for j in range(12))


@pytest.mark.parametrize("place", ["beside", "kit", "kit unpacked"])
def test_imagenet_labels_as_numbers(place, tmp_path, monkeypatch):
    set_counts(monkeypatch, "imagenet2012", train=12, validation=3)
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
def test_one_split_of_imagenet_will_do(split, other, tmp_path, monkeypatch):
    set_counts(monkeypatch, "imagenet2012", train=12, validation=3)
    imagenet(tmp_path / "in")
    (tmp_path / "in" / f"ILSVRC2012_img_{other}.tar").unlink()
    prepare.prepare("imagenet2012", str(tmp_path / "in"), str(tmp_path / "out"))
    assert list(sources.open_builder("imagenet2012", str(tmp_path / "out")).info.splits) == [split]


def test_refused_imagenet_archives(tmp_path, monkeypatch):
    set_counts(monkeypatch, "imagenet2012", train=12, validation=3)

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
    set_counts(monkeypatch, "imagenet2012", train=1, validation=3)
    refused(
        lambda f: write_tar(f / train, {"n01440764.tar": inner}),
        r"train\.tar: n01440764_1\.JPEG \(example 0 of train\): the image is not an image",
    )
