"""vit-jax evaluate of any model on any labelled images: all of them, once, with the classes matched by their names."""

import json
import pathlib

import numpy as np
import pytest
from conftest import Changed, write_classifier
from PIL import Image

import vit_jax
from vit_jax.cli.main import main

RNG = np.random.default_rng(0)


def status(*arguments):
    try:
        return main(["evaluate", *map(str, arguments)])
    except SystemExit as end:
        return end.code


def figures(capsys, *arguments):
    assert status(*arguments, "--json") == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def add_images(folder: pathlib.Path, counts: dict[str, int], size=(10, 9)) -> pathlib.Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def accuracy(model, folder: pathlib.Path, names: dict[str, str]) -> float:
    """Share of the images whose first prediction is the class that their folder's name stands for."""
    predictor = vit_jax.load(model)
    hits = [
        predictor.predict(file, top_k=1)[0][0].class_name == names.get(file.parent.name, file.parent.name)
        for file in sorted(folder.rglob("*.png"))
    ]
    return sum(hits) / len(hits)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A classifier of four classes without a config, and 17 images of three of them."""
    root = tmp_path_factory.mktemp("pets")
    names = ["dog", "cat", "caf\u00e9", "bird"]
    model = write_classifier(root / "model", names, channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    return model, add_images(root / "photos", {"bird": 5, "cafe\u0301": 4, "cat": 8})


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_image_of_a_folder_is_scored_once_whatever_the_batch(pets, capsys, batch_size):
    model, photos = pets
    found, err = figures(capsys, "--model", model, "--data-dir", photos, "--batch-size", batch_size)
    assert found["all/examples"] == 17 and err == ""
    assert found["all/accuracy"] == pytest.approx(accuracy(model, photos, {"cafe\u0301": "caf\u00e9"}))
    assert found["all/absent_classes"] == ["dog"]


def test_a_split_alone_or_beside_another(pets, tmp_path, capsys):
    model, _ = pets
    add_images(tmp_path / "test", {"cat": 2, "dog": 1})
    found, _ = figures(capsys, "--model", model, "--data-dir", tmp_path)
    assert found["test/examples"] == 3 and found["test/absent_classes"] == ["café", "bird"]
    add_images(tmp_path / "train", {"cat": 2, "dog": 2})
    assert figures(capsys, "--model", model, "--data-dir", tmp_path)[0]["test/examples"] == 3
    assert figures(capsys, "--model", model, "--data-dir", tmp_path, "--split", "all")[0]["all/examples"] == 7
    text = status("--model", model, "--data-dir", tmp_path / "train")
    assert text == 0 and "all/absent_classes  café, bird\n" in capsys.readouterr().out


def test_a_folder_with_other_classes_is_refused_in_one_line(pets, tmp_path, capsys):
    model, _ = pets
    add_images(tmp_path, {"cat": 1, "lynx": 1, "puma": 1})
    assert status("--model", model, "--data-dir", tmp_path) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "which lacks 'lynx', 'puma'; valid: dog, cat, café, bird" in err


@pytest.mark.parametrize("name", ["hf_vit", "hf_swin", "timm_vit_gap", "google"])
def test_models_of_other_libraries(golden, tmp_path, capsys, name):
    """Whatever `predict` takes: a folder of transformers or timm, a safetensors file, an .npz."""
    source = golden / name
    if name == "google":
        source = tmp_path / "model.npz"
        assert main(["convert", str(golden / "timm_vit"), str(source), "--to", "google", "--allow", "gelu"]) == 0
        capsys.readouterr()
    predictor = vit_jax.load(source)
    names = predictor.class_names[2:4]
    photos = add_images(tmp_path / "photos", dict.fromkeys(names, 3), size=(50, 60))
    found, _ = figures(capsys, "--model", source, "--data-dir", photos)
    assert found["all/examples"] == 6 and "step" not in found
    assert found["all/accuracy"] == pytest.approx(accuracy(source, photos, {}))
    assert len(found["all/absent_classes"]) == len(predictor.class_names) - 2
    if name == "hf_vit":
        assert figures(capsys, "--model", source / "model.safetensors", "--data-dir", photos)[0]["all/examples"] == 6


def test_classes_without_names_are_matched_by_number_if_asked(golden, tmp_path, capsys):
    photos = add_images(tmp_path, dict.fromkeys("gfedcba", 1), size=(50, 60))
    model = golden / "timm_vit"
    assert vit_jax.load(model).class_names == tuple("0123456")
    assert status("--model", model, "--data-dir", photos) == 2
    err = capsys.readouterr().err
    assert "lacks 'a', 'b', 'c', 'd', 'e' and 2 more" in err.replace(", and", " and")
    assert "the model's classes have no names but these numbers, which evaluate --classes-by-number takes" in err
    found, err = figures(capsys, "--model", model, "--data-dir", photos, "--classes-by-number")
    assert err == "vit-jax evaluate: the classes are matched by their numbers, not by their names\n"
    assert found["all/accuracy"] == pytest.approx(accuracy(model, photos, dict(zip("abcdefg", "0123456", strict=True))))
    (photos / "a" / "0.png").unlink()
    (photos / "a").rmdir()
    assert status("--model", model, "--data-dir", photos, "--classes-by-number") == 2
    assert "has 6 classes, and the model 7; valid by number: as many" in capsys.readouterr().err


def test_imagenets_classes_by_their_wordnet_numbers_and_any_of_their_names(tmp_path, capsys):
    copy = Changed("hf_vit", tmp_path / "model")
    names = ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark, white shark", "crane", "hen"]
    names += ["tabby, tabby cat", "cassette"]
    copy.config["id2label"] = {str(i): name for i, name in enumerate(names)}
    model = copy.save()
    stands_for = {"n01440764": names[0], "Carassius auratus": names[1], "White_Shark": names[2], "n02123045": names[5]}
    photos = add_images(tmp_path / "photos", dict.fromkeys(stands_for, 2), size=(50, 60))
    found, _ = figures(capsys, "--model", model, "--data-dir", photos)
    assert found["all/accuracy"] == pytest.approx(accuracy(model, photos, stands_for))
    assert found["all/absent_classes"] == ["crane", "hen", "cassette"]


def test_labels_from_a_file(pets, tmp_path, capsys):
    model, _ = pets
    photos = add_images(tmp_path / "photos", {"any": 3})
    (photos / "labels.csv").write_text("file,label\nany/0.png,cat\nany/1.png,bird\nany/2.png,cat\n")
    found, _ = figures(capsys, "--model", model, "--data-dir", photos, "--labels", "labels.csv")
    assert found["all/examples"] == 3 and found["all/absent_classes"] == ["dog", "café"]


def test_a_tfds_dataset(trained, tmp_path, capsys):
    own, _ = figures(capsys, "--model", trained, "--split", "test[:50]")
    model = tmp_path / "model"
    model.mkdir()
    (model / "checkpoints").symlink_to(trained / "checkpoints")
    found, _ = figures(capsys, "--model", model, "--dataset", "digits", "--split", "test[:50]")
    assert found["test[:50]/examples"] == 50
    assert found["test[:50]/loss"] == pytest.approx(own["test[:50]/loss"], rel=1e-5)
    assert figures(capsys, "--model", model, "--dataset", "digits")[0]["test/examples"] == 360


def test_a_model_without_labels(golden, tmp_path, capsys):
    photos = add_images(tmp_path, {"any": 2, "other/deep": 1}, size=(50, 60))
    found, _ = figures(capsys, "--model", golden / "hf_vit_mae", "--data-dir", photos)
    assert found.keys() == {"model", "all/loss", "all/examples"} and found["all/examples"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "MODEL"], "config.json does not exist, which names the dataset"),
        (["--model", "HF"], "hf_vit holds no checkpoints of a run; valid: a work directory of train.py, whose config"),
        (["--model", "HF", "--data-dir", "nowhere"], "data.folder: nowhere does not exist"),
        (["--model", "HF", "--data-dir", "PHOTOS", "--step", "best"], "step is 'best', but"),
        (["--model", "HF", "--dataset", "digts"], "unknown dataset 'digts'; nearest: digits"),
        (["--model", "MODEL", "--data-dir", "PHOTOS", "--split", "val"], "has no split 'val'; valid: train, test"),
        (
            ["--model", "MODEL", "--data-dir", "PHOTOS", "--metrics", "knn"],
            "a metric of knn would learn from a part of",
        ),
        (["--model", "MODEL", "--data-dir", "EMPTY"], "holds no images"),
    ],
)
def test_bad_arguments_are_one_line(pets, golden, tmp_path, capsys, arguments, message):
    places = {"MODEL": pets[0], "PHOTOS": pets[1], "HF": golden / "hf_vit", "EMPTY": tmp_path}
    assert status(*[places.get(each, each) for each in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
