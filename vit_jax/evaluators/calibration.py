"""Whether a prediction of 80 % is right in 80 of 100 cases."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from vit_jax.contracts import Evaluator, Rows, Task
from vit_jax.errors import InputError
from vit_jax.evaluators.labels import check_one_label
from vit_jax.figures.calibration import reliability_diagram


@dataclasses.dataclass(frozen=True)
class Bins:
    """Sums over the examples of each bin, `[num_bins]`.

    examples: number of examples.
    confidence: sum of their confidences.
    correct: number of them that are right.
    """

    examples: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    correct: Float[np.ndarray, " bins"]


@dataclasses.dataclass(frozen=True)
class Calibration(Evaluator):
    """Computes `ece`, the expected calibration error of the predicted class, in [0, 1].

    Examples are put into bins of equal width by the probability of the predicted class, ((m - 1) / M, m / M]; the
    error is the mean over the examples of |accuracy - mean confidence| in their bin. Files: calibration.csv and
    calibration.png, the reliability diagram.

    num_bins: number of bins M, 1 or more.

    Source: Guo et al. 2017, arXiv:1706.04599, equations 2 and 3, with their 15 bins.
    """

    num_bins: int = 15

    needs: ClassVar = ("label", "prediction", "confidence")

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if self.num_bins < 1:
            raise InputError(f"evaluation.metrics.calibration.num_bins is {self.num_bins}; valid: 1 or more")

    @property
    def metrics(self) -> Sequence[str]:
        """Its one figure."""
        return ("ece",)

    def check(self, task: Task) -> None:
        """Check that the probabilities are those of one choice among all classes.

        Raises:
            InputError: they are not.
        """
        super().check(task)
        check_one_label("calibration", self.fields)
        if getattr(task, "loss_type", "softmax") != "softmax":
            raise InputError(
                "the metric 'calibration' is of the most probable class; valid: task.options.loss_type 'softmax'"
            )

    def start(self, reference: Rows) -> Bins:
        """Return empty bins."""
        return Bins(np.zeros(self.num_bins, np.int64), np.zeros(self.num_bins), np.zeros(self.num_bins))

    def add(self, state: Bins, rows: Rows) -> Bins:
        """Put further examples into their bins."""
        confidence = rows["confidence"].astype(np.float64)
        bins = np.clip(np.ceil(confidence * self.num_bins).astype(int) - 1, 0, self.num_bins - 1)
        right = rows["prediction"] == rows["label"]
        return Bins(
            examples=state.examples + np.bincount(bins, minlength=self.num_bins),
            confidence=state.confidence + np.bincount(bins, confidence, self.num_bins),
            correct=state.correct + np.bincount(bins, right, self.num_bins),
        )

    def figures(self, state: Bins) -> dict[str, float]:
        """Return the mean over the bins, each weighted by its examples."""
        return {"ece": float(np.abs(state.correct - state.confidence).sum() / state.examples.sum())}

    def files(self, state: Bins) -> dict[str, Any]:
        """Return the bins as a table and as a picture."""
        table: list[list] = [["above", "up_to", "examples", "mean_confidence", "accuracy"]]
        for i, examples in enumerate(state.examples.tolist()):
            means = [float(total[i]) / examples if examples else "" for total in (state.confidence, state.correct)]
            table.append([i / self.num_bins, (i + 1) / self.num_bins, examples, *means])
        picture = reliability_diagram(state.examples, state.confidence, state.correct)
        return {"calibration.csv": table, "calibration.png": picture}


create = Calibration
