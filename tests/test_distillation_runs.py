"""Runs with a teacher: it stays as it is, is no part of the result, sees images its own way, and must fit the data."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config, write_classifier
from flax.traverse_util import flatten_dict
from test_train import assert_equal_runs, run

import train
import vit_jax
from vit_jax.build.experiment import experiment
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.parallel.mesh import Mesh
from vit_jax.parallel.pmap import Pmap
from vit_jax.training.checkpoints import reading
from vit_jax.training.checkpoints.writing import Checkpoints

DIGITS = "0123456789"
SMALL = {
    "model__name": "deit",
    "model__options__posemb": None,
    "model__options__pooling": None,
    "task__options__distillation_head": True,
    "data__mean": (0.4,),
}


def config_with(teacher, **changes):
    return small_config(**(SMALL | {"task__name": "distillation", "task__options__teacher": str(teacher)} | changes))


def teacher_of(run):
    """The companion as a function of images."""
    companion = run.problem.companions["teacher"]
    return lambda images: companion.apply(companion.params, images)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A work directory of a teacher that takes images in another size and normalised otherwise."""
    folder = tmp_path_factory.mktemp("teacher")
    return write_classifier(folder, DIGITS, image_size=[12, 12], mean=[0.25], std=[0.2])


@pytest.fixture(scope="module")
def distilled(teacher, tmp_path_factory):
    """A finished run, whose teacher's source is gone; not to be changed."""
    folder = tmp_path_factory.mktemp("distilled")
    shutil.copytree(teacher, folder / "teacher")
    assert train.train(config_with(folder / "teacher"), folder / "run") == 0
    shutil.rmtree(folder / "teacher")
    return folder / "run"


def test_the_teacher_stays_as_it_is_and_costs_no_optimizer_state(teacher, distilled):
    info = reading.read_info(distilled / "checkpoints", 12)
    assert info["companions"]["teacher"]["info"]["task"]["name"] == "classification"
    run = experiment(config_with(distilled.parent / "teacher"), saved_info=info)
    with Checkpoints(distilled / "checkpoints", keep_last=2) as checkpoints:
        template = jax.eval_shape(lambda: run.init(0, run.example))
        state = checkpoints.restore(template, run.info, max_step=12).state
    chex.assert_trees_all_equal(state.companions["teacher"], reading.read_model(teacher, "last").params)
    assert run.problem.companions["teacher"].params is None
    paths = set(flatten_dict(state.params, sep="/"))
    assert {"head/kernel", "head_distillation/kernel", "encoder/distillation_token"} < paths
    assert jax.tree.structure(state.ema_params) == jax.tree.structure(state.params)
    assert jax.tree.structure(state.opt_state[1].mu) == jax.tree.structure(state.params)


