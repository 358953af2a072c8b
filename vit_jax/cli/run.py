"""A run that train.py steps through: everything is opened here, restored or made, and written."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from vit_jax.build.experiment import Experiment, experiment
from vit_jax.cli import workdir_files
from vit_jax.data.loading.loader import Share
from vit_jax.data.loading.prefetch import Prefetch
from vit_jax.ops.trees import leaf_names
from vit_jax.parallel import strategy as parallel
from vit_jax.system import compile_cache, terminal
from vit_jax.system.signals import StopSignals
from vit_jax.training.checkpoints.reading import last_info
from vit_jax.training.checkpoints.writing import Checkpoints
from vit_jax.training.evaluation import evaluate_all, learned, make_eval_step
from vit_jax.training.json_lines import last_values
from vit_jax.training.pace import Pace
from vit_jax.training.profile import Profile
from vit_jax.training.run_log import RunLog
from vit_jax.training.schedule import Every
from vit_jax.training.step import check_accumulate_steps
from vit_jax.types import Batch, TrainState


@contextlib.contextmanager
def open_run(config: Any, workdir: pathlib.Path, *, started: float) -> Iterator["Run"]:
    """Open a run, and closes its files and threads at the end.

    Args:
        config: locked ConfigDict with the keys of configs/common.py.
        workdir: of the run; made if need be.
        started: `time.perf_counter()` when the program started.

    Raises:
        InputError: a config, or a work directory, that cannot be used; nothing is written then.
    """
    strategy = parallel.create(**config.parallel)
    compile_cache.keep_in(workdir.parent / ".jax_cache")
    parallel.check_batch_size(config.batch_size, strategy)
    check_accumulate_steps(config.accumulate_steps, batch_size=config.batch_size, num_slices=strategy.num_slices)
    parts = experiment(config, saved_info=last_info(workdir / "checkpoints"))
    run = Run(config, workdir, parts, strategy, started)
    with contextlib.ExitStack() as closing:
        run.open(closing)
        yield run


class Run:
    """What the loop of train.py uses.

    state: placed on the devices, as the run starts or continues from it.
    stopping: whether the run ends after this step because it was asked to.
    train_step: compiled, `(state, batch) -> (state, metrics)`; the state given to it is used up.
    """

    state: TrainState
    stopping = False

    def __init__(
        self, config: Any, workdir: pathlib.Path, parts: Experiment, strategy: parallel.Strategy, started: float
    ) -> None:
        """Take the parts; `open` does the work."""
        self._config, self._workdir, self._parts, self._strategy = config, workdir, parts, strategy
        self._started = started
        total_steps = parts.total_steps
        self.train_step = strategy.compile_train_step(parts.make_train_step(strategy.axis_name))
        self._eval_step = strategy.compile_eval_step(
            make_eval_step(parts.problem, row_names=parts.evaluators.row_names, axis_name=strategy.axis_name)
        )
        self._log_every = Every(config.log_every_steps, total_steps)
        self._evaluate_every = Every(config.evaluation.every_steps, total_steps)
        self._save_every = Every(config.checkpoint.every_steps, total_steps)
        self._profile = Profile(workdir / "profile", total_steps=total_steps, **config.profile)
        self._step = 0

    def open(self, closing: contextlib.ExitStack) -> None:
        """Restore or makes the state, and opens files, signals and the stream of batches."""
        config, parts, strategy = self._config, self._parts, self._strategy
        make_state = functools.partial(parts.init, config.seed, parts.example)
        template = strategy.abstract_state(make_state)
        self._checkpoints = self._make_checkpoints(template)
        closing.enter_context(workdir_files.locked(self._workdir))
        closing.enter_context(self._checkpoints)
        restored = self._checkpoints.restore(template, parts.info, max_step=parts.total_steps)
        state = restored.state if restored else strategy.new_state(make_state)
        self._step = self._start_step = restored.step if restored else 0
        changes = workdir_files.save_config(self._workdir, config, write=self._step < parts.total_steps)
        self._log = closing.enter_context(
            RunLog(
                self._workdir,
                start_step=self._start_step,
                total_steps=parts.total_steps,
                batch_size=config.batch_size,
                fetch=strategy.fetch,
                leaf_names=leaf_names(parts.optimizer.split(state.params)[0]),
                max_skipped_steps=config.max_skipped_steps,
            )
        )
        notes = [workdir_files.opening_line(config, parts, state.params, strategy, self._workdir)]
        notes += strategy.notes(state.params)
        notes += workdir_files.resume_notes(restored, changes, total_steps=parts.total_steps)
        if restored is not None and (note := self._profile.note(restored.step)):
            notes.append(note)
        if restored is None:
            state, more = parts.prepare_state(state)
            notes += more
        if self._start_step < parts.total_steps:
            notes.append("compiling the train step")
        for note in notes:
            self._log.print(note)
        self.state = strategy.place_state(state)
        stream = parts.train_loader.train_batches(
            Share.of_this_process(config.batch_size),
            seed=config.seed,
            start_step=self._start_step,
            total_steps=parts.total_steps,
        )
        self._stop = closing.enter_context(StopSignals())
        self._pace = Pace(closing.enter_context(Prefetch(stream, strategy.place_batch)))
        closing.enter_context(self._profile)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Return the number of each step that is left, from 1, and its batch, placed on the devices."""
        while self._step < self._parts.total_steps:
            batch = self._pace.next_batch()
            self._step += 1
            yield self._step, batch

    def trace(self, name: str, step: int) -> Any:
        """Return a context whose time a profile shows under a name."""
        return jax.profiler.StepTraceAnnotation(name, step_num=step)

    def submitted(self, step: int, metrics: Any) -> None:
        """Take note of a step that was handed to the devices; waits for the first one, which compiles."""
        self._pace.submitted(metrics)
        if step == self._start_step + 1:
            jax.block_until_ready(metrics)
            seconds = time.perf_counter() - self._started
            self._log.started(step, self._pace.wait_seconds, seconds_to_first_step=seconds)
        if self._profile.after(step, metrics):
            steps, folder = self._config.profile.num_steps, self._profile.directory
            self._log.print(f"a trace of {steps} steps is in {folder}")

    def log_is_due(self, step: int) -> bool:
        """Tell whether the metrics of a step are logged."""
        return self._log_every.is_due(step)

    def log_metrics(self, step: int, metrics: Any) -> None:
        """Log the metrics of the steps since the last log."""
        with jax.profiler.TraceAnnotation("log"):
            self._log.train(step, metrics, self._pace.wait_seconds)

    def evaluation_is_due(self, step: int) -> bool:
        """Tell whether the model is evaluated after a step."""
        return self._evaluate_every.is_due(step)

    def evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        """Evaluate the model on every split and logs the figures."""
        placed = learned(state)
        with self._log.paused(placed):
            results = evaluate_all(
                self._eval_step,
                placed,
                self._parts.eval_loaders,
                batch_size=self._config.evaluation.batch_size,
                strategy=self._strategy,
                evaluators=self._parts.evaluators,
                out=self._workdir / "evaluation" / f"step_{step}",
            )
        self._log.evaluation(step, results)
        return results

    def stops_after(self, step: int) -> bool:
        """Tell whether the run was asked to stop; the same answer in all processes."""
        self.stopping = self._stop.agreed(step)
        return self.stopping

    def save_is_due(self, step: int, results: dict[str, float]) -> bool:
        """Tell whether a checkpoint is due; every evaluation is saved where the best one is kept."""
        return self._save_every.is_due(step) or bool(results and self._config.checkpoint.best_metric)

    def save(self, step: int, state: TrainState, results: dict[str, float]) -> None:
        """Start to save a checkpoint.

        Raises:
            TrainingDiverged: the state did not change for too many steps.
        """
        self._log.flush()  # the lines of a step are on disk before its checkpoint
        self._log.raise_if_diverged(step, *self._strategy.fetch((state.skipped_in_row, state.nonfinite_leaf)))
        with jax.profiler.TraceAnnotation("save"):
            self._checkpoints.save(step, self._strategy.snapshot(state), self._parts.info, results)

    def end(self) -> int:
        """Finish what is under way and gives the exit status."""
        self._log.flush()
        self._checkpoints.wait()
        if self.stopping:
            self._log.print(f"stopped at step {self._step}, which is saved; the same command continues")
            return self._stop.exit_status()
        if jax.process_index() == 0:
            values = last_values(self._workdir / "metrics.jsonl")
            terminal.say_lines(workdir_files.final_table(self._workdir, self._step, values, self._log.summary()))
        return 0

    def _make_checkpoints(self, template: TrainState) -> Checkpoints:
        options = self._config.checkpoint
        # Those of the evaluation, which a task may have others of than in training.
        sums, _ = jax.eval_shape(make_eval_step(self._parts.problem), learned(template), self._parts.example)
        metrics = [name for name in sums if name != "examples"] + self._parts.evaluators.metrics
        return Checkpoints(
            self._workdir / "checkpoints",
            keep_last=options.keep_last,
            best_metric=options.best_metric,
            best_mode=options.best_mode,
            known_metrics=[f"{name}/{metric}" for name in self._parts.eval_loaders for metric in metrics],
        )
