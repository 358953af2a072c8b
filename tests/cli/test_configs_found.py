"""Which file a config's name stands for, and training from a wheel, without a clone."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import vit_jax
from vit_jax.cli import configs
from vit_jax.cli.main import main

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def test_the_clone_is_home():
    assert configs.home() == ROOT
    assert "digits" in configs.config_names() and "common" not in configs.config_names()


@pytest.mark.parametrize("name", ["digits", "digits.py", "configs/digits.py"])
def test_a_name_stands_for_the_config_of_the_library_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.find_config(name) == ROOT / "configs" / "digits.py"


def test_a_file_that_exists_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_text("")
    (tmp_path / "digits").mkdir()
    assert configs.find_config("digits.py") == pathlib.Path("digits.py")
    assert configs.find_config(str(tmp_path / "digits.py")) == tmp_path / "digits.py"
    assert configs.find_config("digits") == ROOT / "configs" / "digits.py"  # a folder is no config


def test_an_argument_follows_a_colon_and_a_path_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "own.py"
    own.write_text("")
    assert configs.split_argument("own.py:a:b") == (pathlib.Path("own.py"), ["a:b"])
    assert configs.split_argument("~/own.py") == (own, [])
    assert configs.split_argument("digits") == (ROOT / "configs" / "digits.py", [])
    (tmp_path / "a:b").mkdir()
    shutil.copy(own, tmp_path / "a:b")
    for name in ("a:b/own.py", "a:b/own.py:argument"):
        with pytest.raises(vit_jax.InputError, match=r"^config a:b/own.py has a colon in its path"):
            configs.split_argument(name)


def test_every_command_takes_a_config_file_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def get_config(name):\n    raise ValueError(f'of {name}')\n")
    for start in (["train"], ["plan"], ["data", "show", "digits", "--out", "a.png"]):
        for name in ("own.py", "./own.py", str(tmp_path / "own.py")):
            with pytest.raises(SystemExit) as end:
                main([*start, f"--config={name}:me"])
            assert end.value.code == 2
            assert re.search(r": config file \S*own.py with argument 'me', line 2: of me$", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digts", r"config digts does not exist; nearest: digits; valid: a Python file, cifar10, .*linear_probe$"),
        ("", "config '' does not exist; valid: a Python file, cifar10"),
        ("/", "config / is no Python file; valid"),
        ("common", r"configs/common.py is what configs start from, none itself; valid: cifar10"),
        ("configs/common.py", "is what configs start from"),
    ],
)
def test_what_is_no_config_is_refused_with_all_that_are(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(vit_jax.InputError, match=message):
        configs.find_config(name)


def test_the_command_takes_the_flags_of_train_py(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["--config=digts"], "config digts does not exist; nearest: digits"),
        (["--config=digits", "--config.optimizer.learning_ratee=1"], "no key 'optimizer.learning_ratee'; nearest: "),
        (["--config.task.options.temperature=1"], "task 'classification' has no option 'temperature'"),
        (["--confg=digits"], "Unknown command line flag 'confg'"),
        (["digits"], "unexpected argument 'digits'"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["train", *arguments])
        out, err = capsys.readouterr()
        assert end.value.code == 2 and out == "" and len(err.splitlines()) == 1, err
        assert err.startswith("vit-jax train: ") and message in err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel unpacks into."""
    wheel = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    [file] = wheel.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_from(installed, folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "vit_jax", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_a_wheel_holds_the_configs_and_the_loop(installed):
    shipped = installed / "vit_jax" / "shipped"
    assert {file.name for file in (shipped / "configs").glob("*.py")} == {
        file.name for file in (ROOT / "configs").glob("*.py")
    }
    assert (shipped / "train.py").read_bytes() == (ROOT / "train.py").read_bytes()
    assert not (installed / "configs").exists()


def test_a_wheel_trains_without_a_clone(installed, tmp_path):
    wrong = run_from(installed, tmp_path, "train", "--config=digts")
    assert wrong.returncode == 2 and "nearest: digits; valid: a Python file, cifar10, " in wrong.stderr
    changes = ["num_steps=2", "batch_size=8", "model.options.depth=1", "evaluation.every_steps=0"]
    own = tmp_path / "own.py"
    own.write_text("from configs import digits\n\n\ndef get_config():\n    return digits.get_config()\n")
    for config in ("digits", "own.py"):
        result = run_from(installed, tmp_path, "train", f"--config={config}", *(f"--config.{each}" for each in changes))
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "digits" / "checkpoints" / "2").is_dir()
    assert (tmp_path / "runs" / "own" / "config.json").is_file()
