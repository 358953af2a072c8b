"""train.py as a whole: what it writes, that it resumes exactly, how it stops, what it refuses."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT, small_config

import train
from benchmarks import kill_and_resume
from vit_jax.build.experiment import step_alone
from vit_jax.cli import flags
from vit_jax.errors import InputError, TrainingDiverged
from vit_jax.training.checkpoints import reading


def assert_equal_runs(left: pathlib.Path, right: pathlib.Path, step: int):
    """All of the saved state and all metrics, byte for byte."""
    assert kill_and_resume.first_difference(left, right, step) is None


def command(workdir, *arguments):
    small = [
        f"--config.{key.replace('__', '.')}={value}"
        for key, value in small_config().to_dict().items()
        if key in ("num_steps", "batch_size", "log_every_steps")
    ]
    return [sys.executable, "train.py", f"--workdir={workdir}", *small, *arguments]


def run(workdir, *arguments, **environment):
    return subprocess.run(
        command(workdir, *arguments),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_work_directory_holds_what_was_promised(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["model"]["options"]["depth"] == 1 and config["num_steps"] == 12
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 6, 8, 12]
    assert {"train/loss", "train/accuracy", "train/learning_rate", "train/gradient_norm"} <= lines[0].keys()
    assert lines[-1]["test/examples"] == 360 and lines[-1]["train/examples_seen"] == 12 * 48
    assert 0.0 <= lines[-1]["test/accuracy"] <= 1.0
    assert list(trained.glob("events.out.tfevents.*"))
    assert reading.steps_in(trained / "checkpoints") == [6, 12]
    info = reading.read_info(trained / "checkpoints", 12)
    assert (info["format"], info["fields"]["label"]["names"]) == (2, list("0123456789"))
    assert info["preprocessing"]["image_size"] == [8, 8]


def test_training_learns(tmp_path, capsys):
    assert train.train(small_config(num_steps=150, optimizer__learning_rate=2e-2), tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train/loss"] < 0.8 * lines[0]["train/loss"]
    assert f"vit-jax predict --model {tmp_path / 'run'} IMAGE..." in capsys.readouterr().out


class StopAt:
    """Sends a signal to this process once so many batches were taken from the training stream."""

    def __init__(self, monkeypatch, step, number=signal.SIGTERM):
        from vit_jax.data.loading.prefetch import Prefetch

        original, count = Prefetch.__next__, [0]

        def taken(prefetch):
            item = original(prefetch)
            if "is_example" not in item:  # not an evaluation's
                count[0] += 1
                if count[0] == step:
                    os.kill(os.getpid(), number)
            return item

        monkeypatch.setattr(Prefetch, "__next__", taken)


def test_a_signal_saves_and_the_resumed_run_equals_an_uninterrupted_one(trained, tmp_path, monkeypatch, capsys):
    stops = [(signal.SIGTERM, 143, 5, [5]), (signal.SIGINT, 130, 3, [6, 8])]  # the second three steps after the first
    for number, status, steps, saved in stops:
        with monkeypatch.context() as patch:
            StopAt(patch, steps, number)
            assert train.train(small_config(), tmp_path) == status
        assert reading.steps_in(tmp_path / "checkpoints") == saved
        assert f"stopped at step {saved[-1]}" in capsys.readouterr().err
    assert train.train(small_config(), tmp_path) == 0
    assert "resuming after step 8" in capsys.readouterr().err
    assert_equal_runs(trained, tmp_path, 12)


def test_sigkill_and_resume_equals_an_uninterrupted_run(trained, tmp_path):
    """Killed once its first checkpoint stands, in the middle of what follows."""
    script = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "import pathlib, train\n"
        "from conftest import small_config\n"
        "from vit_jax.data.loading.prefetch import Prefetch\n"
        "original = Prefetch.__next__\n"
        "def slow(self):\n"
        "    import time; time.sleep(0.2)\n"
        "    return original(self)\n"
        "Prefetch.__next__ = slow\n"
        f"train.train(small_config(), pathlib.Path({str(tmp_path)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not reading.steps_in(tmp_path / "checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert reading.steps_in(tmp_path / "checkpoints") == [6]
    assert train.train(small_config(), tmp_path) == 0
    assert_equal_runs(trained, tmp_path, 12)


def test_a_finished_run_is_left_as_it_is(trained, tmp_path, capsys):
    again = shutil.copytree(trained, tmp_path / "again")
    assert train.train(small_config(), again) == 0
    assert_equal_runs(trained, again, 12)
    out, err = capsys.readouterr()
    assert "test/accuracy" in out and "already finished at step 12: nothing was trained" in err


def test_a_finished_run_keeps_the_config_it_was_trained_with(trained, tmp_path):
    again = shutil.copytree(trained, tmp_path / "again")
    assert train.train(small_config(optimizer__learning_rate=7.0), again) == 0
    assert (again / "config.json").read_text() == (trained / "config.json").read_text()


def test_a_second_run_in_the_same_work_directory_is_refused(tmp_path):
    from vit_jax.cli import workdir_files

    with workdir_files.locked(tmp_path / "run"), pytest.raises(InputError, match=r"another run is at work in .*run"):
        train.train(small_config(), tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == [".lock"]


def test_another_optimizer_is_refused_by_name(trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    with pytest.raises(InputError, match="optimizer is adamw there and sgd here"):
        train.train(small_config(optimizer__name="sgd"), other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx = (", r"config file .*mine.py, line 2: SyntaxError: '\(' was never closed$"),
        ("x = 1", r"mine.py has no get_config\(\); valid: one that gives a config"),
        ("def get_config(): return {}", "gives a dict; valid: a ConfigDict"),
        ("def get_config():\n  return 1 / 0", "mine.py, line 2: ZeroDivisionError: division by zero$"),
        ("def get_config(): raise ValueError('no such recipe')", "mine.py, line 1: no such recipe$"),
        (
            "from configs import common\ndef get_config():\n c = common.get_config(); c.optimizer.learning_rat = 1\n"
            " return c.lock()",
            "sets 'optimizer.learning_rat', which is no key; nearest: 'optimizer.learning_rate'",
        ),
        (
            "from configs import common\ndef get_config():\n c = common.get_config(); c.zzzzz = 1\n return c.lock()",
            "sets 'zzzzz', which is no key; configs/common.py lists all",
        ),
        (
            "from configs import common\ndef get_config():\n c = common.get_config(); del c.seed\n return c.lock()",
            "lacks 'seed'",
        ),
    ],
)
def test_a_bad_config_file_is_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, pathlib.Path()):
        with pytest.raises(InputError, match=message):
            parsed(f"--config={folder / 'mine.py'}")


def parsed(*arguments):
    """The config of a command line; the work directory is given, since flags stay as they are for the next one."""
    config, _ = flags.parse(["train.py", "--workdir=runs/a", *arguments], root=ROOT)
    return config


WITH_ARGUMENT = """
from configs import common

