"""Every task keeps the contract: the same checks for each file of vit_jax/tasks, with the `ROW` of its own test."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import TINY
from own_rows import own_rows
from PIL import Image
from tiny import scaled

from vit_jax.build import plugins
from vit_jax.data.augment.mix import Mix
from vit_jax.errors import InputError
from vit_jax.ops.augment import make_prepare
from vit_jax.ops.keys import example_streams
from vit_jax.training import optimizer as optimizers
from vit_jax.training.evaluation import make_eval_step
from vit_jax.training.problem import Problem, forward, without_masked_rows
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step
from vit_jax.types import Placement

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
IMAGES[:, 0, 0, 0] = 32 * np.arange(8)  # the number of an image, which a teacher can read
ROWS = own_rows("task", "ROW")
EVERY = pytest.mark.parametrize("name", ROWS)


def test_every_task_has_a_row():
    assert [f"test_{name}.py" for name in plugins.names("task") if name not in ROWS] == [], "no ROW in tests/tasks"


@functools.cache
def problem(name):
    row = ROWS[name]
    task = plugins.create_task(name, row.fields, **row.options)
    encoder = plugins.create_encoder("vit", TINY["vit"].variant, **TINY["vit"].options)
    return Problem(task.wrap(encoder), task, scaled, row.companions)


@functools.cache
def started(name):
    """First state, and the compiled step."""
    optimizer = optimizers.create("adam", schedule=lambda step: 0.01)
    step = jax.jit(make_train_step(problem(name), optimizer, log_every_steps=1))
    state = jax.jit(lambda: make_init(problem(name), optimizer, moving_average=False)(0, batch_of(name)))()
    return state, step


def batch_of(name, size=8):
    arrays = {"image": IMAGES, **ROWS[name].arrays, "index": np.arange(8, dtype=np.uint32)}
    return {key: x[:size] for key, x in arrays.items()}


def outputs_of(name, batch, *, train=False):
    state, _ = started(name)
    prepared = without_masked_rows(scaled(None, batch))
    key = jax.random.key(0)
    rngs = {"dropout": key, **example_streams(key, batch["index"])}
    outputs, _ = forward(
        problem(name),
        prepared,
        params=state.params,
        variables=state.variables,
        rngs=rngs,
        train=train,
        companions={each: {} for each in ROWS[name].companions} if train else None,
    )
    return outputs, prepared


def loss_of(metrics):
    total, count = metrics["loss"]
    return float(total) / float(count)


@EVERY
def test_an_unknown_option_is_refused(name):
    with pytest.raises(InputError, match=f"task {name!r} has no option 'colour'"):
        plugins.create_task(name, ROWS[name].fields, colour=1)


@EVERY
def test_a_checkpoint_describes_it_and_its_inference(name):
    for task in (problem(name).task, problem(name).task.inference()):
        about = plugins.describe(task)
        assert plugins.create_task(about["name"], task.fields, **about["options"]) == task


@EVERY
@pytest.mark.parametrize("train", [False, True])
def test_the_loss_is_a_number_for_each_example(name, train):
    outputs, batch = outputs_of(name, batch_of(name), train=train)
    task = problem(name).task
    for values in (task.loss(outputs, batch), task.weight(batch)):
        chex.assert_shape(values, (8,))
        chex.assert_type(values, jnp.float32)
        assert jnp.isfinite(values).all() and (values >= 0).all()
    metrics = task.metrics(outputs, batch, train=train)
    assert "loss" not in metrics
    for pair in metrics.values():
        chex.assert_shape(pair, ())
        chex.assert_type(pair, jnp.float32)


@EVERY
def test_an_example_does_not_depend_on_its_neighbours(name):
    task = problem(name).task
    whole, part = (task.loss(*outputs_of(name, batch_of(name, size))) for size in (8, 3))
    np.testing.assert_allclose(whole[:3], part, rtol=1e-5)


@EVERY
def test_jit_equals_eager(name):
    batch = batch_of(name)
    eager, _ = outputs_of(name, batch)
    compiled, _ = jax.jit(functools.partial(outputs_of, name))(batch)
    chex.assert_trees_all_close(compiled, eager, atol=1e-5)


@EVERY
def test_masked_rows_change_nothing(name):
    """The rows beyond the first three are NaN: loss, gradient (as Adam keeps it) and rows are those of three."""
    state, step = started(name)
    filled = batch_of(name)
    for key in ("image", *(key for key, x in filled.items() if np.issubdtype(x.dtype, np.floating))):
        filled[key] = filled[key].astype(np.float32)
        filled[key][3:] = np.nan
    filled["is_example"] = (np.arange(8) < 3).astype(np.float32)
    (new, metrics), (expected, of_three) = step(state, filled), step(state, batch_of(name, 3))
    assert metrics["skipped_steps"][0] == 0
    chex.assert_trees_all_close(new.opt_state, expected.opt_state, atol=1e-5)
    chex.assert_trees_all_close(metrics, of_three, rtol=1e-4)
    rows = sorted(problem(name).task.rows)
    evaluate = jax.jit(make_eval_step(problem(name), row_names=rows))
    learned = {"params": state.params, "variables": state.variables}
    (sums, rows), (of_three, three_rows) = evaluate(learned, filled), evaluate(learned, batch_of(name, 3))
    chex.assert_trees_all_close(sums, of_three, rtol=1e-4)
    chex.assert_trees_all_close({key: x[:3] for key, x in rows.items()}, three_rows, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("classification", {"class_weights": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)}),
        ("classification", {"loss_type": "sigmoid"}),
        ("distillation", {}),
        ("distillation", {"kind": "soft"}),
        ("masked_autoencoder", {}),
    ],
)
def test_masked_rows_change_no_gradient_of_a_mixed_batch(name, options):
    """Whether they are NaN or other numbers, for the rows whose partners in mixup they would be too."""
    row = ROWS[name]
    task = plugins.create_task(name, row.fields, **{**row.options, **options})
    mean = std = (0.5,) * 3
    prepare = make_prepare(mean, std, fields=task.fields, augmentations=[Mix(mixup_alpha=1.0)])
    mixed = Problem(problem(name).model, task, prepare, row.companions)
    state, _ = started(name)
    step = jax.jit(make_train_step(mixed, optimizers.create("adam", schedule=lambda step: 0.01), log_every_steps=1))
    given = batch_of(name) | {"is_example": (np.arange(8) < 5).astype(np.float32)}
    given["image"] = given["image"].astype(np.float32)
    states = []
    for value in (np.nan, np.inf, 7.0):
        given["image"] = np.where(given["is_example"][:, None, None, None] > 0, given["image"], np.float32(value))
        new, metrics = step(state, given)
        assert metrics["skipped_steps"][0] == 0
        states.append((new.opt_state, metrics))
    chex.assert_trees_all_equal(*states)


@EVERY
def test_eight_examples_are_learned_by_heart(name):
    state, step = started(name)
    losses = []
    for _ in range(100):
        state, metrics = step(state, batch_of(name))
        losses.append(loss_of(metrics))
    assert losses[-1] < ROWS[name].falls_to * losses[0]
    assert int(state.skipped) == 0


@EVERY
def test_results_are_text_and_pictures_of_the_original_image(name):
    outputs, _ = outputs_of(name, batch_of(name, 2))
    placements = [Placement((40, 60), (10.0, 0.0, 50.0, 40.0), (8, 8)), Placement.whole((8, 8))]
    results = problem(name).task.inference().results(jax.tree.map(np.asarray, outputs), placements)
    assert len(results) == 2
    for result, placement in zip(results, placements, strict=True):
        assert result.line() and "\n" not in result.line()
        assert result.json() == json.loads(json.dumps(result.json()))
        height, width = placement.image_size
        picture = result.draw(Image.new("RGB", (width, height)))
        assert picture is None or (picture.width >= width and picture.height >= height)
        assert all(file.size == (width, height) for file in result.files().values())
