"""Evaluation that counts every example exactly once."""

import collections
import csv
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.data.loading.loader import Loader, Prefetch, Share
from vit_jax.parallel.strategy import Strategy
from vit_jax.system.atomic import writing
from vit_jax.types import Evaluator, Params, Rows

_STEPS_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Evaluators:
    """What is found out about whole datasets, beside the sums of the task's metrics.

    each: the evaluators.
    reference: the examples that some of them learn from; None if none does.
    """

    each: Sequence[Evaluator] = ()
    reference: Loader | None = None

    @property
    def row_names(self) -> list[str]:
        """What they need of each example."""
        return sorted({name for evaluator in self.each for name in evaluator.needs})

    @property
    def reference_row_names(self) -> list[str]:
        """What they need of each reference example."""
        return sorted({name for evaluator in self.each if evaluator.uses_reference for name in evaluator.needs})

    @property
    def metrics(self) -> list[str]:
        """The names of their figures."""
        return [name for evaluator in self.each for name in evaluator.metrics]


def evaluate_all(
    eval_step: Callable,
    params: Params,
    loaders: dict[str, Loader],
    *,
    batch_size: int,
    strategy: Strategy,
    evaluators: Evaluators = Evaluators(),
    out: pathlib.Path | None = None,
) -> dict[str, float]:
    """Evaluates several datasets.

    Args:
        eval_step: as for `evaluate`, with the evaluators' rows.
        params: placed by `strategy`.
        loaders: name of the evaluation -> dataset.
        batch_size: of all processes together.
        strategy: where it runs.
        evaluators: for figures that are no mean over the examples.
        out: where their files go, `<out>/<name of the evaluation>/confusion.csv`; None is no files. One process
            writes.

    Returns:
        `{"test/accuracy": ..., "test/examples": ..., "test/ece": ...}`.
    """

    def run(loader: Loader, row_names: Sequence[str]) -> tuple[dict[str, float], Rows]:
        return evaluate(eval_step, params, loader, batch_size=batch_size, strategy=strategy, row_names=row_names)

    reference: Rows = {}
    if loaders and evaluators.reference is not None:
        _, reference = run(evaluators.reference, evaluators.reference_row_names)
    results = {}
    for name, loader in loaders.items():
        figures, rows = run(loader, evaluators.row_names)
        for evaluator in evaluators.each:
            figures |= evaluator.figures(rows, reference)
            if out is not None and jax.process_index() == 0:
                _write(out / name, evaluator.files(rows))
        results |= {f"{name}/{key}": value for key, value in figures.items()}
    return results


def evaluate(
    eval_step: Callable,
    params: Params,
    loader: Loader,
    *,
    batch_size: int,
    strategy: Strategy,
    row_names: Sequence[str] = (),
) -> tuple[dict[str, float], Rows]:
    """Runs a whole dataset through the evaluation step.

    Args:
        eval_step: compiled by `strategy`; (params, batch) -> (sums, rows).
        params: placed by `strategy`.
        loader: the dataset.
        batch_size: of all processes together; rounded up to a multiple of the strategy's slices, which changes
            nothing, since padding is masked.
        strategy: where it runs.
        row_names: which of the step's rows to keep.

    Returns:
        Means of the task's metrics, name -> float, and `examples`, how many there were. Sums within a batch are
        float32, over batches float64, so that another batch size or number of devices changes no more than the last
        digits of a mean of floats, and no count.

        The rows of the examples, name -> `[n, ...]`, in the order of their records, on every process.
    """
    share = Share.of_this_process(-(-batch_size // strategy.num_slices) * strategy.num_slices)
    totals: dict[str, np.ndarray] = {}
    parts: list[Rows] = []

    def take(sums: dict, rows: dict) -> None:
        """Waits for a batch."""
        for name, pair in strategy.fetch(sums).items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
        if row_names:
            wanted = strategy.fetch({name: rows[name] for name in (*row_names, "index", "mask")})
            parts.append({name: x[wanted["mask"] > 0] for name, x in wanted.items()})

    # A few batches are under way at once, and no more, or they would pile up on the devices.
    under_way: collections.deque = collections.deque()
    with Prefetch(loader.eval_batches(share), strategy.place_batch) as batches:
        for batch in batches:
            under_way.append(eval_step(params, batch))
            if len(under_way) == _STEPS_AHEAD:
                take(*under_way.popleft())
    while under_way:
        take(*under_way.popleft())
    examples = totals.pop("examples")[0]
    means = {name: float(total / count) for name, (total, count) in totals.items()}
    return means | {"examples": int(examples)}, _in_order(parts, row_names)


def _in_order(parts: list[Rows], row_names: Sequence[str]) -> Rows:
    """Joins the batches' rows; with several processes or devices a batch is not in the order of the records."""
    if not row_names:
        return {}
    order = np.argsort(np.concatenate([part["index"] for part in parts]))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in row_names}


def _write(folder: pathlib.Path, files: dict[str, Any]) -> None:
    """Writes tables and figures, each in one piece."""
    for name, content in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        with writing(folder / name) as part:
            if name.endswith(".csv"):
                with part.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows(content)
            else:
                content.savefig(part, format="png", dpi=200, bbox_inches="tight", pad_inches=0.1)
