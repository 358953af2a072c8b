"""The confusion matrix as a picture."""

import typing
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from vit_jax.figures.lettering import shortened

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 50  # classes, up to which the axes have their names
_LONGEST_NAME = 20  # characters
_MOST_COUNTED = 15  # classes, up to which the cells have their counts as numbers


def confusion_figure(matrix: Int[np.ndarray, "classes classes"], class_names: Sequence[str]) -> "Figure":
    """Draw a confusion matrix.

    A cell's colour is its share of the true class's examples; empty cells are white. The scale is stretched at its low
    end, or else the few mistakes of a good model would not be seen.

    Args:
        matrix: `[C, C]` counts, rows the true classes and columns the predicted ones.
        class_names: C names; shown for up to 50 classes.

    Example:
        >>> confusion_figure(np.array([[2, 1], [0, 3]]), ["cat", "dog"]).axes[0].get_xlabel()
        'predicted class'
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
        names = [shortened(name, _LONGEST_NAME) for name in class_names]
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
