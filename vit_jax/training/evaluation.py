"""Evaluation that counts every example exactly once, for any task."""

import collections
import csv
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.contracts import Evaluator, Rows, in_order
from vit_jax.data.loading.loader import Loader, Share
from vit_jax.data.loading.prefetch import Prefetch
from vit_jax.figures.png import png
from vit_jax.ops.keys import example_streams
from vit_jax.parallel.strategy import Strategy
from vit_jax.system.atomic import writing
from vit_jax.training.problem import Problem, forward, without_masked_rows
from vit_jax.training.step import sum_over_devices
from vit_jax.types import Batch, Params, TrainState, Variables, encoder_of

_STEPS_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Evaluators:
    """Figures of whole datasets, beside the sums of the task's metrics.

    each: the evaluators.
    reference: examples that some of them learn from; None if none does.
    """

    each: Sequence[Evaluator] = ()
    reference: Loader | None = None

    @property
    def row_names(self) -> list[str]:
        """Rows that they need of each example."""
        return sorted({name for evaluator in self.each for name in evaluator.needs})

    @property
    def reference_row_names(self) -> list[str]:
        """Rows that they need of each reference example."""
        return sorted({name for evaluator in self.each if evaluator.uses_reference for name in evaluator.needs})

    @property
    def metrics(self) -> list[str]:
        """Names of their figures."""
        return [name for evaluator in self.each for name in evaluator.metrics]


def learned(state: TrainState) -> dict[str, Any]:
    """Return what is evaluated of a state: `params`, the moving average where there is one, and `variables`."""
    params = state.params if state.ema_params is None else state.ema_params
    return {"params": params, "variables": state.variables}


def make_eval_step(problem: Problem, *, row_names: Sequence[str] = (), axis_name: str | None = None):
    """Make `eval_step(learned, batch) -> (sums, rows)`.

    Args:
        problem: what is learned.
        row_names: what is wanted of each example: names of `Task.rows`, and `features`, the encoder's pooled vectors
            `[B, D]` float32.
        axis_name: the device axis under `pmap`; None where one program holds the whole batch.

    Returns:
        A function. Its first argument is `{"params": ..., "variables": ...}`. Its sums are name -> (sum, count) over
        the batch's unmasked examples, all devices: `loss` and the metrics of `Task.evaluation`, and `examples`, their
        number. Its rows are name -> `[B, ...]`, B being the whole batch: the wanted ones, the `index` of each example,
        and `is_example`, the batch's mask. Without `row_names` there are none.
    """
    task = problem.task.evaluation()

    def eval_step(learned: Mapping[str, Any], batch: Batch) -> tuple[dict, dict]:
        params: Params = learned["params"]
        variables: Variables = learned["variables"]
        batch = without_masked_rows(problem.prepare(None, batch))
        # Keys of the index alone, so that a figure depends on neither the run's seed nor its step.
        rngs = example_streams(jax.random.key(0), batch["index"])
        outputs, _ = forward(
            problem, batch, params=params, variables=variables, rngs=rngs, train=False, axis_name=axis_name
        )
        mask = batch["is_example"]
        examples = mask.sum()
        loss, weight = (jnp.where(mask > 0, x, 0.0).sum() for x in (task.loss(outputs, batch), task.weight(batch)))
        sums = {"loss": (loss, weight), **task.metrics(outputs, batch, train=False), "examples": (examples, examples)}
        rows = {}
        if row_names:
            known = {**task.rows, "features": lambda outputs, batch: _features(problem, params, variables, batch)}
            rows = {name: known[name](outputs, batch) for name in row_names if name != "index"}
            rows |= {"index": batch["index"], "is_example": mask}
        return sum_over_devices(sums, axis_name), _all_of_devices(rows, axis_name)

    return eval_step


