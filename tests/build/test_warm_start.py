"""Training from trained models: what is taken over, what is new, what is refused."""

import shutil

import chex
import jax
import numpy as np
import pytest
from conftest import GOLDEN, set_key, small_config
from flax.traverse_util import flatten_dict
from tiny import IMAGE_FIELD

import train
import vit_jax
from vit_jax.build.experiment import experiment
from vit_jax.build.info import from_info
from vit_jax.build.warm_start import keeps_head
from vit_jax.errors import InputError
from vit_jax.info import new_info
from vit_jax.types import class_fields

OPEN = {
    f"data__{key}": None
    for key in ("image_size", "channels", "mean", "std", "resize", "crop_fraction", "crop_offset", "interpolation")
}
OPEN["data__width_first"] = None
OPEN |= {"model__name": None, "model__variant": None, "task__options__label_smoothing": None}
OPEN |= {f"model__options__{key}": None for key in ("hidden_dim", "depth", "mlp_dim", "num_heads")}
OPEN |= {f"model__options__{key}": None for key in ("posemb", "pooling", "drop_path")}
"""What configs/finetune.py leaves to the source."""


def config_from(source, **changes):
    return small_config(init__source=str(source), **(OPEN | {"checkpoint__best_metric": ""} | changes))


def start(config):
    """The parameters of the first state, flat."""
    run = experiment(config)
    shapes = jax.eval_shape(lambda: run.init(0, run.example))
    state = shapes.replace(params=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.params), ema_params=None)
    state, notes = run.prepare_state(state)
    assert notes == [str(run.warm_start.report)]
    return run, flatten_dict(state.params, sep="/")


def rename(copy, names):
    copy.config["id2label"] = {str(i): name for i, name in enumerate(names)}
    return copy.save()


@pytest.fixture
def digits_checkpoint(changed):
    """hf_vit with ten classes, in the digits' order reversed, and a head to recognise."""
    copy = changed("hf_vit")
    rng = np.random.default_rng(0)
    copy.tensors["classifier.weight"] = rng.normal(size=(10, 48)).astype(np.float32)
    copy.tensors["classifier.bias"] = rng.normal(size=10).astype(np.float32)
    rename(copy, "9876543210")
    return copy


@pytest.mark.parametrize("name", ["hf_vit", "hf_deit", "timm_vit", "timm_vit_gap", "timm_vit_reg"])
def test_the_encoder_is_taken_over_bit_for_bit_and_the_head_is_new(name):
    run, params = start(config_from(GOLDEN / name))
    source = vit_jax.load(GOLDEN / name)
    for path, array in flatten_dict(source.params["encoder"], sep="/").items():
        np.testing.assert_array_equal(params[f"encoder/{path}"], array)
    heads = [path for path in params if not path.startswith("encoder/")]
    assert all(params[path].shape[-1] == 10 and not params[path].any() for path in heads)
    assert set(run.warm_start.report.initialised) == set(heads)
    assert run.info["preprocessing"] == source.info["preprocessing"]
    assert run.problem.model.encoder == source.model.encoder.clone(dtype="float32")
    assert set(flatten_dict(source.params, sep="/")) == set(params)


def test_the_head_stays_if_the_classes_are_the_same_in_whatever_order(digits_checkpoint):
    run, params = start(config_from(digits_checkpoint.folder))
    assert run.warm_start.report.initialised == ()
    np.testing.assert_array_equal(params["head/kernel"], digits_checkpoint.tensors["classifier.weight"].T[:, ::-1])
    np.testing.assert_array_equal(params["head/bias"], digits_checkpoint.tensors["classifier.bias"][::-1])


@pytest.mark.parametrize(("head", "kept"), [("new", False), ("keep", True), ("auto", False)])
def test_the_head_as_the_config_says(digits_checkpoint, head, kept):
    rename(digits_checkpoint, "abcdefghij")
    run, params = start(config_from(digits_checkpoint.folder, init__head=head))
    expected = digits_checkpoint.tensors["classifier.weight"].T if kept else np.zeros((48, 10))
    np.testing.assert_array_equal(params["head/kernel"], expected)
    assert bool(run.warm_start.report.initialised) != kept
    said = "the head is kept for classes of other names, by their numbers: 'a' is '0' now"
    assert (said in str(run.warm_start.report)) == kept


def test_a_head_without_names_is_kept_by_numbers_and_says_so(changed):
    copy = changed("timm_vit")
    copy.tensors["head.weight"] = np.random.default_rng(0).normal(size=(10, 48)).astype(np.float32)
    copy.tensors["head.bias"] = np.zeros(10, np.float32)
    copy.config["num_classes"] = 10
    run, params = start(config_from(copy.save()))
    np.testing.assert_array_equal(params["head/kernel"], copy.tensors["head.weight"].T)
    assert "its classes have numbers for names: class 0 is the data's '0'" in str(run.warm_start.report)


