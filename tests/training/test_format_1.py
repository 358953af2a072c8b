"""Work directories as versions before the info's format 2 wrote them still load, evaluate, convert and continue."""

import json
import tarfile

import chex
import jax
import numpy as np
import pytest
from conftest import GOLDEN, small_config

import train
import vit_jax
from vit_jax.cli.main import main
from vit_jax.info import fields_of
from vit_jax.training.checkpoints import layout, reading
from vit_jax.training.checkpoints.writing import Checkpoints
from vit_jax.types import TrainState

FOLDER = GOLDEN / "workdir_format1"
ANSWERS = json.loads((FOLDER / "answers.json").read_text())
SMOOTHING = 1e-3
"""How far label smoothing, which the loss of an evaluation had then, takes it from the plain cross-entropy here."""
RUNS = ("plain", "distilled")
CHANGES = {
    "num_steps": 8,
    "log_every_steps": 4,
    "evaluation__every_steps": 4,
    "checkpoint__every_steps": 4,
    "ema_decay": 0.9,
    "model__options__drop_path": 0.0,
    "data__augment__shift": None,
}
TAUGHT = {
    "model__name": "deit",
    "model__options__posemb": None,  # digits' own, which a DeiT does not take
    "model__options__pooling": None,
    "task__name": "distillation",
    "task__options__teacher": "teacher",
    "task__options__distillation_head": True,
    "data__mean": (0.4,),
}


@pytest.fixture
def workdir(request, tmp_path):
    """A work directory that ended after 4 of 8 steps."""
    with tarfile.open(FOLDER / "runs.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / request.param


of_each = pytest.mark.parametrize("workdir", RUNS, indirect=True)


def config_of(name):
    """The config of a run in today's keys."""
    return small_config(**CHANGES | (TAUGHT if name == "distilled" else {}))


@of_each
def test_the_info_names_the_classes_by_field(workdir):
    info = reading.read_info(workdir / "checkpoints", 4)
    fields = fields_of(info)
    assert (fields["label"].kind, fields["label"].names) == ("label", tuple("0123456789"))
    assert info["task"]["name"] == "classification"
    assert ("companions" in info) == (workdir.name == "distilled")
    if "companions" in info:
        teacher = info["companions"]["teacher"]
        assert (teacher["source"], teacher["about"]) == ("teacher", "teacher step 0")
        assert fields_of(teacher["info"])["label"].names == tuple("0123456789")


@of_each
def test_it_answers_as_it_did(workdir, digit_files):
    loaded = vit_jax.load(workdir)
    images = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    np.testing.assert_allclose(loaded.apply(images), ANSWERS[workdir.name]["logits"], atol=1e-6)
    (result,) = loaded.predict([digit_files[0][0]], top_k=10)
    label, probability = ANSWERS[workdir.name]["digit"][0]
    best = result.json()["predictions"][0]
    assert (best["label"], best["class_name"]) == (label, str(label))
    assert best["probability"] == pytest.approx(probability, abs=1e-6)


@of_each
def test_it_is_evaluated_as_in_the_run(workdir, capsys):
    assert main(["evaluate", "--model", str(workdir), "--json"]) == 0
    expected = ANSWERS[workdir.name]["metrics"]["4"]
    figures = json.loads(capsys.readouterr().out)
    for name in ("test/accuracy", "test/examples"):
        assert figures[name] == pytest.approx(expected[name], abs=1e-5)
    assert figures["test/loss"] == pytest.approx(expected["test/loss"], abs=SMOOTHING)


@of_each
def test_it_is_converted(workdir, tmp_path):
    loaded = vit_jax.load(workdir)
    vit_jax.save(loaded, tmp_path / "converted", to="workdir")
    again = vit_jax.load(tmp_path / "converted")
    chex.assert_trees_all_equal(again.params, loaded.params)


@pytest.mark.parametrize("workdir", ["distilled"], indirect=True)
def test_its_teacher_is_restored_as_a_companion(workdir):
    """Into a state made of what the checkpoint itself has, so that no config is needed."""
    folder = workdir / "checkpoints" / "4"
    with layout.open_items() as reader:
        shapes = {
            name: jax.tree.map(layout.empty, reader.shapes(folder / name))
            for name in ("params", "ema_params", "rest", "teacher")
        }
        teacher = reader.restore(folder / "teacher", shapes["teacher"])
    template = TrainState(
        params=shapes["params"],
        ema_params=shapes["ema_params"],
        companions={"teacher": shapes["teacher"]},
        **shapes["rest"],
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(template, reading.read_info(workdir / "checkpoints", 4), max_step=8)
    assert restored is not None and (restored.step, int(restored.state.step)) == (4, 4)
    chex.assert_trees_all_equal(restored.state.companions, {"teacher": teacher})
    assert restored.state.variables == {}


@of_each
def test_it_continues_as_it_would_have(workdir, monkeypatch):
    """Without augmentation or dropout, so that nothing depends on how random keys are made."""
    monkeypatch.chdir(workdir.parent)  # whose folder `teacher`, the source, is gone
    assert train.train(config_of(workdir.name), workdir) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    before, after = (ANSWERS[workdir.name]["metrics"][step] for step in ("4", "8"))
    assert [line["step"] for line in lines] == [4, 8]
    assert lines[0] == before
    assert lines[1]["test/loss"] == pytest.approx(after["test/loss"], abs=SMOOTHING)
    assert lines[1] == pytest.approx(after | {"test/loss": lines[1]["test/loss"]}, abs=1e-5)
