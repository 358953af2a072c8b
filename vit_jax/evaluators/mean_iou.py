"""How well predicted regions and true ones cover each other: intersection over union, and Dice."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, Num

from vit_jax.contracts import Evaluator, Rows
from vit_jax.figures.confusion import confusion_figure
from vit_jax.info import class_names_of
from vit_jax.types import Field

Matrix = Int[np.ndarray, "classes classes"]
"""`[C, C]` int64, number of pixels of each class (row) that were taken for each class (column)."""


@dataclasses.dataclass(frozen=True)
class MeanIou(Evaluator):
    """Computes the figures of semantic segmentation, over the pixels of the whole dataset, each in [0, 1].

    Of a class, with TP pixels right, FP taken for it wrongly and FN missed: the intersection over union is
    TP / (TP + FP + FN), Dice is 2 TP / (2 TP + FP + FN), and the accuracy is TP / (TP + FN).

    `mean_iou` and `mean_dice` are means over the classes that occur, in the truth or in a prediction;
    `mean_pixel_class_accuracy` is the mean over those that occur in the truth. The other classes do not count; where
    none is left, as where all pixels are ignored, a figure is NaN. Pixels that the data ignore count nowhere. The
    share of all pixels that are right is the task's own `pixel_accuracy`.

    Files: iou.csv, a row for each class; pixel_confusion.csv and pixel_confusion.png (rows are the true class).

    Source: Long et al. 2015, arXiv:1411.4038, section 5, and Everingham et al. 2010 (PASCAL VOC), section 4.3.
    """

    needs: ClassVar = ("pixel_confusion",)

    @property
    def metrics(self) -> Sequence[str]:
        """Its three figures."""
        return ("mean_iou", "mean_dice", "mean_pixel_class_accuracy")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the mask's classes, in the order of their numbers."""
        masks: list[Field] = [field for field in self.fields.values() if field.kind == "mask"]
        return masks[0].names if masks else class_names_of(self.fields)

    def start(self, reference: Rows) -> Matrix:
        """Return an empty matrix."""
        return np.zeros((len(self.class_names),) * 2, np.int64)

    def add(self, state: Matrix, rows: Rows) -> Matrix:
        """Add the pixels of further images."""
        return state + rows["pixel_confusion"].astype(np.int64).sum(axis=0)

    def figures(self, state: Matrix) -> dict[str, float]:
        """Return the means over the classes that count."""
        return {
            "mean_iou": _mean(*iou(state)),
            "mean_dice": _mean(*dice(state)),
            "mean_pixel_class_accuracy": _mean(state.diagonal(), state.sum(axis=1)),
        }

    def files(self, state: Matrix) -> dict[str, Any]:
        """Return the table of the classes, and the matrix as a table and as a picture."""
        matrix = [["true \\ predicted", *self.class_names]]
        matrix += [[name, *counts] for name, counts in zip(self.class_names, state.tolist(), strict=True)]
        return {
            "iou.csv": self._per_class(state),
            "pixel_confusion.csv": matrix,
            "pixel_confusion.png": confusion_figure(state, self.class_names),
        }

    def _per_class(self, state: Matrix) -> list[list]:
        """List the classes; a figure that a class does not have is empty."""
        table: list[list] = [["label", "class_name", "pixels", "predicted_pixels", "iou", "dice", "accuracy"]]
        ratios = [iou(state), dice(state), (state.diagonal(), state.sum(axis=1))]
        for label, name in enumerate(self.class_names):
            figures = [float(part[label] / whole[label]) if whole[label] else "" for part, whole in ratios]
            table.append([label, name, int(state[label].sum()), int(state[:, label].sum()), *figures])
        return table


create = MeanIou

Ratio = tuple[Int[np.ndarray, " classes"], Int[np.ndarray, " classes"]]
"""Each class's numerator and denominator, `[C]`; a class whose denominator is 0 does not occur."""


def iou(matrix: Matrix) -> Ratio:
    """Return each class's intersection and union.

    Example:
        >>> iou(np.array([[3, 1], [0, 2]]))
        (array([3, 2]), array([4, 3]))
    """
    both = matrix.diagonal()
    return both, matrix.sum(axis=0) + matrix.sum(axis=1) - both


def dice(matrix: Matrix) -> Ratio:
    """Return twice each class's intersection, and the sum of its true and its predicted pixels."""
    return 2 * matrix.diagonal(), matrix.sum(axis=0) + matrix.sum(axis=1)


def _mean(part: Num[np.ndarray, " classes"], whole: Num[np.ndarray, " classes"]) -> float:
    there = whole > 0
    return float(np.mean(part[there] / whole[there])) if there.any() else float("nan")
