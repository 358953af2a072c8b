"""What is taken for what: the confusion matrix and each class's accuracy."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from vit_jax.types import Evaluator, Rows

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED, _MOST_COUNTED = 50, 15
"""Up to how many classes the picture has their names, and the counts as numbers."""


@dataclasses.dataclass(frozen=True)
class Confusion(Evaluator):
    """`mean_class_accuracy`, the mean of the classes' accuracies, each class that has examples counting the same.

    Files: confusion.csv and confusion.png (rows are the true class, columns the predicted one), per_class.csv.
    """

    class_names: tuple[str, ...]

    needs: ClassVar = ("label", "prediction")

    @property
    def metrics(self) -> Sequence[str]:
        """Its one figure."""
        return ("mean_class_accuracy",)

    def figures(self, rows: Rows, reference: Rows) -> dict[str, float]:
        """The mean over the classes that have examples."""
        matrix = confusion_matrix(rows["label"], rows["prediction"], len(self.class_names))
        examples = matrix.sum(axis=1)
        there = examples > 0
        return {"mean_class_accuracy": float(np.mean(matrix.diagonal()[there] / examples[there]))}

    def files(self, rows: Rows) -> dict[str, Any]:
        """The matrix as a table and as a picture, and a table of the classes."""
        matrix = confusion_matrix(rows["label"], rows["prediction"], len(self.class_names))
        table = [["true \\ predicted", *self.class_names]]
        table += [[name, *counts] for name, counts in zip(self.class_names, matrix.tolist(), strict=True)]
        return {
            "confusion.csv": table,
            "per_class.csv": _per_class(matrix, self.class_names),
            "confusion.png": confusion_figure(matrix, self.class_names),
        }


create = Confusion
"""What `build` looks for in an evaluator's file."""


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "classes classes"]:
    """How many examples of each class (row) were taken for each class (column), `[C, C]` int64."""
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _per_class(matrix: Int[np.ndarray, "classes classes"], class_names: tuple[str, ...]) -> list[list]:
    """One line a class; the accuracy of one without examples is empty."""
    table: list[list] = [["label", "class_name", "examples", "correct", "accuracy"]]
    for label, name in enumerate(class_names):
        examples, correct = int(matrix[label].sum()), int(matrix[label, label])
        table.append([label, name, examples, correct, correct / examples if examples else ""])
    return table


def confusion_figure(matrix: Int[np.ndarray, "classes classes"], class_names: tuple[str, ...]) -> "Figure":
    """The matrix as a picture.

    A cell's colour is its share of the true class's examples; white is none. The scale is stretched at its low end,
    or else the few mistakes of a good model would not be seen.

    Args:
        matrix: `[C, C]`, rows the true classes.
        class_names: C names; shown for up to 50 classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.3 * len(matrix), 3.5, 10.0))  # inches
    figure = Figure((side, side))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    picture = axes.imshow(
        np.ma.masked_equal(shares, 0), cmap="inferno_r", norm=PowerNorm(1 / 3, 0.0, 1.0), interpolation="nearest"
    )
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(matrix) <= _MOST_NAMED:
        names = [_short(name) for name in class_names]
        fits = max(map(len, names)) * 0.08 < side / len(names)
        axes.set_xticks(range(len(names)), names, rotation=0 if fits else 90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    if len(matrix) <= _MOST_COUNTED:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if shares[row, column] > 0.2 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
    bar = figure.colorbar(picture, cax=figure.add_axes((1.0 + 0.2 / side, 0.0, 0.15 / side, 1.0)))
    bar.set_ticks([0, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0], labels=["0 %", "0.1 %", "1 %", "5 %", "20 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    return figure


def _short(name: str, length: int = 20) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
