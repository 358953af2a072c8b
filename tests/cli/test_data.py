"""vit-jax data: prepare, info and show, and a whole run where TensorFlow cannot be imported."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from vit_jax.cli.main import main
from vit_jax.figures import examples
from vit_jax.figures.contact_sheet import contact_sheet
from vit_jax.types import class_fields


def status(*arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> pathlib.Path:
    """A folder of images: bright and dark ones, 20 of each."""
    folder = tmp_path_factory.mktemp("shapes")
    for name, level in (("bright", 200), ("dark", 50)):
        (folder / name).mkdir()
        for i in range(20):
            Image.new("RGB", (12, 8), (level + i, level, level)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def prepared(shapes, tmp_path_factory) -> pathlib.Path:
    """TFDS's folder, with the images above as `shapes`."""
    data_dir = tmp_path_factory.mktemp("tfds")
    assert status("data", "prepare", "shapes", "--from", shapes, "--data-dir", data_dir) == 0
    return data_dir


def test_prepare_says_where_and_what(shapes, tmp_path, capsys):
    arguments = ("data", "prepare", "two", "--from", shapes, "--data-dir", tmp_path, "--eval-fraction", 0.25)
    assert status(*arguments) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path}/two/1.0.0: train 30, test 10 examples; use it with --config.data.name=two\n"
    )


def test_info(prepared, capsys):
    assert status("data", "info", "shapes", "--data-dir", prepared) == 0
    out = capsys.readouterr().out
    for pattern in (
        r"^name +shapes/1\.0\.0$",
        rf"^folder +{prepared}/shapes/1\.0\.0$",
        r"^format +array_record$",
        r"^size +0\.\d MiB$",
        r"^splits +train +32$",
        r"^ +test +8$",
        r"^fields +image +image \[any, any, 3\] uint8$",
        r"^ +label +label \[\] int32, 2 classes: bright, dark$",
    ):
        assert re.search(pattern, out, re.MULTILINE), (pattern, out)


