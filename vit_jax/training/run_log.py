"""What a run writes down: metrics.jsonl, timing.jsonl, TensorBoard event files, progress lines."""

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import jax

from vit_jax.errors import TrainingDiverged
from vit_jax.system.progress import ProgressLine
from vit_jax.training import json_lines
from vit_jax.training.speed import Point, Stopwatch, speed_between

_STEP_FIGURES = (
    "loss",
    "gradient_norm",
    "learning_rate",
    "skipped_steps",
    "skipped_in_row",
    "nonfinite_leaf",
    "examples_seen",
)
"""What is logged of a train step for every task."""


def first_task_metric(values: Mapping[str, Any]) -> str | None:
    """Find the first metric of the task among a step's values, `train/accuracy`; None if it has none.

    Example:
        >>> first_task_metric({"train/gradient_norm": 1.0, "train/psnr": 23.1, "test/psnr": 22.0})
        'train/psnr'
    """
    names = [key.removeprefix("train/") for key in values if key.startswith("train/")]
    return next((f"train/{name}" for name in names if name not in _STEP_FIGURES), None)


@dataclasses.dataclass
class _Pending:
    """A line of metrics.jsonl that is not written yet, since the device may still be working on it."""

    step: int
    device: Any = None
    wait_seconds: float = 0.0
    clock_seconds: float = 0.0
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    timing: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped_in_row: int = 0
    nonfinite_leaf: int = -1


