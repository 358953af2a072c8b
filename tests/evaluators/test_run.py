"""Evaluators in a training run and in `vit-jax evaluate`: the same figures, the same files."""

import csv
import json
import shutil

import numpy as np
import pytest
from conftest import small_config
from PIL import Image

import train
from vit_jax.build.experiment import experiment
from vit_jax.cli.main import main
from vit_jax.data.loading.pipeline import Pipeline
from vit_jax.errors import InputError

ALL = ("confusion", "calibration", "average_precision", "knn", "probe")
METRICS = ["mean_class_accuracy", "ece", "mean_average_precision", "knn_accuracy", "probe_2shot", "probe_all"]
FILES = {
    *("confusion.csv", "confusion.png", "per_class.csv"),
    *("calibration.csv", "calibration.png", "average_precision.csv"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run with all evaluators, which keeps the best by one of them."""
    workdir = tmp_path_factory.mktemp("evaluators")
    config = small_config(
        evaluation__metrics={name: {} for name in ALL} | {"probe": {"shots": (2, 0), "l2": 1.0}},
        checkpoint__best_metric="test/knn_accuracy",
    )
    assert train.train(config, workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def last(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def status(*arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return end.code


def table(file):
    with file.open(newline="") as lines:
        return list(csv.reader(lines))


def test_figures_are_among_the_runs_metrics(last):
    assert {f"test/{name}" for name in METRICS} <= last.keys()
    assert all(0.0 <= last[f"test/{name}"] <= 1.0 for name in METRICS)
    assert last["test/knn_accuracy"] > 0.5  # of a hardly trained model: the features are there


def test_files_of_each_evaluation(run, last):
    for step in (6, 12):
        assert {file.name for file in (run / "evaluation" / f"step_{step}" / "test").iterdir()} == FILES
    folder = run / "evaluation" / "step_12" / "test"
    matrix = np.array(table(folder / "confusion.csv"))[1:, 1:].astype(int)
    assert table(folder / "confusion.csv")[0] == ["true \\ predicted", *"0123456789"]
    assert matrix.sum() == 360 and matrix.trace() / 360 == pytest.approx(last["test/accuracy"])
    classes = table(folder / "per_class.csv")
    assert [row[1] for row in classes] == ["class_name", *"0123456789"]
    assert [int(row[2]) for row in classes[1:]] == matrix.sum(axis=1).tolist()
    assert Image.open(folder / "confusion.png").format == "PNG"


def test_evaluate_agrees_with_the_run_whatever_the_batch(run, last, tmp_path, capsys):
    assert status("evaluate", "--model", run, "--json", "--batch-size", 7, "--out", tmp_path / "out") == 0
    figures = json.loads(capsys.readouterr().out)
    for name in METRICS:
        assert figures[f"test/{name}"] == pytest.approx(last[f"test/{name}"], rel=1e-5), name
    for name in ("confusion.csv", "per_class.csv"):
        assert table(tmp_path / "out" / "test" / name) == table(run / "evaluation" / "step_12" / "test" / name)


def test_evaluate_takes_other_metrics_and_other_splits(run, trained, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("evaluate", "--model", trained, "--json", "--split", "test[:50]", "--out", out)
    assert status(*arguments, "--metrics", "knn,confusion") == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"test[:50]/knn_accuracy", "test[:50]/mean_class_accuracy"} <= figures.keys()
    assert "test[:50]/ece" not in figures
    assert sum(int(row[2]) for row in table(out / "test[:50]" / "per_class.csv")[1:]) == 50
    assert status("evaluate", "--model", run, "--json", "--metrics", "") == 0
    assert "test/ece" not in json.loads(capsys.readouterr().out)


def test_a_work_directory_from_before_evaluators(trained, tmp_path, capsys):
    old = shutil.copytree(trained, tmp_path / "old")
    config = json.loads((old / "config.json").read_text())
    for name in ("metrics", "reference_split", "reference_examples"):
        del config["evaluation"][name]
    (old / "config.json").write_text(json.dumps(config))
    assert status("evaluate", "--model", old, "--json", "--metrics", "knn") == 0
    new = json.loads(capsys.readouterr().out)
    assert status("evaluate", "--model", trained, "--json", "--metrics", "knn") == 0
    assert new["test/knn_accuracy"] == json.loads(capsys.readouterr().out)["test/knn_accuracy"]


def test_the_reference_can_be_another_split_or_a_sample_of_it(trained, tmp_path, capsys):
    """With one reference example all are given its class."""
    one = shutil.copytree(trained, tmp_path / "one")
    config = json.loads((one / "config.json").read_text())
    config["evaluation"] |= {"reference_split": "test[:90]", "reference_examples": 1}
    (one / "config.json").write_text(json.dumps(config))
    assert status("evaluate", "--model", one, "--json", "--metrics", "knn,confusion", "--out", tmp_path / "out") == 0
    accuracy = json.loads(capsys.readouterr().out)["test/knn_accuracy"]
    shares = [int(row[2]) / 360 for row in table(tmp_path / "out" / "test" / "per_class.csv")[1:]]
    assert min(abs(accuracy - share) for share in shares) < 1e-12


def test_a_training_split_in_memory_is_there_once(monkeypatch):
    """The reference of knn, all of it or a sample, is made of the arrays that are trained on."""
    decoded = []
    exact = Pipeline.exact
    monkeypatch.setattr(Pipeline, "exact", lambda self, record: decoded.append(record) or exact(self, record))
    for size in (0, 5):
        decoded.clear()
        config = small_config(
            data__split="train[:30]",
            data__in_memory=True,
            evaluation__metrics={"knn": {}},
            evaluation__splits={"test": "test[:20]"},
            evaluation__reference_examples=size,
        )
        parts = experiment(config)
        assert len(decoded) == 50 and len(parts.evaluators.reference) == (size or 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "knm"], "unknown metric 'knm' (did you mean 'knn'?); valid: average_precision, calibration"),
        (["--out", "OUT"], "--out is for the files of metrics, and there are none"),
    ],
)
def test_bad_arguments_are_one_line(trained, tmp_path, capsys, arguments, message):
    arguments = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    assert status("evaluate", "--model", trained, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation__metrics": {"knm": {}}}, "unknown metric 'knm'"),
        (
            {"evaluation__metrics": {"calibration": {}}, "task__options__loss_type": "sigmoid"},
            "valid: task.options.loss_type 'softmax'",
        ),
        ({"evaluation__metrics": {"knn": {"k": 0}}}, "evaluation.metrics.knn.k is 0"),
        ({"evaluation__metrics": {"knn": {}}, "evaluation__reference_split": "tran"}, "no split 'tran'"),
        ({"evaluation__metrics": {"knn": {}}, "evaluation__reference_examples": -1}, "reference_examples is -1"),
        ({"checkpoint__best_metric": "test/ece"}, "'test/ece'; valid: test/accuracy"),
    ],
)
def test_a_bad_config_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train.train(small_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
