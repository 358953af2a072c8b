"""Nearest neighbours in the plane."""

import numpy as np
import pytest
from streamed import FIELDS, figures

from vit_jax.errors import InputError
from vit_jax.evaluators import knn

# At 0, 30 and 40 degrees; lengths do not count.
ANGLES = np.deg2rad([0, 30, 40])
REFERENCE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32) * [[1.0], [5.0], [0.1]]
LABELS = np.array([0, 1, 1], np.int32)
QUERIES = np.array([[3.0, 0.0], [0.0, 2.0]], np.float32)  # at 0 and 90 degrees


def predict(k, temperature=0.07, queries=QUERIES):
    options = {"k": k, "temperature": temperature, "num_classes": 3}
    return knn.knn_predictions(queries, REFERENCE, LABELS, **options).tolist()


def test_the_nearest_decides_alone():
    assert predict(1) == [0, 1]


def test_a_vote_weighs_the_similarity():
    # Of the first query: 1 against cos(30) and cos(40). At 0.07: 1 > exp(-1.91) + exp(-3.34); at 1: 1 < 0.87 + 0.79.
    assert predict(3) == [0, 1]
    assert predict(3, temperature=1.0) == [1, 1]
    # Where the two sides balance: 1 = exp((cos 30 - 1) / T) + exp((cos 40 - 1) / T).
    assert predict(3, temperature=0.25) == [0, 1]
    assert predict(3, temperature=0.29) == [1, 1]


def test_k_beyond_the_reference_is_all_of_it_and_no_weight_overflows():
    assert predict(100) == predict(3)
    assert predict(3, temperature=1e-3) == [0, 1]


def test_the_number_of_queries_at_once_changes_nothing(monkeypatch):
    queries = np.random.default_rng(0).normal(size=(23, 2)).astype(np.float32)
    whole = predict(2, queries=queries)
    monkeypatch.setattr(knn, "_SIMILARITIES_AT_ONCE", 3 * len(REFERENCE))
    assert predict(2, queries=queries) == whole


def test_accuracy():
    evaluator = knn.create(FIELDS, k=1)
    reference = {"features": REFERENCE, "label": LABELS}
    rows = {"features": QUERIES, "label": np.array([0, 2])}
    assert figures(evaluator, rows, reference) == {"knn_accuracy": 0.5}


@pytest.mark.parametrize("options", [{"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_what_it_refuses(options):
    with pytest.raises(InputError, match=rf"evaluation.metrics.knn.{next(iter(options))} is"):
        knn.create(FIELDS, **options)
