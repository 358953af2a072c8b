"""What a run writes down."""

import io
import json

import jax
import pytest

from vit_jax.errors import TrainingDiverged
from vit_jax.training.json_lines import last_values
from vit_jax.training.run_log import RunLog


def log(workdir, start_step=0, stream=None, **options):
    defaults = {
        "total_steps": 100,
        "batch_size": 8,
        "fetch": jax.device_get,
        "leaf_names": ["head/kernel", "head/bias"],
        "max_skipped_steps": 3,
    }
    return RunLog(workdir, start_step=start_step, stream=stream or io.StringIO(), **(defaults | options))


def metrics(loss=1.0, in_row=0, leaf=-1):
    values = {"loss": (6 * loss, 6.0), "accuracy": (3.0, 6.0), "learning_rate": (0.1, 1.0), "skipped_steps": (0.0, 1.0)}
    return values | {"skipped_in_row": (float(in_row), 1.0), "nonfinite_leaf": (float(leaf), 1.0)}


def lines(workdir, name="metrics"):
    return [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


def test_a_line_a_step_with_train_and_test_together(tmp_path):
    with log(tmp_path) as run:
        run.train(10, metrics(loss=2.0), 0.0)
        run.evaluation(10, {"test/accuracy": 0.5, "test/examples": 7})
        run.evaluation(15, {"test/accuracy": 0.6, "test/examples": 7})
        run.flush()
    first, second = lines(tmp_path)
    assert first == {
        "step": 10,
        "train/loss": 2.0,
        "train/accuracy": 0.5,
        "train/learning_rate": 0.1,
        "train/skipped_steps": 0,
        "train/examples_seen": 80,
        "test/accuracy": 0.5,
        "test/examples": 7,
    }
    assert second == {"step": 15, "test/accuracy": 0.6, "test/examples": 7}
    assert last_values(tmp_path / "metrics.jsonl")["test/accuracy"] == 0.6
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_metrics_are_fetched_when_the_next_are_due(tmp_path):
    fetched = []
    with log(tmp_path, fetch=lambda tree: fetched.append(1) or tree) as run:
        run.train(10, metrics(), 0.0)
        assert not fetched
        run.train(20, metrics(), 0.0)
        assert len(fetched) == 1


def test_a_resumed_run_cuts_later_lines_and_a_torn_one(tmp_path):
    text = '{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a'
    (tmp_path / "metrics.jsonl").write_text(text)
    with log(tmp_path, start_step=2):
        assert lines(tmp_path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}]


def test_divergence_names_the_leaf_and_the_step(tmp_path):
    with log(tmp_path) as run:
        run.train(10, metrics(in_row=4, leaf=1), 0.0)
        with pytest.raises(TrainingDiverged, match=r"4 steps in a row up to step 10.*of head/bias in step 7"):
            run.flush()


def test_divergence_of_the_loss_alone(tmp_path):
    with log(tmp_path) as run:
        run.train(10, metrics(in_row=3, leaf=2), 0.0)
        with pytest.raises(TrainingDiverged, match="first: the loss in step 8"):
            run.flush()


@pytest.mark.parametrize("loss", [(0.0, 0.0), (float("inf"), 1.0)])
def test_what_is_not_finite_is_null(tmp_path, loss):
    with log(tmp_path) as run:
        run.train(10, metrics() | {"loss": loss}, 0.0)
        run.flush()
    assert lines(tmp_path)[0]["train/loss"] is None


def test_progress_is_a_plain_line_where_there_is_no_terminal(tmp_path):
    stream = io.StringIO()
    with log(tmp_path, stream=stream) as run:
        run.started(1, 0.0, seconds_to_first_step=2.5)
        run.train(10, metrics(), 0.0)
        run.flush()
    shown = stream.getvalue()
    assert "first step after 2.5 s" in shown
    for part in (
        "step 10/100",
        "loss 1.0000",
        "accuracy 0.5000",
        "lr 1.00e-01",
        "images/s",
        "left",
        "waiting for data",
    ):
        assert part in shown
    assert "\x1b" not in shown and "\r" not in shown


@pytest.mark.parametrize(
    ("names", "shown"), [(["psnr", "ssim"], "loss 1.0000 | psnr 2.0000 | lr"), ([], "loss 1.0000 | lr")]
)
def test_progress_shows_the_first_metric_of_any_task(tmp_path, names, shown):
    stream = io.StringIO()
    values = {name: value for name, value in metrics().items() if name != "accuracy"}
    values = {"gradient_norm": (7.0, 1.0), **values, **dict.fromkeys(names, (4.0, 2.0))}
    with log(tmp_path, stream=stream) as run:
        run.train(100, values, 0.0)
        run.flush()
    assert shown in stream.getvalue()


def test_lines_are_written_as_they_always_were(tmp_path):
    with log(tmp_path) as run:
        run.train(10, metrics(loss=0.25), 0.0)
        run.evaluation(10, {"test/loss": float("nan")})
        run.flush()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        b'{"step": 10, "train/accuracy": 0.5, "train/learning_rate": 0.1, "train/loss": 0.25, '
        b'"train/skipped_steps": 0, "train/examples_seen": 80, "test/loss": null}\n'
    )


def test_speed_leaves_the_pauses_out(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with log(tmp_path) as run:
        run.started(1, wait_seconds=1.0, seconds_to_first_step=0.0)
        now[0] += 2.0
        with run.paused(()):
            now[0] += 100.0
        now[0] += 2.0
        run.train(11, metrics(), wait_seconds=2.0)
        run.flush()
    expected = {"images_per_second": 10 * 8 / 4.0, "data_wait_fraction": 0.25}
    assert lines(tmp_path, "timing") == [{"step": 11, **expected}]
    assert run.summary() == {"train_seconds": 4.0, **expected}
