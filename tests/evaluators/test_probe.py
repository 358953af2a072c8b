"""Ridge regression on features: against least squares, and which examples it learns from."""

import numpy as np
import pytest
from streamed import FIELDS, figures

from vit_jax.errors import InputError
from vit_jax.evaluators import probe


def separable(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return {"label": labels, "features": (np.eye(3, 5)[labels] + 0.05 * rng.normal(size=(n, 5))).astype(np.float32)}


@pytest.mark.parametrize("num_examples", [4, 40])  # fewer and more than features
def test_it_solves_regularised_least_squares(num_examples):
    rows = separable(num_examples, 0)
    found = probe.fit(rows["features"], rows["label"], num_classes=3, l2=2.0)
    x = rows["features"].astype(np.float64)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-5)
    x = np.concatenate([x, np.full((num_examples, 1), 100.0)], axis=1)
    y = 2 * np.eye(3)[rows["label"]] - 1
    # The penalty as further equations, sqrt(l2) w = 0.
    x_and_penalty = np.concatenate([x, np.sqrt(2.0) * np.eye(6)])
    expected = np.linalg.lstsq(x_and_penalty, np.concatenate([y, np.zeros((6, 3))]))[0]
    np.testing.assert_allclose(found.weights, expected, atol=1e-10)
    np.testing.assert_allclose(found.outputs(rows["features"]), x @ expected, atol=1e-8)


def test_one_feature_by_hand():
    # Standardised: -1 and 1. Targets of class 1: -1 and 1. With l2 = 2, w = 2 / (2 + 2); the constant's weight is 0.
    found = probe.fit(np.array([[0.0], [2.0]]), np.array([0, 1]), num_classes=2, l2=2.0)
    np.testing.assert_allclose(found.weights, [[-0.5, 0.5], [0.0, 0.0]], atol=1e-5)


def test_shots_are_examples_of_each_class_and_nested():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 50)
    few, many = (probe.choose_shots(labels, shots, seed=0) for shots in (2, 5))
    assert np.bincount(labels[few]).tolist() == [2, 2, 2] and np.bincount(labels[many]).tolist() == [5, 3, 5]
    assert set(few) < set(many)
    assert not np.array_equal(few, probe.choose_shots(labels, 2, seed=1))


def test_figures_are_named_after_the_shots():
    evaluator = probe.create(FIELDS, shots=(1, 10, 0), l2=1.0)
    found = figures(evaluator, separable(50, 1), separable(60, 2))
    assert list(found) == list(evaluator.metrics) == ["probe_1shot", "probe_10shot", "probe_all"]
    assert found["probe_all"] == 1.0


def test_few_shots_are_a_mean_over_the_choices():
    rows, reference = separable(50, 1), separable(60, 2)
    rng = np.random.default_rng(3)
    rows, reference = ({**r, "features": rng.normal(size=r["features"].shape)} for r in (rows, reference))
    accuracies = []
    for seed in range(3):
        chosen = probe.choose_shots(reference["label"], 2, seed=seed)
        fitted = probe.fit(reference["features"][chosen], reference["label"][chosen], num_classes=3, l2=5.0)
        accuracies.append(np.mean(fitted.outputs(rows["features"]).argmax(axis=1) == rows["label"]))
    assert len(set(accuracies)) > 1
    assert figures(probe.create(FIELDS, shots=(2,), l2=5.0), rows, reference) == {
        "probe_2shot": pytest.approx(np.mean(accuracies))
    }


@pytest.mark.parametrize("options", [{"shots": ()}, {"shots": (-1,)}, {"l2": 0.0}, {"num_seeds": 0}])
def test_what_it_refuses(options):
    with pytest.raises(InputError, match=rf"evaluation.metrics.probe.{next(iter(options))} is"):
        probe.create(FIELDS, **options)
