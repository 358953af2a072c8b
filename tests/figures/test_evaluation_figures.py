"""The pictures of evaluators; what they show of figures is tested with the evaluators."""

import numpy as np

from vit_jax.figures.calibration import reliability_diagram


def test_an_empty_bin_has_no_bar_and_no_point():
    upper, lower = reliability_diagram(np.array([0, 4]), np.array([0.0, 3.0]), np.array([0.0, 2.0])).axes
    assert [bar.get_height() for bar in upper.patches] == [0.5]
    diagonal, points = upper.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(points.get_xydata(), [[0.75, 0.5]])
    assert [bar.get_height() for bar in lower.patches] == [0, 4]