def test_resuming_without_the_teachers_source_is_exact(distilled, tmp_path):
    shutil.copytree(distilled, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    assert train.train(config_with(distilled.parent / "teacher"), tmp_path / "run") == 0
    assert_equal_runs(distilled, tmp_path / "run", 12)


def test_a_run_keeps_the_teacher_that_it_began_with(distilled, tmp_path):
    message = r"task.options.teacher is 'other', but the run began with '.*teacher', which its checkpoint holds; valid"
    with pytest.raises(InputError, match=message):
        train.train(config_with("other", num_steps=14), distilled)


def test_the_result_is_a_plain_classifier(distilled, digit_files):
    classifier = vit_jax.load(distilled)
    assert classifier.info["task"]["name"] == "classification"
    assert set(classifier.params) == {"encoder", "head", "head_distillation"}
    assert type(classifier.model).__name__ == "ClassificationModel"
    predictions = classifier.predict([file for file, _ in digit_files])
    assert [len(row) for row in predictions] == [5, 5, 5]


def test_the_result_is_evaluated_as_in_the_run(distilled, capsys):
    assert main(["evaluate", "--model", str(distilled), "--json"]) == 0
    lines = [json.loads(line) for line in (distilled / "metrics.jsonl").read_text().splitlines()]
    expected = [line["test/accuracy"] for line in lines if "test/accuracy" in line][-1]
    assert json.loads(capsys.readouterr().out)["test/accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("to", "name"),
    [("huggingface", "DeiTForImageClassificationWithTeacher"), ("timm", "deit_base_distilled_patch16_224")],
)
def test_the_result_goes_to_other_libraries_and_comes_back(to, name, distilled, tmp_path):
    classifier = vit_jax.load(distilled)
    assert vit_jax.save(classifier, tmp_path / to, to=to) == name
    back = vit_jax.load(tmp_path / to)
    chex.assert_trees_all_equal(back.params, classifier.params)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(back.apply(images), classifier.apply(images), atol=1e-6)


def test_a_run_starts_from_the_result(distilled):
    config = small_config(**SMALL | {"init__source": str(distilled), "model__variant": None})
    started = experiment(config)
    assert not started.problem.companions
    expected = flatten_dict(vit_jax.load(distilled).params, sep="/")
    chex.assert_trees_all_equal(dict(started.warm_start.arrays), expected)


def test_an_image_of_another_size_is_resized_smoothly(teacher):
    run = experiment(config_with(teacher))
    batch = batch_of(0) | {"image": batch_of(0)["image"][:3]}
    logits = teacher_of(run)(run.problem.prepare(None, batch)["image"])
    classifier = vit_jax.load(teacher)
    # On the host pixels are rounded after resizing, which moves the logits a little.
    np.testing.assert_allclose(logits, classifier.apply(classifier.preprocess(batch["image"])), atol=0.05)
    assert np.ptp(np.asarray(logits)) > 0.5


def test_the_teachers_classes_are_put_in_the_order_of_the_data(tmp_path):
    shuffled = write_classifier(tmp_path / "shuffled", "9876543210", image_size=[12, 12])
    plain = write_classifier(tmp_path / "plain", DIGITS, image_size=[12, 12])

    def logits(source, **changes):
        return np.asarray(teacher_of(experiment(config_with(source, **changes)))(np.zeros((1, 8, 8, 1), np.float32)))

    expected = logits(plain)
    np.testing.assert_array_equal(logits(shuffled), expected[:, ::-1])
    np.testing.assert_array_equal(logits(shuffled, task__options__teacher_classes="numbers"), expected)


def test_the_teacher_computes_in_the_configs_dtype(teacher):
    run = experiment(config_with(teacher, model__options__dtype="bfloat16"))
    assert run.problem.companions["teacher"].model.encoder.dtype == "bfloat16"


def batch_of(step):
    return {
        "image": np.random.default_rng(step).integers(0, 256, (16, 8, 8, 1), np.uint8),
        "label": np.arange(16, dtype=np.int32) % 10,
        "index": np.arange(16 * step, 16 * step + 16, dtype=np.uint32),
    }


def test_every_way_of_spreading_trains_alike(teacher):
    changes = {"model__options__drop_path": 0.0, "optimizer__name": "sgd", "task__options__kind": "soft"}
    run = experiment(config_with(teacher, ema_decay=0.9, **changes))
    devices = jax.local_devices()
    ends = {}
    for name, strategy in {
        "one": Mesh(devices=devices[:1], min_size=0),
        "pmap 8": Pmap(devices[:8]),
        "data 2 fsdp 2 tensor 2": Mesh(2, 2, 2, devices=devices[:8], min_size=0),
    }.items():
        step = strategy.compile_train_step(run.make_train_step(strategy.axis_name))
        state, notes = run.prepare_state(strategy.new_state(lambda: run.init(0, run.example)))
        assert "images of 12x12 px" in notes[0]
        state = strategy.place_state(state)
        if name.startswith("data"):
            student, taught = (
                jax.tree.map(lambda x: x.sharding.spec, tree["encoder"]["block_0"])
                for tree in (state.params, state.companions["teacher"])
            )
            assert student["mlp"]["fc1"] == taught["mlp"]["fc1"] and "tensor" in student["mlp"]["fc1"]["kernel"]
            assert student["attention"] == taught["attention"]
        for number in range(5):
            state, _ = step(state, strategy.place_batch(batch_of(number)))
        ends[name] = strategy.fetch(state)
    for end in ends.values():
        assert end.skipped == 0
        chex.assert_trees_all_close(end.params, ends["one"].params, atol=1e-5)
        chex.assert_trees_all_equal(end.companions["teacher"], run.problem.companions["teacher"].params)


def test_the_loss_is_the_hand_made_one_on_the_augmented_batch_in_parts_too(teacher):
    options = {"kind": "soft", "temperature": 2.0, "teacher_weight": 0.3}
    changes = {f"task__options__{name}": value for name, value in options.items()}
    changes |= {"model__options__drop_path": 0.0, "data__augment": {"mix": {"mixup_alpha": 0.8}, "flip": {}}}
    run = experiment(config_with(teacher, accumulate_steps=4, **changes))
    state, _ = run.prepare_state(run.init(0, run.example))
    _, metrics = jax.jit(run.make_train_step(None))(state, batch_of(0))
    augment_key, _ = jax.random.split(jax.random.wrap_key_data(state.key))
    teaches = jax.nn.softmax(teacher_of(run)(run.problem.prepare(augment_key, batch_of(0))["image"]) / 2.0)
    # The heads start at zero, so that the student finds every class equally probable.
    divergence = (teaches * jnp.log(10 * teaches)).sum(axis=-1).mean()
    expected = 0.7 * np.log(10) + 0.3 * 4.0 * divergence
    assert float(metrics["loss"][0] / metrics["loss"][1]) == pytest.approx(float(expected), rel=1e-4)


def rgb(folder):
    return write_classifier(folder, DIGITS, channels=3, mean=[0.5] * 3, std=[0.5] * 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", r"none"),
        (lambda folder: write_classifier(folder, "012345678"), r"has 9 classes, and the data 10; valid: a teacher of"),
        (
            lambda folder: write_classifier(folder, "abcdefghij"),
            r"has a class 'a'; valid: .* or task.options.teacher_classes 'nu",
        ),
        (rgb, r"takes images of 3 channels; valid with data.channels 1: one of 1"),
        (lambda folder: write_classifier(folder, DIGITS, scale=0.0), r"head/kernel is zero throughout"),
        (
            lambda folder: write_classifier(folder, DIGITS, task={"options": {"loss_type": "sigmoid"}}),
            r"was trained for classification without a softmax",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(make, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        experiment(config_with(make(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task__options__teacher": None},
            r"task.options.teacher is not set; valid for distillation: a work directory",
        ),
        ({"task__name": "classification"}, r"task 'classification' has no option 'teacher'"),
        (
            {"task__options__teacher_revision": "main"},
            r"task.options.teacher_revision is 'main', but .* is a work directory",
        ),
        ({"task__options__teacher_step": "7"}, r"has no checkpoint of step 7"),
        ({"task__options__kind": "warm"}, r"task.options.kind is 'warm'; valid: hard, soft"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changes, message, teacher):
    with pytest.raises(InputError, match=message):
        experiment(config_with(teacher, **changes))


def test_a_missing_teacher_ends_the_command_with_one_line(tmp_path):
    result = run(tmp_path / "run", "--config.task.name=distillation", "--config.task.options.teacher=nowhere/at/all")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "nowhere" in result.stderr and not (tmp_path / "run" / "checkpoints").exists()