def test_another_resolution_and_number_of_channels():
    config = config_from(GOLDEN / "hf_vit", data__image_size=(32, 64), data__channels=1)
    run, params = start(config)
    expected = vit_jax.load(GOLDEN / "hf_vit", image_size=(32, 64), in_channels=1)
    chex.assert_trees_all_equal(
        {path.removeprefix("encoder/"): x for path, x in params.items() if path.startswith("encoder/")},
        flatten_dict(expected.params["encoder"], sep="/"),
    )
    assert run.info["preprocessing"] == expected.info["preprocessing"]
    assert run.warm_start.report.resized == {"encoder/pos_embedding/grid": ((6, 6), (4, 8))}


def test_options_given_count_and_the_sources_regularisation_does_not(changed):
    copy = changed("hf_vit")
    copy.config["hidden_dropout_prob"] = 0.3
    run, _ = start(config_from(copy.save(), model__options__drop_path=0.2, data__mean=(0.0, 0.0, 0.0)))
    assert (run.problem.model.encoder.dropout, run.problem.model.encoder.drop_path) == (0.0, 0.2)
    assert run.info["preprocessing"]["mean"] == (0.0, 0.0, 0.0)


def test_how_a_model_is_computed_is_no_part_of_it():
    run, _ = start(config_from(GOLDEN / "hf_vit", model__options__remat="full", model__options__scan=True))
    assert (run.problem.model.encoder.remat, run.problem.model.encoder.scan) == ("full", True)
    assert not {"remat", "scan"} & run.info["model"]["options"].keys()
    loaded, _, _ = from_info(run.info)
    assert (loaded.encoder.remat, loaded.encoder.scan) == ("none", False)


def test_a_work_directory_goes_on_with_new_steps(trained, tmp_path):
    assert train.train(config_from(trained, num_steps=1, optimizer__learning_rate=0.0), tmp_path) == 0
    before, after = vit_jax.load(trained), vit_jax.load(tmp_path)
    chex.assert_trees_all_equal(before.params, after.params)
    assert after.info["step"] == 1 and after.model.encoder.depth == before.model.encoder.depth


def test_resuming_needs_the_source_no_more_and_changes_nothing(changed, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    copy = changed("timm_vit")
    options = {"num_steps": 4, "batch_size": 8, "evaluation__every_steps": 0, "checkpoint__every_steps": 2}
    options |= {"optimizer__layer_decay": 0.5, "data__image_size": (16, 16), "data__channels": 1}
    assert train.train(config_from(copy.folder, **options), whole) == 0
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints" / "4")
    shutil.rmtree(copy.folder)
    assert train.train(config_from(copy.folder, **options), parts) == 0
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    chex.assert_trees_all_equal(vit_jax.load(whole).params, vit_jax.load(parts).params)


@pytest.mark.parametrize(("name", "kept"), [("masked_autoencoder", True), ("classification", False)])
def test_the_datas_classes_say_nothing_of_the_head_of_a_task_without_classes(name, kept):
    old = class_fields(["cat", "dog"]) | IMAGE_FIELD
    task = {"name": name, "options": {}}
    info = new_info(model={}, task=task, fields=old, preprocessing={})
    assert keeps_head("auto", info, task, class_fields(["oak", "elm"]) | IMAGE_FIELD) is kept
    assert keeps_head("auto", info, task, old)


@pytest.mark.parametrize("options", [{"optimizer__freeze_encoder": True}, {"optimizer__freeze_blocks": 2}])
def test_what_is_frozen_stays_bit_for_bit(options, tmp_path):
    small = {
        "num_steps": 3,
        "optimizer__warmup_steps": 0,
        "batch_size": 8,
        "data__image_size": (16, 16),
        "data__channels": 1,
        "ema_decay": 0.0,
    }
    config = config_from(GOLDEN / "hf_vit", evaluation__every_steps=0, optimizer__learning_rate=0.1, **small, **options)
    _, first = start(config)
    assert train.train(config, tmp_path) == 0
    last = flatten_dict(vit_jax.load(tmp_path).params, sep="/")
    same = {path for path in first if np.array_equal(first[path], last[path])}
    expected = {path for path in first if path.startswith("encoder/")}
    if "optimizer__freeze_blocks" in options:
        expected -= {path for path in expected if path.startswith(("encoder/block_2/", "encoder/norm/"))}
    # The gradient of a key's bias is zero: a softmax does not change with it.
    assert {path for path in same if not path.endswith("key/bias")} == {p for p in expected if "key/bias" not in p}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init__source": "/nowhere"}, "/nowhere does not exist; / holds"),
        ({"init__step": "5"}, "init.step is 5, but .*hf_vit is no work directory"),
        ({"init__head": "old"}, "init.head is 'old'; valid: auto, keep, new"),
        ({"init__head": "keep"}, "has 7 classes and the data 10"),
        ({"model__variant": "S/16"}, "model.variant is 'S/16', but init.source is 'B/8'"),
        ({"model__options__hidden_dim": 64}, r"not \[4, 16\]"),
        ({"model__options__pooling": "gap"}, "no place for vit.embeddings.cls_token"),
        ({"model__options__depth": 4}, "lacks vit.encoder.layer.3|lacks encoder/block_3"),
        ({"data__image_size": (44, 7)}, "patch"),
        ({"optimizer__freeze_blocks": 4}, "freeze_blocks is 4; valid: 0 to the model's 3 blocks"),
        ({"optimizer__layer_decay": 1.5}, "layer_decay is 1.5; valid: more than 0, at most 1"),
        ({"optimizer__warmup_fraction": 1.0}, "warmup_fraction is 1.0"),
        ({"init__source": None}, "image_size is not set"),
        ({"init__source": None, "data__image_size": (8, 8)}, "model.name is not set"),
    ],
)
def test_refusals_leave_nothing_behind(changes, message, tmp_path):
    config = config_from(GOLDEN / "hf_vit")
    for key, value in changes.items():
        set_key(config, key.split("__"), value)
    with pytest.raises(InputError, match=message):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_the_model_has_no_place_for_can_be_named():
    allow = ("*cls_token", "*/prefix", "*position*")
    config = config_from(GOLDEN / "hf_vit", model__options__pooling="gap", init__allow=allow)
    run, params = start(config)
    assert "encoder/class_token" not in params
    assert "vit.embeddings.cls_token" in run.warm_start.report.unused


