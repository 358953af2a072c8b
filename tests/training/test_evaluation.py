"""Every example exactly once: the same figures for any batch size and number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading.loader import InMemory, Share
from vit_jax.data.sources import tfds as sources
from vit_jax.models import vit
from vit_jax.ops.augment import make_prepare
from vit_jax.parallel import strategy as parallel
from vit_jax.tasks.classification import Classification
from vit_jax.training.evaluation import evaluate
from vit_jax.training.step import ROWS, make_eval_step

NUM_EXAMPLES = 101


@pytest.fixture(scope="module")
def setting():
    preprocessing = Preprocessing((8, 8), 1, mean=(0.5,), std=(0.5,))
    data = InMemory(sources.open_source("digits", f"test[:{NUM_EXAMPLES}]"), preprocessing)
    task = Classification(10)
    model = task.wrap(vit.create("Ti/4", hidden_dim=8, depth=1, mlp_dim=8, num_heads=2))
    params = jax.device_get(model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)["params"])
    params["head"]["kernel"] = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32)
    return data, model, task, params


def evaluated(setting, devices, batch_size, row_names=()):
    data, model, task, params = setting
    strategy = parallel.Mesh(2, 2, 2, min_size=0) if devices == "mesh" else parallel.Pmap(jax.local_devices()[:devices])
    step = make_eval_step(
        model, task, prepare=make_prepare((0.5,), (0.5,)), row_names=row_names, axis_name=strategy.axis_name
    )
    options = {"batch_size": batch_size, "strategy": strategy, "row_names": row_names}
    return evaluate(strategy.compile_eval_step(step), strategy.place_state(params), data, **options)


def figures(setting, devices, batch_size):
    return evaluated(setting, devices, batch_size)[0]


def test_against_the_whole_set_in_one_batch(setting):
    data, model, task, params = setting
    batch = next(data.eval_batches(Share(NUM_EXAMPLES)))
    images = make_prepare((0.5,), (0.5,))(None, batch)["image"]
    logits = model.apply({"params": params}, images, train=False)
    expected = float(np.mean(np.argmax(logits, axis=-1) == batch["label"]))
    found = figures(setting, 1, 10)
    assert found["examples"] == NUM_EXAMPLES
    assert found["accuracy"] == pytest.approx(expected)
    assert found["loss"] == pytest.approx(float(np.mean(task.loss(logits, batch))), rel=1e-6)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 500), (3, 10), (8, 1), (8, 100), ("mesh", 10)])
def test_batch_size_and_devices_change_nothing(setting, devices, batch_size):
    base, other = figures(setting, 1, 32), figures(setting, devices, batch_size)
    assert other["examples"] == NUM_EXAMPLES
    assert (other["accuracy"], other["accuracy_top5"]) == (base["accuracy"], base["accuracy_top5"])
    assert other["loss"] == pytest.approx(base["loss"], rel=1e-6)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 500), (3, 10), (8, 100), ("mesh", 10)])
def test_rows_are_one_an_example_in_the_order_of_the_records(setting, devices, batch_size):
    data, model, task, params = setting
    batch = next(data.eval_batches(Share(NUM_EXAMPLES)))
    images = make_prepare((0.5,), (0.5,))(None, batch)["image"]
    logits = model.apply({"params": params}, images, train=False)
    probabilities = np.asarray(task.probabilities(logits))
    expected = {
        "label": batch["label"],
        "prediction": np.argmax(logits, axis=-1),
        "confidence": probabilities.max(axis=-1),
        "probabilities": probabilities,
        "features": model.encoder.apply({"params": params["encoder"]}, images, train=False).pooled,
    }
    assert expected.keys() == ROWS.keys()
    _, rows = evaluated(setting, devices, batch_size, tuple(ROWS))
    assert rows.keys() == ROWS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    for name in ("label", "prediction"):
        np.testing.assert_array_equal(rows[name], expected[name])


def test_without_names_there_are_no_rows(setting):
    assert evaluated(setting, 2, 50)[1] == {}
