"""Mean average precision, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from streamed import FIELDS, figures, files
from tiny import classification

from vit_jax.evaluators import average_precision as ap


def test_by_hand():
    # Down to the first positive 1 of 1 is right, down to the second 2 of 3.
    targets, scores = np.array([1, 0, 1, 0], bool), np.array([0.9, 0.8, 0.7, 0.1])
    assert ap.average_precision(targets, scores) == pytest.approx((1 + 2 / 3) / 2)


def test_examples_of_one_score_are_found_together():
    targets, scores = np.array([1, 0, 1, 0], bool), np.full(4, 0.5)
    assert ap.average_precision(targets, scores) == ap.average_precision(targets[::-1], scores) == 0.5


@pytest.mark.parametrize("levels", [3, 1000])
def test_agrees_with_scikit_learn(levels):
    rng = np.random.default_rng(0)
    for _ in range(20):
        targets = rng.random(50) < 0.3
        targets[0] = True
        scores = rng.integers(0, levels, 50) / levels
        assert ap.average_precision(targets, scores) == pytest.approx(average_precision_score(targets, scores))


LABELS = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]], np.float32)
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.8, 0.3, 0.2], [0.7, 0.1, 0.3]], np.float32)


def test_a_class_without_examples_does_not_count():
    evaluator = ap.create(FIELDS)
    rows = {"label": LABELS, "probabilities": PROBABILITIES}
    a = (1 + 2 / 3) / 2
    assert figures(evaluator, rows)["mean_average_precision"] == pytest.approx((a + 1.0) / 2)
    header, *table = files(evaluator, rows)["average_precision.csv"]
    assert header == ["label", "class_name", "examples", "average_precision"]
    assert table == [[0, "a", 2, pytest.approx(a)], [1, "b", 2, 1.0], [2, "c", 0, ""]]
    nothing = figures(evaluator, {"label": np.zeros((3, 3)), "probabilities": PROBABILITIES})
    assert math.isnan(nothing["mean_average_precision"])


def test_one_label_an_image_is_each_class_against_the_others():
    evaluator = ap.create(FIELDS)
    labels = np.array([0, 1, 2])
    one_hot = figures(evaluator, {"label": np.eye(3)[labels], "probabilities": PROBABILITIES})
    assert figures(evaluator, {"label": labels, "probabilities": PROBABILITIES}) == one_hot


def test_it_takes_both_losses_and_both_kinds_of_labels():
    for several, loss_type in ((False, "softmax"), (False, "sigmoid"), (True, "sigmoid")):
        task = classification(3, several=several, loss_type=loss_type)
        ap.create(task.fields).check(task)
