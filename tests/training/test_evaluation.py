"""Every example exactly once: the same figures for any batch size and number of devices."""

import csv
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import ArrayLoader, classification, scaled

from vit_jax.contracts import Evaluator, WholeDataset, in_order
from vit_jax.models import vit
from vit_jax.parallel.mesh import Mesh
from vit_jax.parallel.pmap import Pmap
from vit_jax.training import optimizer as optimizers
from vit_jax.training.evaluation import Evaluators, evaluate, evaluate_all, learned, make_eval_step
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init

NUM_EXAMPLES = 101
RNG = np.random.default_rng(0)
DATA = {
    "image": RNG.integers(0, 256, (NUM_EXAMPLES, 4, 4, 1), np.uint8),
    "label": RNG.dirichlet(np.full(7, 0.2), NUM_EXAMPLES).astype(np.float32),
}
TASK = classification(7, label_smoothing=0.2, class_weights=range(1, 8))  # of training alone
MODEL = TASK.wrap(vit.create("Ti/2", hidden_dim=8, depth=1, mlp_dim=8, num_heads=2))
PROBLEM = Problem(MODEL, TASK, scaled)
ROWS = ("label", "prediction", "confidence", "probabilities", "features")


@functools.cache
def params():
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), train=False))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def on(devices):
    """Strategy, compiled step and what it judges, once for all batch sizes."""
    strategy = Mesh(2, 2, 2, min_size=0) if devices == "mesh" else Pmap(jax.local_devices()[:devices])
    step = make_eval_step(PROBLEM, row_names=ROWS, axis_name=strategy.axis_name)
    return (
        strategy,
        strategy.compile_eval_step(step),
        strategy.place_state({"params": params(), "variables": {}}),
    )


@functools.cache
def logits():
    return np.asarray(MODEL.apply({"params": params()}, scaled(None, DATA)["image"], train=False))


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 500), (3, 10), (8, 1), ("mesh", 10)])
def test_batch_size_and_devices_change_no_figure_and_no_row(devices, batch_size):
    """All of them against the whole set in one batch."""
    strategy, step, placed = on(devices)
    parts = []
    options = {"batch_size": batch_size, "strategy": strategy, "row_names": ROWS, "add": parts.append}
    found = evaluate(step, placed, ArrayLoader(DATA), **options)
    assert found["examples"] == NUM_EXAMPLES
    hits = np.argmax(logits(), axis=-1) == np.argmax(DATA["label"], axis=-1)
    assert found["accuracy"] == pytest.approx(hits.mean())
    assert found["loss"] == pytest.approx(
        float(np.mean(optax.softmax_cross_entropy(logits(), DATA["label"]))), rel=1e-6
    )

    images = scaled(None, DATA)["image"]
    probabilities = np.asarray(TASK.probabilities(logits()))
    expected = {
        "label": DATA["label"],
        "prediction": np.argmax(logits(), axis=-1),
        "confidence": probabilities.max(axis=-1),
        "probabilities": probabilities,
        "features": MODEL.encoder.apply({"params": params()["encoder"]}, images, train=False).pooled,
        "index": np.arange(NUM_EXAMPLES),
    }
    rows = in_order(parts)
    assert rows.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(rows["prediction"], expected["prediction"])


def test_without_names_there_are_no_rows():
    strategy, step, placed = on(1)
    evaluate(step, placed, ArrayLoader(DATA), batch_size=50, strategy=strategy, add=pytest.fail)


class Agreement(Evaluator):
    """Share of the examples whose class is the reference's most frequent one; counted batch by batch."""

    needs = ("prediction",)
    uses_reference = True
    metrics = ("agreement",)

    def start(self, reference):
        return np.bincount(reference["prediction"]).argmax(), 0, 0

    def add(self, state, rows):
        assert set(rows) >= {"prediction", "index"}
        best, hits, count = state
        return best, hits + (rows["prediction"] == best).sum(), count + len(rows["prediction"])

    def figures(self, state):
        return {"agreement": state[1] / state[2]}


class FirstConfidence(WholeDataset):
    """The confidence in record 0, and a table of all."""

    needs = ("confidence",)
    metrics = ("first",)

    def figures_of(self, rows, reference):
        assert reference == {}
        return {"first": float(rows["confidence"][0])}

    def files_of(self, rows):
        return {"confidence.csv": [["record", "confidence"], *zip(rows["index"], rows["confidence"], strict=True)]}


def test_evaluators_get_the_rows_and_the_reference_and_write_files(tmp_path):
    strategy, step, placed = on(3)
    half = {name: x[:50] for name, x in DATA.items()}
    evaluators = Evaluators([Agreement(TASK.fields), FirstConfidence(TASK.fields)], reference=ArrayLoader(half))
    assert evaluators.row_names == ["confidence", "prediction"]
    assert evaluators.reference_row_names == ["prediction"]
    assert evaluators.metrics == ["agreement", "first"]
    loaders = {"all": ArrayLoader(DATA), "half": ArrayLoader(half)}
    options = {"batch_size": 12, "strategy": strategy, "evaluators": evaluators, "out": tmp_path}
    figures = evaluate_all(step, placed, loaders, **options)
    predictions = np.argmax(logits(), axis=-1)
    best = np.bincount(predictions[:50]).argmax()
    for name, count in (("all", NUM_EXAMPLES), ("half", 50)):
        assert figures[f"{name}/examples"] == count
        assert figures[f"{name}/agreement"] == pytest.approx((predictions[:count] == best).mean())
        assert figures[f"{name}/first"] == pytest.approx(float(TASK.probabilities(logits())[0].max()), rel=1e-5)
        with (tmp_path / name / "confidence.csv").open() as file:
            table = list(csv.reader(file))
        assert [int(row[0]) for row in table[1:]] == list(range(count))


def test_the_moving_average_is_judged_where_there_is_one():
    optimizer = optimizers.create("sgd", schedule=lambda step: 0.1)
    example = {name: x[:1] for name, x in DATA.items()} | {"index": np.zeros(1, np.uint32)}
    for moving_average in (True, False):
        state = make_init(PROBLEM, optimizer, moving_average=moving_average)(0, example)
        judged = learned(state)["params"]
        assert judged is (state.ema_params if moving_average else state.params)
