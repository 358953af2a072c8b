"""vit-jax: predict and evaluate on a trained work directory, help, and bad input."""

import json
import shutil
import subprocess
import sys

import pytest

import vit_jax
from vit_jax.cli.main import COMMANDS, main


def status(*arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code


def test_predict_names_what_it_sees(trained, digit_files, capsys):
    paths = [path for path, _ in digit_files]
    assert status("predict", "--model", trained, *paths, "--top-k", 3, "--batch-size", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(path) for path in paths]
    assert all(line.count("%") == 3 for line in lines)


def test_predict_preprocesses_once(trained, tmp_path, digit_files, capsys):
    """With a crop, twice would cut twice."""
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    file = tmp_path / "checkpoints" / "12" / "info" / "metadata"
    info = json.loads(file.read_text())
    info["preprocessing"] |= {"resize": "shortest_edge", "crop_fraction": 0.6}
    file.write_text(json.dumps(info))
    path = digit_files[0][0]
    assert status("predict", "--model", tmp_path, path, "--json", "--top-k", 1) == 0
    answer = json.loads(capsys.readouterr().out)["predictions"][0]
    assert answer == vars(vit_jax.load(tmp_path).predict(path, top_k=1)[0][0])


def test_predict_with_a_checkpoint_of_another_library(golden, capsys):
    assert status("predict", "--model", golden / "hf_vit", golden / "image.png", "--top-k", 1) == 0
    assert capsys.readouterr().out.startswith(f"{golden / 'image.png'}: goldfish ")


def test_evaluate_needs_a_work_directory(golden, capsys):
    assert status("evaluate", "--model", golden / "hf_vit") == 2
    assert "hf_vit holds no checkpoints of a run; valid: a work directory of train.py" in capsys.readouterr().err
    assert status("evaluate", "--model", "google/vit-base-patch16-224") == 2  # not asked of the hub
    assert "google/vit-base-patch16-224 does not exist; valid: a work directory" in capsys.readouterr().err


def test_predict_as_json(trained, digit_files, capsys):
    assert status("predict", "--model", trained, digit_files[0][0], "--json", "--top-k", 2) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["image"] == str(digit_files[0][0])
    assert [sorted(p) for p in answer["predictions"]] == [["class_name", "label", "probability"]] * 2


def test_predict_answers_the_others_when_a_file_is_bad(trained, digit_files, tmp_path, capsys):
    cut = tmp_path / "cut.png"
    cut.write_bytes(digit_files[0][0].read_bytes()[:60])
    text = tmp_path / "text.png"
    text.write_text("hello")
    good = digit_files[1][0]
    assert status("predict", "--model", trained, cut, text, good, tmp_path / "none.png") == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"{good}:") and len(out.splitlines()) == 1
    for line, name in zip(err.splitlines(), ("cut.png", "text.png", "none.png"), strict=True):
        assert name in line


def test_evaluate_agrees_with_the_run_whatever_the_batch(trained, capsys):
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    for batch_size in (7, 360):
        assert status("evaluate", "--model", trained, "--json", "--batch-size", batch_size) == 0
        figures = json.loads(capsys.readouterr().out)
        assert (figures["step"], figures["test/examples"]) == (12, 360)
        assert figures["test/accuracy"] == last["test/accuracy"]
        assert figures["test/loss"] == pytest.approx(last["test/loss"], rel=1e-6)


def test_evaluate_another_split_as_a_table(trained, capsys):
    assert status("evaluate", "--model", trained, "--split", "train[:100]", "--step", 6) == 0
    table = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert table["step"] == "6" and table["train[:100]/examples"] == "100"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--model", "/nowhere", "x.png"], "/nowhere does not exist; / holds .*; valid: a work directory"),
        (["predict", "--model", "TRAINED", "x.png", "--top-k", "0"], "--top-k"),
        (["evaluate", "--model", "TRAINED", "--step", "7"], "no checkpoint of step '?7"),
        (["evaluate", "--model", "TRAINED", "--split", "tst"], "no split 'tst'"),
        (["evaluate", "--model", "TRAINED", "--batch-size", "0"], "--batch-size is 0"),
        (["evaluate", "--model", "TRAINED", "--split", ""], "no split ''"),
        (["evaluate", "--model", "TRAINED", "--metrics", "confusion", "--out", __file__], "exists already and is no f"),
        (["evaluate", "--model", ""], "'' does not exist; valid: a work directory of train.py"),
        (["predict", "--model", "", "x.png"], "the name of the model is empty; valid: a work directory"),
        (["convert", "TRAINED", "", "--to", "timm"], "the name of the destination is empty; valid: a folder"),
        (["plan", "--config", "/nowhere/configs/x.py"], "x.py does not exist; valid: a Python file, cifar10"),
        (["predict", "--model", "TRAINED"], "IMAGE"),
        (["evaluate", "--model", "TRAINED", "--data", "digits"], "unrecognized arguments: --data digits"),
        (["trian"], "'trian'"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_status_2(trained, capsys, arguments, message):
    import re

    assert status(*[str(trained) if a == "TRAINED" else a for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and re.search(message, err), err


def test_evaluate_without_a_config_names_the_file(trained, tmp_path, capsys):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    assert status("evaluate", "--model", tmp_path) == 2
    assert f"{tmp_path}/config.json does not exist, which names the dataset" in capsys.readouterr().err
    for text, message in (("{", "is not valid JSON"), ("[]", "lacks 'data'"), ('{"data": {}}', "lacks 'evaluation'")):
        (tmp_path / "config.json").write_text(text)
        assert status("evaluate", "--model", tmp_path) == 2
        assert f"{tmp_path}/config.json {message}" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples(name, capsys):
    assert status(name, "--help") == 0
    assert f"  vit-jax {name} " in capsys.readouterr().out


def test_help_is_quick_because_it_imports_no_jax():
    code = "import sys; from vit_jax.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('jax' in sys.modules, 'vit_jax.build.experiment' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False False"
    module = subprocess.run([sys.executable, "-m", "vit_jax", "--version"], capture_output=True, text=True)
    assert module.stdout.startswith("vit-jax ")
