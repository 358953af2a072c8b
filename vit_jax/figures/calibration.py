"""The reliability diagram."""

import typing

import numpy as np
from jaxtyping import Float, Int

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_diagram(
    examples: Int[np.ndarray, " bins"], confidence: Float[np.ndarray, " bins"], correct: Float[np.ndarray, " bins"]
) -> "Figure":
    """Draw accuracy over mean confidence, and below it the number of examples in each bin.

    Args:
        examples: `[M]`, number of examples in each of M bins of equal width.
        confidence: `[M]`, sum of their confidences.
        correct: `[M]`, number of them that are right.

    Example:
        >>> len(reliability_diagram(np.array([1, 3]), np.array([0.4, 2.5]), np.array([0.0, 3.0])).axes)
        2
    """
    from matplotlib.figure import Figure

    width = 1.0 / len(examples)
    middles = width * (np.arange(len(examples)) + 0.5)
    there = examples > 0
    counts = examples[there]

    figure = Figure((4.5, 5.5))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(middles[there], correct[there] / counts, width, color="tab:blue", edgecolor="white")
    upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    points = (confidence[there] / counts, correct[there] / counts)
    upper.plot(*points, "o", color="black", markersize=3, label="mean confidence of a bin")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1))
    lower.bar(middles, examples, width, color="tab:gray", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="examples")
    return figure