def test_info_as_json(prepared, capsys):
    assert status("data", "info", "shapes", "--data-dir", prepared, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["splits"] == {"test": 8, "train": 32} and answer["fields"]["label"]["names"] == ["bright", "dark"]
    assert answer["fields"]["image"]["shape"] == [None, None, 3]
    assert answer["bytes"] == sum(file.stat().st_size for file in (prepared / "shapes" / "1.0.0").iterdir())


def test_info_of_a_folder(shapes, tmp_path, capsys):
    assert status("data", "info", shapes, "--check", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["splits"] == {"train": 32, "test": 8} and answer["fields"]["label"]["names"] == ["bright", "dark"]
    shutil.copytree(shapes, tmp_path / "shapes")
    images = sorted(path.relative_to(tmp_path / "shapes") for path in (tmp_path / "shapes").rglob("*.*"))
    rows = [f"{image},{i % 2},{(i + 1) % 2}\n" for i, image in enumerate(images)]
    (tmp_path / "shapes" / "labels.csv").write_text("".join(["where,odd,even\n", *rows]))
    columns = ("--label-columns", "even,odd", "--image-column", "where")
    assert status("data", "info", tmp_path / "shapes", "--labels", "labels.csv", *columns) == 0
    assert re.search(r"label +labels \[2\] float32, 2 classes: even, odd$", capsys.readouterr().out, re.MULTILINE)
    images = [tmp_path / "shapes" / image for image in images]
    images[0].write_bytes(b"x")
    assert status("data", "info", tmp_path / "shapes", "--labels", "labels.csv", "--check") == 2
    assert f"unreadable: 1 of 40 images of {tmp_path}/shapes all: {images[0]}" in capsys.readouterr().err


def test_show(prepared, tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert status("data", "show", "shapes", "--data-dir", prepared, "--out", out, "--count", 9) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 9 images of shapes train, cropped at random;")
    again = tmp_path / "again.png"
    assert status("data", "show", "shapes", "--data-dir", prepared, "--out", again, "--count", 9, "--seed", 1) == 0
    assert Image.open(out).size == Image.open(again).size and out.read_bytes() != again.read_bytes()


@pytest.mark.parametrize("augment", ["crop", "none", "three_augment"])
def test_show_augmented(augment, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "vit_jax.figures.contact_sheet.contact_sheet", lambda *a, **k: seen.append(a) or contact_sheet(*a, **k)
    )
    for name in (augment, "none"):
        data = ("digits", "--out", tmp_path / "a.png", "--augment", name)
        assert status("data", "show", *data) == 0
    (images, names), (plain, plain_names) = seen
    assert names == plain_names and len(images) == 32
    changed = [not np.array_equal(*pair) for pair in zip(images, plain, strict=True)]
    assert any(changed) == (augment != "none")


def test_show_as_a_config_trains(tmp_path, monkeypatch):
    """Undoing the normalisation gives back the very pixels, moved by the augmentation."""
    seen = []
    monkeypatch.setattr(
        "vit_jax.figures.contact_sheet.contact_sheet", lambda *a, **k: seen.append(a) or contact_sheet(*a, **k)
    )
    config = ROOT / "configs" / "digits.py"
    assert status("data", "show", "digits", "--out", tmp_path / "a.png", "--config", config, "--count", 5) == 0
    whole = ("--count", 5, "--augment", "none")
    assert status("data", "show", "digits", "--out", tmp_path / "b.png", *whole) == 0
    (augmented, names), (plain, plain_names) = seen
    assert [image.shape for image in augmented] == [(8, 8, 3)] * 5 and names == plain_names
    moved = 0
    for image, original in zip(augmented, plain, strict=True):
        padded = np.pad(original[:, :, :1], ((1, 1), (1, 1), (0, 0)))
        places = [(y, x) for y in range(3) for x in range(3) if (padded[y : y + 8, x : x + 8] == image[:, :, :1]).all()]
        assert places
        moved += (1, 1) not in places
    assert moved


@pytest.mark.parametrize(
    ("label", "caption"),
    [
        (1, "b"),
        ([0, 1, 0, 0], "b"),
        ([1, 1, 0, 1], "a, b, d"),
        ([0, 0.3, 0, 0.7], "d 0.70 b 0.30"),
        ([0, 0, 0, 0], ""),
    ],
)
def test_captions(label, caption):
    several = np.ndim(label) > 0
    assert examples.caption({"label": np.array(label)}, class_fields(list("abcd"), several=several)) == caption


def test_show_moves_boxes_as_training_does(tmp_path):
    config = tmp_path / "boxes.py"
    config.write_text(
        "from configs import digit_scenes_segmentation\n\n\ndef get_config():\n"
        "    config = digit_scenes_segmentation.get_config().unlock()\n"
        "    config.data.fields = ('image', 'mask', 'boxes')\n    config.data.augment.flip = {}\n"
        "    return config.lock()\n"
    )
    out = tmp_path / "boxes.png"
    assert status("data", "show", "digit_scenes", "--out", out, "--config", config, "--count", 4) == 0
    assert Image.open(out).width > 48


def test_contact_sheet_shows_each_image_in_its_place():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [np.full((4, 4, 3), colour, np.uint8) for colour in colours]
    sheet = np.asarray(contact_sheet(images, ["x", "y", "a caption that is much too long for its place"], columns=2))
    at = {colour: np.argwhere((sheet == colour).all(axis=-1)) for colour in colours}
    assert all(len(pixels) == 128 * 128 for pixels in at.values())
    red, green, blue = (at[colour].min(axis=0) for colour in colours)
    assert red[0] == green[0] < blue[0] and red[1] == blue[1] < green[1]
    long_caption = np.argwhere((sheet[at[colours[2]].max(axis=0)[0] :] < 60).all(axis=-1))
    assert len(long_caption) and blue[1] <= long_caption[:, 1].min() and long_caption[:, 1].max() < blue[1] + 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "cifar10"], "TFDS needs TensorFlow, which is not installed; valid: .*--from PATH"),
        (["prepare", "cifar11"], "TFDS has no dataset 'cifar11'"),
        (["prepare", "cifar10", "--from", "/nowhere"], "/nowhere does not exist"),
        (["prepare", "x", "--from", "SHAPES", "--eval-fraction", "1"], "eval_fraction is 1.0"),
        (["prepare", "shapes", "--from", "SHAPES"], "shapes/1.0.0 is there already; to prepare it again, remove it"),
        (["info", "mnist"], "'vit-jax data prepare mnist --data-dir .*' puts it there"),
        (["info", "nonsense"], "unknown dataset 'nonsense'"),
        (["show", "shapes"], "--out"),
        (["show", "shapes", "--out", "a.jpg"], "--out is a.jpg; valid: a name that ends in .png"),
        (["show", "shapes", "--out", "/nowhere/a.png"], "in a folder that is there"),
        (["show", "shapes", "--out", "OUT", "--split", "val"], "no split 'val'; valid: train, test"),
        (["show", "shapes", "--out", "OUT", "--augment", "x"], "--augment is 'x'; valid: crop, none, .*randaugment"),
        (["show", "shapes", "--out", "OUT", "--augment", "none", "--config", "a.py"], "--config or --augment"),
        (["show", "shapes", "--out", "OUT", "--count", "0"], "--count must be 1 or more"),
        (["show", "shapes", "--out", "OUT", "--config", "no.py"], "config no.py does not exist"),
        (["draw"], "draw"),
        ([], "ACTION"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, prepared, shapes, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    words = {"SHAPES": shapes, "OUT": tmp_path / "grid.png"}
    before = sorted(prepared.rglob("*"))
    assert status("data", *[words.get(argument, argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and re.search(message, err), err
    assert sorted(prepared.rglob("*")) == before and not list(tmp_path.iterdir())


WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in ("tensorflow", "torch") else super().find_spec(name, path, target)
sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
sys.path.insert(0, sys.argv[1])
import runpy
sys.argv = sys.argv[2:]
if sys.argv[0] == "train.py":
    sys.argv[0] = sys.path[0] + "/train.py"
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module("vit_jax", run_name="__main__")
"""


def test_from_prepare_to_evaluate_without_tensorflow(shapes, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(ROOT), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    data_dir, workdir = tmp_path / "tfds", tmp_path / "run"
    run("vit-jax", "data", "prepare", "shapes", "--from", shapes, "--data-dir", data_dir)
    run("vit-jax", "data", "info", "shapes", "--data-dir", data_dir)
    run("vit-jax", "data", "show", "shapes", "--data-dir", data_dir, "--out", tmp_path / "grid.png")
    changes = {
        "data.name": "shapes",
        "data.data_dir": data_dir,
        "data.split": "train[:30]",
        "num_steps": 20,
        "batch_size": 16,
        "model.options.hidden_dim": 16,
        "model.options.depth": 1,
        "model.options.mlp_dim": 16,
        "model.options.num_heads": 2,
        "optimizer.warmup_steps": 2,
        "checkpoint.every_steps": 20,
    }
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    run("train.py", f"--config={ROOT}/configs/digits.py", f"--workdir={workdir}", *flags)
    figures = json.loads(run("vit-jax", "evaluate", "--model", workdir, "--json"))
    assert figures["test/examples"] == 8 and figures["test/accuracy"] >= 0.5
