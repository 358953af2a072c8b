"""Every config builds, is locked, and takes a step with a tiny model; every key has its meaning in common.py."""

import ast
import importlib
import json

import chex
import jax
import numpy as np
import pytest
from conftest import GOLDEN, ROOT, set_key, write_classifier
from families import TINY
from PIL import Image

import train
from configs import common
from vit_jax.build import plugins
from vit_jax.build.experiment import experiment
from vit_jax.data.loading.loader import Share
from vit_jax.training.evaluation import learned, make_eval_step


def two_classes(folder):
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / f"{name}.jpg")
    return folder


NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))


TRAINED = ("digits",)
"""One takes a step. The step of the others is traced: it is made of the same parts, of families that learn in
`models/test_families.py`, and of what `test_distillation_runs.py` and `build/test_warm_start.py` train."""


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_locked_and_takes_a_step(name, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.is_locked
    config.update({"num_steps": 1, "batch_size": 8, "log_every_steps": 1})
    if config.task.name == "distillation":
        data = config.data
        names = "0123456789" if data.name == "digits" else ("cat", "dog")
        like_the_students = {"channels": data.channels, "mean": data.mean, "std": data.std}
        teacher = write_classifier(tmp_path / "teacher", names, **like_the_students)
        set_key(config, ("task", "options", "teacher"), str(teacher))
    if config.data.name not in ("digits", "digit_scenes"):
        config.data.folder, config.data.split = str(two_classes(tmp_path / "images")), "train"
        config.evaluation.splits = {}
        config.data.image_size = config.data.image_size and (32, 32)
    if config.model.variant is None:  # it is that of a source
        config.init.source = str(GOLDEN / "hf_vit")
    else:
        for option, value in TINY[config.model.name].options.items():
            set_key(config, ("model", "options", option), value)
    if name not in TRAINED:
        trace_a_step(config)
        return
    assert train.train(config, tmp_path / "run") == 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["step"] == 1 and line["train/skipped_steps"] == 0


def trace_a_step(config):
    run = experiment(config)
    batch = next(run.train_loader.train_batches(Share(8), seed=0, start_step=0, total_steps=1))
    state = jax.eval_shape(lambda: run.init(config.seed, run.example))
    new_state, metrics = jax.eval_shape(run.make_train_step(None), state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert metrics["loss"][0].shape == ()
    # Evaluation's step has what it needs.
    evaluate = make_eval_step(run.problem, row_names=run.evaluators.row_names)
    jax.eval_shape(evaluate, learned(state), batch | {"is_example": np.ones(8, np.float32)})


def test_arguments_of_configs():
    def config(name, argument):
        return importlib.import_module(f"configs.{name}").get_config(argument)

    assert config("imagenet_vit_s16", "300").num_epochs == 300
    assert config("imagenet_vit_b16_augreg", "strong2").data.augment.mix.mixup_alpha == 0.8
    assert config("imagenet_vit_l16", "light2").data.augment.mix.mixup_alpha == 0.2
    assert config("imagenet21k_vit_b16", "medium1").data.augment.randaugment.magnitude == 15
    assert config("finetune_cifar", "cifar100").data.name == "cifar100"
    for name in ("cifar10", "cifar100"):
        assert config(name, "gpu").model.variant == "S/4"
        with pytest.raises(ValueError, match="no variant 'tpu'; valid: cpu, gpu"):
            config(name, "tpu")
    assert (config("imagenet_swin_t", "B").model.variant, config("imagenet_swin_t", "S").model.options.drop_path) == (
        "B/7",
        0.3,
    )
    with pytest.raises(ValueError, match="no variant 'L'; valid: T, S, B"):
        config("imagenet_swin_t", "L")
    families = importlib.import_module("configs.digits_families").FAMILIES
    for family, (options, side) in families.items():
        chosen = config("digits_families", family)
        assert (chosen.model.name, chosen.data.image_size) == (family, (side, side))
        plugins.create_encoder(family, **options)
    with pytest.raises(ValueError, match=r"no variant 'cnn'; valid: deit, .*vit"):
        config("digits_families", "cnn")
    assert config("digits_distillation", "hard").task.options.kind == "hard"
    assert config("digits_distillation", "none").task.name == "classification"
    with pytest.raises(ValueError, match="no kind 'warm'; valid: soft, hard, none"):
        config("digits_distillation", "warm")
    assert config("linear_probe", "validation").evaluation.splits.to_dict() == {"test": "validation"}


def test_every_family_and_task_has_a_config():
    configs = [importlib.import_module(f"configs.{name}").get_config() for name in NAMES]
    families = importlib.import_module("configs.digits_families").FAMILIES
    assert {*families, *(config.model.name for config in configs)} >= set(plugins.names("model"))
    assert {config.task.name for config in configs} >= set(plugins.names("task"))


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
            # The options of a family, task, augmentation or evaluator are explained where they are.
            if isinstance(value, dict) and key not in ("splits", "options", "augment", "metrics"):
                yield from keys(value, f"{prefix}{key}.")

    assert set(keys(config.to_dict())) == set(keys(common.get_config().to_dict()))


AUGREG = [
    # name, RandAugment's operations and magnitude, mixup's alpha
    ("none", None, 0.0),
    ("light1", (2, 0), 0.0),
    ("light2", (2, 10), 0.2),
    ("medium1", (2, 15), 0.2),
    ("medium2", (2, 15), 0.5),
    ("strong1", (2, 20), 0.5),
    ("strong2", (2, 20), 0.8),
]


@pytest.mark.parametrize(("name", "randaugment", "mixup"), AUGREG)
def test_augregs_names_are_its_combinations(name, randaugment, mixup):
    augment = augmented(lambda config: common.set_augreg(config, name))
    expected = {}
    if randaugment is not None:
        num_ops, magnitude = randaugment
        expected["randaugment"] = {"variant": "google", "num_ops": num_ops, "magnitude": magnitude}
    if mixup:
        expected["mix"] = {"mixup_alpha": mixup}
    assert augment == expected
    assert common.AUGREG.keys() == {name for name, _, _ in AUGREG}


def test_deits_recipe():
    augment = augmented(common.set_deit)
    assert augment["randaugment"] == {
        "variant": "timm_increasing",
        "num_ops": 2,
        "magnitude": 9.0,
        "magnitude_std": 0.5,
    }
    assert augment["mix"] == {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    assert (augment["erase"], augment["flip"]) == ({"probability": 0.25}, {})
    assert augment.keys() == {"random_crop", "flip", "randaugment", "erase", "mix"}


def augmented(change):
    """The augmentations after a change, once they have been made."""
    config = common.get_config()
    config.data.update({"image_size": (8, 8), "channels": 1, "mean": (0.5,), "std": (0.5,)})
    config.model.variant = "Ti/4"
    config.model.options = {"hidden_dim": 8, "depth": 1, "mlp_dim": 8, "num_heads": 2}
    change(config)
    config.lock()
    run = experiment(config)
    batch = next(run.train_loader.train_batches(Share(6), seed=0, start_step=0, total_steps=1))
    prepared = run.problem.prepare(jax.random.key(0), batch)
    assert prepared["image"].shape == (6, 8, 8, 1)
    assert prepared["label"].shape == ((6, 10) if "mix" in config.data.augment else (6,))
    return config.data.augment.to_dict()


def test_an_unknown_augreg_is_named():
    with pytest.raises(ValueError, match="no augmentation 'medium'; valid: none, light1"):
        common.set_augreg(common.get_config(), "medium")


def test_every_key_of_common_has_a_comment_above_it():
    source = (ROOT / "configs" / "common.py").read_text()
    lines = source.splitlines()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    sections = [node for node in functions if node.name == "get_config" or node.name.startswith("_")]
    for node in (node for section in sections for node in section.body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "").startswith(("_", "ConfigDict")):
                continue  # a section
            above = [line.strip() for line in lines[max(0, node.lineno - 6) : node.lineno - 1]]
            assert any(line.startswith("#") for line in above), lines[node.lineno - 1]
