"""Which class is taken for which: the confusion matrix and each class's accuracy."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from vit_jax.contracts import Evaluator, Rows, Task
from vit_jax.evaluators.labels import check_one_label
from vit_jax.figures.confusion import confusion_figure
from vit_jax.info import class_names_of

Matrix = Int[np.ndarray, "classes classes"]
"""`[C, C]` int64, number of examples of each class (row) that were taken for each class (column)."""


@dataclasses.dataclass(frozen=True)
class Confusion(Evaluator):
    """Computes `mean_class_accuracy`, the mean of the classes' accuracies; each class with examples counts the same.

    Files: confusion.csv and confusion.png (rows are the true class, columns the predicted one), per_class.csv.
    """

    needs: ClassVar = ("label", "prediction")

    @property
    def metrics(self) -> Sequence[str]:
        """Its one figure."""
        return ("mean_class_accuracy",)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return class_names_of(self.fields)

    def check(self, task: Task) -> None:
        """Check that an image has one label, and that the task gives the rows.

        Raises:
            InputError: it does not.
        """
        super().check(task)
        check_one_label("confusion", self.fields)

    def start(self, reference: Rows) -> Matrix:
        """Return an empty matrix."""
        return np.zeros((len(self.class_names),) * 2, np.int64)

    def add(self, state: Matrix, rows: Rows) -> Matrix:
        """Count further examples."""
        return state + confusion_matrix(rows["label"], rows["prediction"], len(self.class_names))

    def figures(self, state: Matrix) -> dict[str, float]:
        """Return the mean over the classes that have examples."""
        examples = state.sum(axis=1)
        there = examples > 0
        return {"mean_class_accuracy": float(np.mean(state.diagonal()[there] / examples[there]))}

    def files(self, state: Matrix) -> dict[str, Any]:
        """Return the matrix as a table and as a picture, and a table of the classes."""
        table = [["true \\ predicted", *self.class_names]]
        table += [[name, *counts] for name, counts in zip(self.class_names, state.tolist(), strict=True)]
        return {
            "confusion.csv": table,
            "per_class.csv": _per_class(state, self.class_names),
            "confusion.png": confusion_figure(state, self.class_names),
        }


create = Confusion


def confusion_matrix(labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], num_classes: int) -> Matrix:
    """Count the examples of each class (row) that were taken for each class (column), `[C, C]` int64.

    Example:
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        array([[1, 1],
               [0, 1]])
    """
    cells = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _per_class(matrix: Matrix, class_names: tuple[str, ...]) -> list[list]:
    """List the classes; the accuracy of one without examples is empty."""
    table: list[list] = [["label", "class_name", "examples", "correct", "accuracy"]]
    for label, name in enumerate(class_names):
        examples, correct = int(matrix[label].sum()), int(matrix[label, label])
        table.append([label, name, examples, correct, correct / examples if examples else ""])
    return table
