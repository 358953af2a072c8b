"""The expected calibration error, worked out by hand."""

import numpy as np
import pytest
from streamed import figures, files
from tiny import classification

from vit_jax.errors import InputError
from vit_jax.evaluators import calibration
from vit_jax.types import class_fields

FIELDS = class_fields(["a", "b"])

# Two bins, (0, 0.5] and (0.5, 1]; exactly 0.5 belongs to the lower one.
ROWS = {
    "confidence": np.array([0.25, 0.5, 0.75, 1.0, 1.0], np.float32),
    "prediction": np.array([1, 1, 1, 1, 1]),
    "label": np.array([1, 0, 0, 1, 1]),
}


def test_by_hand():
    # |0.5 - 0.375| * 2 / 5 + |2 / 3 - 2.75 / 3| * 3 / 5
    expected = 0.125 * 2 / 5 + 0.25 * 3 / 5
    assert figures(calibration.create(FIELDS, num_bins=2), ROWS)["ece"] == pytest.approx(expected)


def test_confidence_that_comes_true_has_no_error():
    rows = {"confidence": np.full(4, 0.75), "prediction": np.zeros(4), "label": np.array([0, 0, 0, 1])}
    assert figures(calibration.create(FIELDS), rows)["ece"] == 0.0


def test_table_and_picture():
    shown = files(calibration.create(FIELDS, num_bins=4), ROWS)
    assert shown["calibration.csv"] == [
        ["above", "up_to", "examples", "mean_confidence", "accuracy"],
        [0.0, 0.25, 1, 0.25, 1.0],
        [0.25, 0.5, 1, 0.5, 0.0],
        [0.5, 0.75, 1, 0.75, 0.0],
        [0.75, 1.0, 2, 1.0, 1.0],
    ]
    upper, lower = shown["calibration.png"].axes
    assert [bar.get_height() for bar in upper.patches] == [1.0, 0.0, 0.0, 1.0]
    assert [bar.get_height() for bar in lower.patches] == [1, 1, 1, 2]


def test_an_empty_bin_is_empty_in_the_table():
    assert files(calibration.create(FIELDS, num_bins=10), ROWS)["calibration.csv"][1] == [0.0, 0.1, 0, "", ""]


def test_what_it_refuses():
    evaluator = calibration.create(FIELDS)
    evaluator.check(classification(2))
    with pytest.raises(InputError, match=r"valid: task.options.loss_type 'softmax'"):
        evaluator.check(classification(2, loss_type="sigmoid"))
    with pytest.raises(InputError, match="'calibration' needs one label for each image"):
        task = classification(2, several=True, loss_type="sigmoid")
        calibration.create(task.fields).check(task)
    with pytest.raises(InputError, match="num_bins is 0"):
        calibration.create(FIELDS, num_bins=0)