def test_keep_takes_the_classes_by_their_names_too(digits_checkpoint):
    _, params = start(config_from(digits_checkpoint.folder, init__head="keep"))
    np.testing.assert_array_equal(params["head/kernel"], digits_checkpoint.tensors["classifier.weight"].T[:, ::-1])


def test_a_pooler_goes_with_the_head(changed):
    copy = changed("hf_vit")
    copy.config["architectures"] = ["ViTModel"]
    copy.tensors = {name.removeprefix("vit."): x for name, x in copy.tensors.items() if name.startswith("vit.")}
    copy.tensors |= {"pooler.dense.weight": np.ones((48, 48), np.float32), "pooler.dense.bias": np.ones(48, np.float32)}
    source = copy.save()
    run, params = start(config_from(source))
    assert run.problem.model.encoder.representation_size is None and "encoder/pre_logits/kernel" not in params
    assert set(run.warm_start.report.unused) == {"pooler.dense.weight", "pooler.dense.bias"}
    run, params = start(config_from(source, model__options__representation_size=48))
    assert run.problem.model.encoder.representation_size == 48 and not np.any(params["encoder/pre_logits/kernel"] == 1)


def test_a_crop_that_is_given_replaces_the_sources_size_before_the_crop():
    run, _ = start(config_from(GOLDEN / "hf_deit"))
    assert run.info["preprocessing"]["resize_to"] is not None
    run, _ = start(config_from(GOLDEN / "hf_deit", data__resize="shortest_edge", data__crop_fraction=0.9))
    assert run.info["preprocessing"]["resize_to"] is None


def test_weights_are_applied_to_a_new_state_alone(changed, tmp_path, monkeypatch):
    """Even if the run's first checkpoint came into being after the source was opened."""
    options = {"batch_size": 8, "evaluation__every_steps": 0, "optimizer__warmup_steps": 0}
    options |= {"data__image_size": (16, 16), "data__channels": 1}
    assert train.train(config_from(GOLDEN / "timm_vit", num_steps=2, **options), tmp_path) == 0
    monkeypatch.setattr("vit_jax.cli.run.last_info", lambda directory: None)
    options["optimizer__learning_rate"] = 0.0
    assert train.train(config_from(GOLDEN / "timm_vit", num_steps=3, ema_decay=0.99, **options), tmp_path) == 0
    trained, source = (
        vit_jax.load(model).params["encoder"]["norm"]["scale"] for model in (tmp_path, GOLDEN / "timm_vit")
    )
    assert np.any(trained != source)