def evaluate_all(
    eval_step: Callable,
    learned: Mapping[str, Any],
    loaders: Mapping[str, Loader],
    *,
    batch_size: int,
    strategy: Strategy,
    evaluators: Evaluators = Evaluators(),
    out: pathlib.Path | None = None,
    watched: Sequence[str] = (),
    watch: Callable[[str, Rows], None] = lambda name, rows: None,
) -> dict[str, float]:
    """Evaluate several datasets.

    Args:
        eval_step: as for `evaluate`, with the evaluators' rows.
        learned: placed by `strategy`.
        loaders: name of the evaluation -> dataset.
        batch_size: of all processes together.
        strategy: where it runs.
        evaluators: for figures that are no mean over the examples.
        out: folder of their files, `<out>/<name of the evaluation>/confusion.csv`; None is no files. One process
            writes.
        watched: further rows.
        watch: is called with the name of the evaluation and these rows of each of its batches.

    Returns:
        `{"test/accuracy": ..., "test/examples": ..., "test/ece": ...}`.
    """

    def run(loader: Loader, row_names: Sequence[str], add: Callable[[Rows], None]) -> dict[str, float]:
        return evaluate(
            eval_step, learned, loader, batch_size=batch_size, strategy=strategy, row_names=row_names, add=add
        )

    reference: Rows = {}
    if loaders and evaluators.reference is not None:
        parts: list[Rows] = []
        run(evaluators.reference, evaluators.reference_row_names, parts.append)
        reference = in_order(parts)
    results = {}
    for name, loader in loaders.items():
        states = [evaluator.start(reference if evaluator.uses_reference else {}) for evaluator in evaluators.each]

        def add(rows: Rows, name: str = name, states: list[Any] = states) -> None:
            watch(name, rows)
            states[:] = [evaluator.add(state, rows) for evaluator, state in zip(evaluators.each, states, strict=True)]

        figures = run(loader, sorted({*evaluators.row_names, *watched}), add)
        for evaluator, state in zip(evaluators.each, states, strict=True):
            figures |= evaluator.figures(state)
            if out is not None and jax.process_index() == 0:
                _write(out / name, evaluator.files(state))
        results |= {f"{name}/{key}": value for key, value in figures.items()}
    return results


def evaluate(
    eval_step: Callable,
    learned: Mapping[str, Any],
    loader: Loader,
    *,
    batch_size: int,
    strategy: Strategy,
    row_names: Sequence[str] = (),
    add: Callable[[Rows], None] = lambda rows: None,
) -> dict[str, float]:
    """Run a whole dataset through the evaluation step.

    Args:
        eval_step: compiled by `strategy`; (learned, batch) -> (sums, rows).
        learned: placed by `strategy`.
        loader: the dataset.
        batch_size: of all processes together; rounded up to a multiple of the strategy's slices, which changes
            nothing, since padding is masked.
        strategy: where it runs.
        row_names: of the step's rows, those that `add` gets, and `index`.
        add: takes the rows of a batch's unmasked examples, NumPy arrays `[n, ...]`, on every process. With several
            processes or devices a batch is not in the order of the records.

    Returns:
        Means of the loss and the task's metrics, name -> float, and `examples`, the number of them. Sums within a batch
        are float32, over batches float64, so that another batch size or number of devices changes no more than the
        last digits of a mean of floats, and no count. A mean over nothing is NaN.
    """
    share = Share.of_this_process(-(-batch_size // strategy.num_slices) * strategy.num_slices)
    totals: dict[str, np.ndarray] = {}

    def take(sums: dict, rows: dict) -> None:
        """Wait for a batch."""
        for name, pair in strategy.fetch(sums).items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
        if row_names:
            wanted = strategy.fetch({name: rows[name] for name in {*row_names, "index", "is_example"}})
            there = wanted.pop("is_example") > 0
            if there.any():
                add({name: x[there] for name, x in wanted.items()})

    # A few batches are under way at once, and no more, or they would pile up on the devices.
    under_way: collections.deque = collections.deque()
    with Prefetch(loader.eval_batches(share), strategy.place_batch) as batches:
        for batch in batches:
            under_way.append(eval_step(learned, batch))
            if len(under_way) == _STEPS_AHEAD:
                take(*under_way.popleft())
    while under_way:
        take(*under_way.popleft())
    examples = totals.pop("examples")[0]
    means = {name: float(total / count) if count else float("nan") for name, (total, count) in totals.items()}
    return means | {"examples": int(examples)}


def _features(problem: Problem, params: Params, variables: Variables, batch: Batch) -> jax.Array:
    """Return the encoder's pooled vectors `[B, D]` float32.

    The encoder is applied once more; the compiler finds that it is the same computation as within the model.
    """
    inside = {name: collection["encoder"] for name, collection in variables.items() if "encoder" in collection}
    features: Any = encoder_of(problem.model).apply(
        {"params": params["encoder"], **inside}, batch["image"], train=False, patch_tokens=False
    )
    return features.pooled.astype(jnp.float32)


def _all_of_devices(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.all_gather(tree, axis_name, tiled=True)


def _write(folder: pathlib.Path, files: dict[str, Any]) -> None:
    """Write tables and figures, each in one piece."""
    for name, content in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / name) as part:
            if name.endswith(".csv"):
                with part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                    csv.writer(file, lineterminator="\n").writerows(content)
            else:
                part.write_bytes(png(content))
