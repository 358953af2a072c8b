"""Every config builds, is locked, and takes a step with a tiny model; every key has its meaning in common.py."""

import ast
import importlib
import json

import pytest
from conftest import GOLDEN, ROOT
from PIL import Image

import train
from configs import common


def two_classes(folder):
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / f"{name}.jpg")
    return folder


NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_locked_and_takes_a_step(name, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.is_locked
    config.update({"num_steps": 1, "batch_size": 8, "log_every_steps": 1})
    if name == "finetune":
        config.init.source, config.data.folder = str(GOLDEN / "hf_vit"), str(two_classes(tmp_path / "images"))
    else:
        config.model.update({"hidden_dim": 8, "depth": 1, "mlp_dim": 8, "num_heads": 2})
    assert train.train(config, tmp_path / "run") == 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["step"] == 1 and line["train/skipped_steps"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_its_command(name):
    module = importlib.import_module(f"configs.{name}")
    assert f"python train.py --config=configs/{name}.py" in module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_no_key_that_common_does_not_explain(name):
    config = importlib.import_module(f"configs.{name}").get_config()

    def keys(tree, prefix=""):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict) and key != "splits":
                yield from keys(value, f"{prefix}{key}.")

    assert set(keys(config.to_dict())) == set(keys(common.get_config().to_dict()))


def test_every_key_of_common_has_a_comment_above_it():
    source = (ROOT / "configs" / "common.py").read_text()
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "").startswith(("_", "ConfigDict")):
                continue  # a section
            above = [line.strip() for line in lines[max(0, node.lineno - 6) : node.lineno - 1]]
            assert any(line.startswith("#") for line in above), lines[node.lineno - 1]