def get_config(augmentation):
    config = common.get_config()
    common.set_augreg(config, augmentation)
    return config.lock()
"""


def test_a_config_file_may_take_an_argument(tmp_path):
    (tmp_path / "mine.py").write_text(WITH_ARGUMENT)
    code = (
        "import pathlib, sys; from vit_jax.cli import flags\n"
        "config, workdir = flags.parse(sys.argv, root=pathlib.Path().resolve())\n"
        "augment = config.data.augment\n"
        "print(augment.mix.mixup_alpha, augment.randaugment.magnitude, config.seed, workdir)"
    )
    parse = [sys.executable, "-c", code, f"--config={tmp_path}/mine.py:medium1", "--config.seed=3"]
    result = subprocess.run(parse, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stdout == "0.2 15.0 3 runs/mine-medium1\n", result.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (":odd", " with argument 'odd', line 6: no augmentation 'odd'; valid: none, light1"),
        ("", " takes an argument, augmentation; valid: --config=.*mine.py:VALUE$"),
    ],
)
def test_a_config_files_argument_may_be_wrong(tmp_path, argument, message):
    (tmp_path / "mine.py").write_text(WITH_ARGUMENT)
    with pytest.raises(InputError, match=f"mine.py{message}"):
        parsed(f"--config={tmp_path}/mine.py{argument}")


def test_a_longer_run_continues(trained, tmp_path, capsys):
    longer = shutil.copytree(trained, tmp_path / "longer")
    assert train.train(small_config(num_steps=14), longer) == 0
    shown = capsys.readouterr().err
    assert "resuming after step 12" in shown and "config changed since: num_steps: 12 -> 14" in shown
    assert reading.steps_in(longer / "checkpoints")[-1] == 14


def test_a_run_continues_with_scanned_blocks_and_without_again(trained, tmp_path):
    plain, scanned = (shutil.copytree(trained, tmp_path / name) for name in ("plain", "scanned"))
    assert train.train(small_config(num_steps=14), plain) == 0
    assert (
        train.train(small_config(num_steps=14, model__options__scan=True, model__options__remat="full"), scanned) == 0
    )
    states = []
    for run in (plain, scanned):
        with ocp.StandardCheckpointer() as checkpointer:
            states.append([checkpointer.restore(run / "checkpoints" / "14" / name) for name in ("params", "rest")])
    chex.assert_trees_all_close(*states, atol=1e-5)
    infos = [reading.read_info(run / "checkpoints", 14) for run in (plain, scanned)]
    assert infos[0] == infos[1]
    assert train.train(small_config(num_steps=15), scanned) == 0


def test_another_model_is_refused_and_nothing_changes(trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    before = {file: file.read_bytes() for file in other.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match=r"model.hidden_dim is 16 there and 32 here"):
        train.train(small_config(model__options__hidden_dim=32), other)
    assert {file: file.read_bytes() for file in other.rglob("*") if file.is_file()} == before


def test_divergence_ends_the_run_and_what_it_advises_continues_it(tmp_path, capsys):
    changes = {"max_skipped_steps": 3, "log_every_steps": 50, "checkpoint__every_steps": 2, "num_steps": 60}
    # Beyond float32's range: no update is finite, and every step is skipped.
    broken = {"optimizer__learning_rate": 1e39, "optimizer__clip_norm": 0.0, "optimizer__warmup_steps": 0}
    with pytest.raises(TrainingDiverged, match=r"in a row.*update of encoder/\S+ in step 1\b.*clip_norm"):
        train.train(small_config(**changes, **broken), tmp_path)
    assert reading.steps_in(tmp_path / "checkpoints") == [2]
    assert train.train(small_config(**changes, optimizer__clip_norm=1.0), tmp_path) == 0
    assert "resuming after step 2" in capsys.readouterr().err


def test_each_evaluation_is_saved_where_the_best_is_kept(tmp_path):
    config = small_config(evaluation__every_steps=4, checkpoint__every_steps=0, checkpoint__keep_last=3)
    assert train.train(config, tmp_path) == 0
    assert reading.steps_in(tmp_path / "checkpoints") == [4, 8, 12]


def test_a_signal_after_the_last_step_of_a_finished_run_changes_nothing(trained, tmp_path, monkeypatch):
    again = shutil.copytree(trained, tmp_path / "again")
    from vit_jax.training.pace import Pace

    monkeypatch.setattr(Pace, "__init__", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert train.train(small_config(), again) == 0
    assert_equal_runs(trained, again, 12)


def test_streaming_trains_like_memory(trained, tmp_path):
    assert train.train(small_config(data__in_memory=False), tmp_path) == 0
    assert_equal_runs(trained, tmp_path, 12)


BAD = [
    ("--config=configs/nope.py:light1", "configs/nope.py does not exist"),
    (
        "--config=configs/digits.py:light1",
        "configs/digits.py takes no argument, 'light1'; valid: --config=configs/digits.py",
    ),
    ("--config=configs/nope.py", "config configs/nope.py does not exist; valid: a Python file, cifar10"),
    ("--config.optimizer.learning_ratee=1", "'optimizer.learning_ratee'; nearest: 'optimizer.learning_rate'"),
    ("--config.zzzzz=1", "the config has no key 'zzzzz'; configs/common.py lists all"),
    ("--config.model.patch_size=8", "no key 'model.patch_size'; valid: model.variant, whose last part it is, as in"),
    ("--config.model.dropout=0.1", "no key 'model.dropout'; valid: model.options.dropout"),
    ("--config.task.label_smoothing=0.1", "no key 'task.label_smoothing'; valid: task.options.label_smoothing"),
    ("--config.model.options.dropuot=0.1", "model 'vit' has no option 'dropuot'; nearest: 'dropout'"),
    ("--config.seed=x", "--config.seed=x"),
    ("--config=tests", "config tests is no Python file; valid: a Python file, cifar10"),
    ("--config=", "config '' does not exist; valid: a Python file, cifar10"),
    ("--confg=x", "confg"),
    ("stray", "stray"),
    ("--config=configs/common.py", "configs/common.py is what configs start from"),
]


@pytest.mark.parametrize(("argument", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_command_line_is_refused(argument, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError) as caught:
        parsed(argument)
    assert message in str(caught.value)


def test_options_on_the_command_line_reach_the_config():
    config = parsed(
        "--config.model.options.drop_path=0.2", "--config.task.options.loss_type=sigmoid", "--config.seed=3"
    )
    assert (config.model.options.drop_path, config.task.options.loss_type, config.seed) == (0.2, "sigmoid", 3)
    assert config.is_locked and parsed().task.options.to_dict() == {"label_smoothing": 0.1}


def test_a_bad_command_line_is_one_line_and_status_2(tmp_path):
    result = run(tmp_path / "run", "--config.model.dropout=0.1")
    assert result.returncode == 2
    assert "model.options.dropout" in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == "" and not (tmp_path / "run").exists()


BAD_CONFIGS = [
    ({"model__name": "vitt"}, "unknown model 'vitt' .did you mean 'vit'"),
    ({"model__variant": "X/16"}, "no variant 'X/16'; valid: Ti/16"),
    ({"model__variant": "Ti/9"}, "8x8 px is smaller than the patch size 9x9"),
    ({"model__options__pooling": "max"}, "'max'; valid: token, gap, map"),
    ({"task__name": "clasification"}, "unknown task 'clasification'"),
    ({"task__options__loss_typ": "sigmoid"}, "task 'classification' has no option 'loss_typ'; nearest: 'loss_type'"),
    ({"task__options__loss_type": "hinge"}, "'hinge'; valid: softmax, sigmoid"),
    ({"data__name": "digts"}, "unknown dataset 'digts'; nearest: digits"),
    ({"data__split": "tran"}, "no split 'tran'; valid: train, test"),
    ({"evaluation__splits__test": "tst"}, "no split 'tst'; valid: train, test"),
    ({"batch_size": 44}, "batch_size 44 is not a multiple of the 8 devices; valid: 40, 48"),
    ({"batch_size": 0}, "batch_size 0"),
    ({"num_steps": 0}, "gives 0 steps"),
    ({"ema_decay": 1.0}, "ema_decay is 1.0"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**63}, "seed is 9223372036854775808; valid: 0 or more, below 2"),
    ({"num_epochs": float("nan")}, "num_epochs is nan; valid: a finite number above 0"),
    ({"checkpoint__every_steps": -1}, "checkpoint.every_steps is -1; valid: 0 or more"),
    ({"evaluation__every_steps": -1}, "evaluation.every_steps is -1; valid: 0 or more"),
    ({"data__mean": ("(nan,)",)}, "data.mean is .*; valid: 1 numbers"),
    ({"data__std": (float("inf"),)}, "data.std is .inf,.; valid: 1 numbers"),
    ({"max_skipped_steps": 0}, "max_skipped_steps is 0"),
    ({"accumulate_steps": 4}, "accumulate_steps is 4, which .* the 6 examples of each device; valid: 1, 2, 3, 6$"),
    ({"accumulate_steps": 0}, "accumulate_steps is 0"),
    ({"optimizer__moment_dtype": "float16"}, "moment_dtype is 'float16'; valid: float32, bfloat16"),
    ({"parallel__strategy": "ring"}, "'ring'; valid: pmap"),
    ({"parallel__fsdp": 2}, "parallel.strategy 'pmap' does not have"),
    ({"parallel__strategy": "mesh", "parallel__fsdp": 3}, "are -1, 3, 1, but there are 8 devices"),
    ({"parallel__strategy": "mesh", "parallel__tensor": 8}, "parallel.tensor is 8, which does not divide the 2 att"),
    ({"optimizer__name": "adamm"}, "'adamm'; valid: adamw, adam, sgd"),
    ({"optimizer__schedule": "cosin"}, "'cosin'; valid: constant"),
    ({"optimizer__freeze": ("nothing",)}, "'nothing' matches no parameter"),
    ({"data__augment": {"random_crop": {}}}, "in_memory"),
    ({"data__augment": {"shift": {"pixels": -1}}}, "data.augment.shift.pixels is -1"),
    ({"data__augment": {"erase": {"probability": 1.5}}}, "data.augment.erase.probability is 1.5; valid: 0 to 1"),
    ({"data__augment": {"randaugmnt": {}}}, "unknown augmentation 'randaugmnt' .did you mean 'randaugment'"),
    ({"data__augment": {"flip": {"often": 1}}}, "augmentation 'flip' has no option 'often'"),
    ({"data__num_workers": -1}, "num_workers is -1"),
    ({"data__repeats": 0}, "data.repeats is 0; valid: 1 or more"),
    ({"evaluation__batch_size": 0}, "evaluation.batch_size is 0"),
    ({"optimizer__learning_rate": float("nan")}, "learning_rate is nan"),
    ({"optimizer__eps": -1.0}, "eps is -1.0"),
    ({"checkpoint__best_metric": "test/acuracy"}, "'test/acuracy'; valid: test/accuracy"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CONFIGS, ids=[str(changes) for changes, _ in BAD_CONFIGS])
def test_a_bad_config_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train.train(small_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pixels_that_no_patch_covers_are_told_before_the_first_step():
    with pytest.warns(UserWarning, match="data.image_size is 8x8 px, .* leave out the last 2 rows and 2 columns"):
        step_alone(small_config(model__variant="Ti/3"))


def test_a_work_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    result = run(tmp_path / "file" / "run")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert str(tmp_path / "file") in result.stderr


def test_help_shows_an_example():
    result = run("unused", "--help")
    assert result.returncode == 0 and "python train.py --config=configs/digits.py" in result.stdout


def test_each_step_is_compiled_once(tmp_path, caplog):
    """Training, evaluations with a last batch that is not full, saves, logs: one program a kind of step."""
    config = small_config(num_steps=6, evaluation__every_steps=2, evaluation__batch_size=80)
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        assert train.train(config, tmp_path / "run") == 0
    programs = [line for line in caplog.messages if line.startswith("Compiling") and "uint8[" in line]
    assert len(programs) == 2  # what takes images: six of a device's in training, ten in evaluation
    assert "uint8[8,6,8,8,1]" in programs[0] and "uint8[8,10,8,8,1]" in programs[1]
