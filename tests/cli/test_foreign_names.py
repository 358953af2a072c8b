"""Names of classes and files that hold control characters or mathematics: printed and drawn, by each command."""

import io
import json
import shutil
import sys

import pytest
from conftest import write_classifier
from PIL import Image
from test_commands import status

FORGED = "$x^2$\x1b[2J\nvit-jax: done\u202e"
SHOWN = r"$x^2$\x1b[2J\nvit-jax: done\u202e"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A work directory of which each class has such a name."""
    return write_classifier(tmp_path_factory.mktemp("forged"), [FORGED, f"{FORGED} 2"])


@pytest.fixture
def image(tmp_path):
    file = tmp_path / f"{FORGED[:10]}.png"
    Image.new("L", (8, 8)).save(file)
    return file


def as_shown(path):
    return str(path).replace(FORGED[:10], r"$x^2$\x1b[2J\n")


def test_predict_prints_one_line_an_image(model, image, capsys):
    missing = image.with_suffix(".gif")
    assert status("predict", "--model", model, image, missing, "--top-k", 1) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"{as_shown(image)}: {SHOWN} ") and out.count("\n") == 1
    assert (
        err.startswith(f"vit-jax predict: {as_shown(missing)}")
        and err.count("\n") == 1
        and err.isascii()
        and "\x1b" not in err
    )
    assert status("predict", "--model", model, image, "--top-k", 1, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["image"], answer["predictions"][0]["class_name"][: len(FORGED)]) == (str(image), FORGED)


def test_attention_draws_the_name(model, image, tmp_path, capsys):
    assert status("attention", "--model", model, image, "--out", tmp_path) == 0
    out, err = capsys.readouterr()
    assert out.startswith(as_shown(image)) and out.count("\n") == 1 and err == ""
    assert len(list(tmp_path.glob("*_attention.png"))) == 1


def test_convert_prints_one_line_a_file(model, tmp_path, capsys):
    assert status("convert", model, tmp_path / "a\n\x1b[2J", "--to", "workdir") == 0
    out = capsys.readouterr().out
    assert out.startswith(rf"{tmp_path}/a\n\x1b[2J: ") and "\x1b" not in out
    assert all(r"bytes  a\n\x1b[2J/" in line for line in out.splitlines()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--model", FORGED, "a.png"),
        ("evaluate", "--model", FORGED),
        ("convert", FORGED, "b", "--to", "timm"),
        ("attention", "--model", FORGED, "a.png", "--out", "b"),
        ("data", "info", FORGED),
        ("data", "show", "digits", "--out", f"{FORGED}.png", "--config", FORGED),
        ("data", "prepare", "pets", "--from", FORGED),
        ("train", f"--config={FORGED}"),
        ("train", f"--config.{FORGED}=1"),
        ("plan", f"--config={FORGED}"),
        ("options", FORGED),
        ("benchmark", "--variant", FORGED, "--batch-size", "8"),
        (FORGED,),
        ("predict", "--model", "a", "b", f"--{FORGED.replace(' ', '')}"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]).partition("$")[0],
)
def test_an_error_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert status(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "x^2" in err and err.removesuffix("\n").isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_output_cannot_write_are_escaped(encoding, tmp_path, monkeypatch):
    model = write_classifier(tmp_path / "model", ["猫é", "猫é 2"])
    image = tmp_path / "猫.png"
    Image.new("L", (8, 8)).save(image)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    assert status("predict", "--model", model, image, "--top-k", 1) == 0
    name = {"ascii": r"\u732b\xe9", "latin-1": r"\u732bé"}[encoding]
    assert written.getvalue().decode(encoding).startswith(rf"{tmp_path}/\u732b.png: {name} ")


def test_the_names_of_a_folders_classes_are_shown_where_its_faults_are(tmp_path, model, capsys):
    """Of a folder as it is trained on."""
    folder = tmp_path / "pets"
    for name in (FORGED, "dog"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / name / "0.png")
    (folder / FORGED / "1.png").write_text("no image")
    assert status("train", "--config=digits", f"--config.data.folder={folder}", f"--workdir={tmp_path / 'run'}") == 2
    err = capsys.readouterr().err
    assert SHOWN in err and err.count("\n") == 1 and err.removesuffix("\n").isprintable()
    shutil.rmtree(folder)