class RunLog:
    """Writes the metrics of a run and shows its progress.

    metrics.jsonl holds what depends on the config alone, so that a resumed run writes the very lines that an
    uninterrupted one does; speeds go to timing.jsonl. Metrics of a step are fetched from the device when those of
    the next are due, so that the device never waits for the log.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        start_step: int,
        total_steps: int,
        batch_size: int,
        fetch: Callable[[Any], Any],
        leaf_names: list[str],
        max_skipped_steps: int,
        stream: TextIO | None = None,
    ) -> None:
        """Open the files, and cuts off lines of steps after start_step, which a run wrote that got further.

        Args:
            workdir: where metrics.jsonl, timing.jsonl and the event files are.
            start_step: the step resumed from, or 0.
            total_steps: the run's length.
            batch_size: examples in a step.
            fetch: copies metrics off the devices.
            leaf_names: of the trainable parameters, to name one whose gradient or update is not finite.
            max_skipped_steps: number of skipped steps in a row that ends the run.
            stream: where progress goes; None is standard error.
        """
        from tensorboardX import SummaryWriter  # takes a while, so only where a run starts

        self._writes = jax.process_index() == 0
        self._workdir = workdir
        self._files = {name: workdir / f"{name}.jsonl" for name in ("metrics", "timing")}
        if self._writes:
            for file in self._files.values():
                json_lines.cut_after(file, start_step)
        self._tensorboard = SummaryWriter(str(workdir), purge_step=start_step + 1, write_to_disk=self._writes)
        self._fetch, self._leaf_names, self._max_skipped_steps = fetch, leaf_names, max_skipped_steps
        self._batch_size, self._total_steps = batch_size, total_steps
        self._pending: _Pending | None = None
        shown = (stream or sys.stderr) if self._writes else None  # standard error is None if it is closed
        self._progress = ProgressLine(shown or open(os.devnull, "w"))  # noqa: SIM115
        self._clock = Stopwatch()
        self._first = self._last = Point(start_step, 0.0, 0.0)  # where the clock starts, and the last log

    def started(self, step: int, wait_seconds: float, *, seconds_to_first_step: float) -> None:
        """Start the clock once the first step, which compiles, is done."""
        self._progress.print(f"first step after {seconds_to_first_step:.1f} s, compilation included")
        self._clock.restart()
        self._first = self._last = Point(step, 0.0, wait_seconds)

    def train(self, step: int, metrics: Any, wait_seconds: float) -> None:
        """Take the metrics of a step, still on the devices, and writes those of the one before.

        Args:
            step: done so far.
            metrics: name -> (sum, count).
            wait_seconds: that the run has waited for data so far.
        """
        self.flush()
        self._pending = _Pending(step, metrics, wait_seconds, self._clock.seconds())

    def evaluation(self, step: int, results: dict[str, float]) -> None:
        """Take the results of the evaluations after a step, `test/accuracy`."""
        if self._pending is None or self._pending.step != step:
            self.flush()
            self._pending = _Pending(step)
        self._pending.values |= results
        figures = ", ".join(f"{key} {_short(value)}" for key, value in results.items())
        self._progress.print(f"step {step}: {figures}")

    def flush(self) -> None:
        """Write what is pending; waits for the devices if need be.

        Raises:
            TrainingDiverged: too many steps in a row were skipped.
        """
        self._fetch_pending()
        pending, self._pending = self._pending, None
        if pending is None:
            return
        self._write("metrics", pending.step, pending.values)
        self._write("timing", pending.step, pending.timing)
        for key, value in (pending.values | {f"timing/{k}": v for k, v in pending.timing.items()}).items():
            self._tensorboard.add_scalar(key, value, pending.step)
        self.raise_if_diverged(pending.step, pending.skipped_in_row, pending.nonfinite_leaf)

    def raise_if_diverged(self, step: int, skipped_in_row: int, nonfinite_leaf: int) -> None:
        """Raise TrainingDiverged, which names the first leaf concerned, if too many steps were skipped in a row."""
        if skipped_in_row < self._max_skipped_steps:
            return
        culprit = "the loss"
        if nonfinite_leaf < len(self._leaf_names):
            culprit = f"the gradient or update of {self._leaf_names[nonfinite_leaf]}"
        raise TrainingDiverged(
            f"{skipped_in_row} steps in a row up to step {step} had a loss, gradient or update that is not finite; "
            f"first: {culprit} in step {step - skipped_in_row + 1}. Nothing changed since and nothing more was saved; "
            "valid: resume with a lower optimizer.learning_rate or with optimizer.clip_norm"
        )

    @contextlib.contextmanager
    def paused(self, busy: Any) -> Iterator[None]:
        """Stop the training clock, for an evaluation, once the devices are done with `busy`."""
        self._fetch_pending()
        jax.block_until_ready(busy)
        with self._clock:
            yield

    def summary(self) -> dict[str, float]:
        """Return seconds, images/s and share of waiting since the first step; empty if nothing was timed."""
        speed = speed_between(self._first, self._last, batch_size=self._batch_size)
        return {"train_seconds": self._last.seconds, **speed} if speed else {}

    def print(self, line: str) -> None:
        """Print a line above the progress line."""
        self._progress.print(line)

    def __enter__(self) -> "RunLog":
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files; what is pending is not written."""
        self._progress.close()
        with _named(self._workdir):
            self._tensorboard.close()

    def _fetch_pending(self) -> None:
        """Copy what is pending off the devices, waiting for them if need be, and shows it."""
        pending = self._pending
        if pending is None or pending.device is None:
            return
        leaves: list[Any] = jax.tree.leaves(pending.device)
        done = all(leaf.is_ready() for leaf in leaves if hasattr(leaf, "is_ready"))
        sums = self._fetch(pending.device)
        pending.device = None
        # 0 / 0, if every step since the last log was skipped; what is not finite is null in JSON.
        means = {name: float(total) / float(count) if count else float("nan") for name, (total, count) in sums.items()}
        pending.skipped_in_row = int(means.pop("skipped_in_row"))
        pending.nonfinite_leaf = int(means.pop("nonfinite_leaf"))
        means["skipped_steps"] = int(means["skipped_steps"])
        means["examples_seen"] = pending.step * self._batch_size
        pending.values = {f"train/{name}": value for name, value in means.items()} | pending.values
        # The host is at most a few steps ahead: a step that is long done was done about when it was handed over.
        pending.timing = self._timing(pending, pending.clock_seconds if done else self._clock.seconds())
        self._show(pending)

    def _timing(self, pending: _Pending, seconds: float) -> dict[str, float]:
        """Speed since the step logged before this one; `seconds` is the clock when this one was done."""
        now = Point(pending.step, seconds, pending.wait_seconds)
        speed = speed_between(self._last, now, batch_size=self._batch_size)
        if speed:
            self._last = now
            speed["data_wait_fraction"] = min(speed["data_wait_fraction"], 1.0)
        return speed

    def _show(self, pending: _Pending) -> None:
        values, timing = pending.values, pending.timing
        parts = [f"step {pending.step}/{self._total_steps}", f"loss {_short(values['train/loss'])}"]
        if metric := first_task_metric(values):
            parts.append(f"{metric.removeprefix('train/').replace('_', ' ')} {_short(values[metric])}")
        parts.append(f"lr {values['train/learning_rate']:.2e}")
        if timing:
            rate = timing["images_per_second"]
            left = (self._total_steps - pending.step) * self._batch_size / rate
            parts += [f"{rate:,.0f} images/s", f"{_duration(left)} left"]
            parts.append(f"waiting for data {timing['data_wait_fraction']:.1%}")
        if values["train/skipped_steps"]:
            parts.append(f"{values['train/skipped_steps']} steps skipped")
        self._progress.show(" | ".join(parts), last=pending.step == self._total_steps)

    def _write(self, name: str, step: int, values: dict[str, float]) -> None:
        if values and self._writes:
            with _named(self._files[name]):
                json_lines.append(self._files[name], step, values)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Add the path to an OSError of a write, which does not say where."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
