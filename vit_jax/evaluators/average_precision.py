"""How well each class's probability ranks the examples: mean average precision."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from vit_jax.contracts import Rows, WholeDataset
from vit_jax.info import class_names_of


@dataclasses.dataclass(frozen=True)
class AveragePrecision(WholeDataset):
    """Computes `mean_average_precision`, the mean of the classes' average precisions, in [0, 1].

    For images with any number of labels; with one label each, it is each class against all others. A class without
    examples has no average precision and does not count; NaN if there is no other. File: average_precision.csv.
    """

    needs: ClassVar = ("label", "probabilities")

    @property
    def metrics(self) -> Sequence[str]:
        """Its one figure."""
        return ("mean_average_precision",)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return class_names_of(self.fields)

    def figures_of(self, rows: Rows, reference: Rows) -> dict[str, float]:
        """Return the mean over the classes that have examples."""
        values = self._per_class(rows)
        there = ~np.isnan(values)
        return {"mean_average_precision": float(values[there].mean()) if there.any() else float("nan")}

    def files_of(self, rows: Rows) -> dict[str, Any]:
        """Return a table of the classes."""
        table: list[list] = [["label", "class_name", "examples", "average_precision"]]
        examples = self._targets(rows).sum(axis=0).tolist()
        for label, value in enumerate(self._per_class(rows).tolist()):
            table.append([label, self.class_names[label], examples[label], value if examples[label] else ""])
        return {"average_precision.csv": table}

    def _targets(self, rows: Rows) -> np.ndarray:
        """Return whether an example is of a class, `[n, C]` bool."""
        labels = rows["label"]
        return labels[:, None] == np.arange(len(self.class_names)) if labels.ndim == 1 else labels > 0.5

    def _per_class(self, rows: Rows) -> Float[np.ndarray, " classes"]:
        pairs = zip(self._targets(rows).T, rows["probabilities"].T, strict=True)
        return np.array([average_precision(targets, scores) for targets, scores in pairs])


create = AveragePrecision


def average_precision(targets: np.ndarray, scores: Float[np.ndarray, " n"]) -> float:
    """Compute the mean, over the positive examples, of the precision among all that score as high or higher.

    Args:
        targets: `[n]` bool.
        scores: `[n]`; examples of the same score are above the threshold together.

    Returns:
        In [0, 1]; NaN if no target is true.

    Example:
        >>> average_precision(np.array([True, False]), np.array([0.9, 0.2]))
        1.0

    Source: the sum over thresholds of precision times the gain in recall, not interpolated, as in scikit-learn's
    `average_precision_score`, which however gives 0 without a true target.
    """
    if not targets.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, targets = scores[order], targets[order]
    last_of_equals = np.append(scores[1:] != scores[:-1], True)
    found = np.cumsum(targets)[last_of_equals]  # true examples down to each threshold
    precision = found / (np.flatnonzero(last_of_equals) + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / targets.sum())
