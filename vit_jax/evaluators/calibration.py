"""Whether a prediction of 80 % is right in 80 of 100 cases."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from vit_jax.errors import InputError
from vit_jax.types import Evaluator, Rows, Task

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Calibration(Evaluator):
    """`ece`, the expected calibration error of the predicted class, in [0, 1].

    Examples are put into bins of equal width by the probability of the predicted class, ((m - 1) / M, m / M]; the
    error is the mean over the examples of |accuracy - mean confidence| in their bin. Files: calibration.csv and
    calibration.png, the reliability diagram.

    num_bins: M, 1 or more.

    Source: Guo et al. 2017, arXiv:1706.04599, equations 2 and 3, with their 15 bins.
    """

    class_names: tuple[str, ...]
    num_bins: int = 15

    needs: ClassVar = ("label", "prediction", "confidence")

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its range."""
        if self.num_bins < 1:
            raise InputError(f"evaluation.calibration.num_bins is {self.num_bins}; valid: 1 or more")

    @property
    def metrics(self) -> Sequence[str]:
        """Its one figure."""
        return ("ece",)

    def check(self, task: Task, *, multi_label: bool) -> None:
        """Raises InputError unless the probabilities are those of one choice among all classes."""
        super().check(task, multi_label=multi_label)
        if getattr(task, "loss_type", None) != "softmax":
            raise InputError("the metric 'calibration' is of the most probable class; valid: task.loss_type 'softmax'")

    def figures(self, rows: Rows, reference: Rows) -> dict[str, float]:
        """The mean over the bins, each weighted by its examples."""
        bins = self._bins(rows)
        return {"ece": float(np.abs(bins.correct - bins.confidence).sum() / bins.examples.sum())}

    def files(self, rows: Rows) -> dict[str, Any]:
        """The bins as a table and as a picture."""
        bins = self._bins(rows)
        table: list[list] = [["above", "up_to", "examples", "mean_confidence", "accuracy"]]
        for i, examples in enumerate(bins.examples.tolist()):
            means = [float(total[i]) / examples if examples else "" for total in (bins.confidence, bins.correct)]
            table.append([i / self.num_bins, (i + 1) / self.num_bins, examples, *means])
        return {"calibration.csv": table, "calibration.png": _reliability_diagram(bins)}

    def _bins(self, rows: Rows) -> "_Bins":
        confidence = rows["confidence"].astype(np.float64)
        bins = np.clip(np.ceil(confidence * self.num_bins).astype(int) - 1, 0, self.num_bins - 1)

        def total(weights: np.ndarray) -> np.ndarray:
            return np.bincount(bins, weights, self.num_bins)

        return _Bins(
            examples=np.bincount(bins, minlength=self.num_bins),
            confidence=total(confidence),
            correct=total(rows["prediction"] == rows["label"]),
        )


create = Calibration
"""What `build` looks for in an evaluator's file."""


@dataclasses.dataclass(frozen=True)
class _Bins:
    """Sums over the examples of each bin, `[num_bins]`: how many, of their confidences, how many correct."""

    examples: np.ndarray
    confidence: Float[np.ndarray, " bins"]
    correct: Float[np.ndarray, " bins"]


def _reliability_diagram(bins: _Bins) -> "Figure":
    """Accuracy over mean confidence, and below it how many examples each bin has."""
    from matplotlib.figure import Figure

    width = 1.0 / len(bins.examples)
    middles = width * (np.arange(len(bins.examples)) + 0.5)
    there = bins.examples > 0
    examples = bins.examples[there]

    figure = Figure((4.5, 5.5))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(middles[there], bins.correct[there] / examples, width, color="tab:blue", edgecolor="white")
    upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    points = (bins.confidence[there] / examples, bins.correct[there] / examples)
    upper.plot(*points, "o", color="black", markersize=3, label="mean confidence of a bin")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1))
    lower.bar(middles, bins.examples, width, color="tab:gray", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="examples")
    return figure
