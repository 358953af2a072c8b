"""What the step, the state and the evaluation promise any task, with toy tasks whose figures can be worked out."""

import dataclasses
import functools
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax.contracts import Task
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.ops.batch_axes import mean_over_devices
from vit_jax.parallel.mesh import Mesh
from vit_jax.parallel.pmap import Pmap
from vit_jax.training import optimizer as optimizers
from vit_jax.training.companions import Companion
from vit_jax.training.evaluation import make_eval_step
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step
from vit_jax.types import Field, mask_of

SIZE = 16
FIELDS = {
    "image": Field("image", (2, 2, 1), "float32"),
    "target": Field("array", (), "float32"),
    "weight": Field("array", (), "float32"),
}
RATE = 0.05


class Line(nn.Module):
    """A line through the pixels, less their running mean."""

    @nn.compact
    def __call__(self, images, *, train):
        x = images.reshape(len(images), -1)
        mean = self.variable("statistics", "mean", jnp.zeros, x.shape[-1:])
        if train:
            mean.value = 0.5 * mean.value + 0.5 * mean_over_devices(x.mean(axis=0))
        return nn.Dense(1, name="head")(x - mean.value)[:, 0]


@dataclasses.dataclass(frozen=True)
class Fit(Task):
    """Fits a line by weighted squares, and shows what each example was drawn."""

    def wrap(self, encoder):
        return Line()

    def forward(self, given, batch, *, rngs, train):
        value, variables = given.apply(batch["image"], train=train, rngs=rngs)
        draws = {name: jax.vmap(jax.random.uniform)(rngs[name]) for name in ("mask", "noise")}
        return {"value": value, **draws}, variables

    def loss(self, outputs, batch):
        return batch["weight"] * (outputs["value"] - batch["target"]) ** 2

    def weight(self, batch):
        return batch["weight"]

    def metrics(self, outputs, batch, *, train):
        mask = mask_of(batch)
        here = {number: (batch["index"] % SIZE == number) * mask for number in range(SIZE)}
        return {
            f"{name}_{number}": ((outputs[name] * there).sum(), there.sum())
            for number, there in here.items()
            for name in ("mask", "noise")
        }

    @property
    def rows(self):
        return {name: lambda outputs, batch, name=name: outputs[name] for name in ("value", "mask", "noise")}


def batches(num_steps=3):
    rng = np.random.default_rng(0)
    made = [
        {
            "image": rng.normal(size=(SIZE, 2, 2, 1)).astype(np.float32),
            "target": rng.normal(size=SIZE).astype(np.float32),
            "weight": rng.integers(1, 9, SIZE).astype(np.float32),
            "index": np.arange(step * SIZE, (step + 1) * SIZE, dtype=np.uint32),
            "is_example": np.ones(SIZE, np.float32),
        }
        for step in range(num_steps)
    ]
    made[1]["is_example"][[2, 9]] = 0.0
    return made


LAYOUTS = {
    "pmap 1": lambda: Pmap(jax.local_devices()[:1]),
    "pmap 2": lambda: Pmap(jax.local_devices()[:2]),
    "pmap 8": lambda: Pmap(jax.local_devices()[:8]),
    "mesh 2 2 2": lambda: Mesh(2, 2, 2, min_size=0),
}


def as_it_is(key, batch, axis_name=None):
    return dict(batch)


class Run:
    """A problem with its first state and its compiled step."""

    def __init__(self, layout, task=Fit(FIELDS), *, companions=None, ema_decay=0.0, **options):
        self.strategy = LAYOUTS[layout]()
        self.problem = Problem(task.wrap(None), task, as_it_is, companions or {})
        optimizer = optimizers.create("sgd", schedule=lambda step: RATE, momentum=0.0)
        init = make_init(self.problem, optimizer, moving_average=ema_decay != 0.0)
        self.first = self.strategy.fetch(self.strategy.place_state(self.strategy.new_state(lambda: init(0, EXAMPLE))))
        step = make_train_step(
            self.problem, optimizer, ema_decay=ema_decay, axis_name=self.strategy.axis_name, **options
        )
        self._step = self.strategy.compile_train_step(step)

    def __call__(self, state, batches):
        """Each state after a step, and each step's metrics."""
        placed, states, seen = self.strategy.place_state(state), [], []
        for batch in batches:
            placed, metrics = self._step(placed, self.strategy.place_batch(batch))
            states.append(self.strategy.fetch(placed))
            seen.append(jax.tree.map(float, self.strategy.fetch(metrics)))
        return states, seen


EXAMPLE = {name: x[:1] for name, x in batches(2)[0].items()}


@functools.cache
def compiled(layout, accumulate_steps=1):
    return Run(layout, accumulate_steps=accumulate_steps)


def line(params, variables, images):
    head = params["head"]
    return ((images.reshape(len(images), -1) - variables["statistics"]["mean"]) @ head["kernel"] + head["bias"])[:, 0]


def test_the_loss_is_the_weighted_mean_and_the_statistics_are_those_of_the_batch():
    run, (batch, *_) = compiled("pmap 1"), batches()
    (state,), (metrics,) = run(run.first, [batch])
    mean = 0.5 * batch["image"].reshape(SIZE, -1).mean(axis=0)
    np.testing.assert_allclose(state.variables["statistics"]["mean"], mean, rtol=1e-5)

    def loss(params):
        errors = line(params, {"statistics": {"mean": mean}}, batch["image"]) - batch["target"]
        return (batch["weight"] * errors**2).sum() / batch["weight"].sum()

    value, gradient = jax.value_and_grad(loss)(run.first.params)
    assert metrics["loss"][0] / metrics["loss"][1] == pytest.approx(float(value), rel=1e-5)
    assert metrics["loss"][1] == batch["weight"].sum()
    expected = jax.tree.map(lambda p, g: p - RATE * g, run.first.params, gradient)
    chex.assert_trees_all_close(state.params, expected, atol=1e-6)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
@pytest.mark.parametrize("layout", ["pmap 2", "pmap 8", "mesh 2 2 2"])
def test_every_number_of_devices_gives_the_same(layout, accumulate_steps):
    """Parameters, statistics, losses, and what each example is drawn."""
    one, many = compiled("pmap 1", accumulate_steps), compiled(layout, accumulate_steps)
    chex.assert_trees_all_equal(one.first.params, many.first.params)
    expected, expected_metrics = one(one.first, batches())
    found, metrics = many(many.first, batches())
    chex.assert_trees_all_close(found[-1].params, expected[-1].params, atol=1e-6)
    chex.assert_trees_all_close(found[-1].variables, expected[-1].variables, atol=1e-6)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-5, atol=1e-6)


def test_statistics_pass_from_one_micro_batch_to_the_next():
    run, (batch, *_) = compiled("pmap 1", 2), batches()
    (state,), (metrics,) = run(run.first, [batch])
    first, second = (batch["image"][part::2].reshape(SIZE // 2, -1).mean(axis=0) for part in (0, 1))
    np.testing.assert_allclose(state.variables["statistics"]["mean"], 0.25 * first + 0.5 * second, rtol=1e-5)
    assert metrics["loss"][1] == batch["weight"].sum()


def test_what_an_example_is_drawn_depends_on_seed_and_index_alone():
    run = compiled("pmap 1")
    first, second, _ = batches()
    _, (a, b, c) = run(run.first, [first, second, first])
    parts, (in_parts,) = compiled("pmap 1", 2), ({},)
    _, (in_parts,) = parts(parts.first, [first])
    moved = {name: np.roll(x, 5, axis=0) for name, x in first.items()}
    _, (shuffled,) = run(run.first, [moved])
    draws = [name for name in a if name.startswith(("mask_", "noise_"))]
    for name in draws:
        assert a[name] == c[name] == in_parts[name] == shuffled[name]
    assert len({a[name][0] for name in draws}) == 2 * SIZE
    assert {b[name][0] for name in draws}.isdisjoint(a[name][0] for name in draws)
    other = run.first.replace(key=jax.random.key_data(jax.random.key(1)))
    _, (of_another_seed,) = run(other, [first])
    assert of_another_seed["mask_0"] != a["mask_0"]


def test_an_evaluations_draws_depend_on_the_index_alone():
    seen = []
    for layout, roll in (("pmap 1", 0), ("pmap 8", 3)):
        run = compiled(layout)
        names = ("value", "mask", "noise")
        step = make_eval_step(run.problem, row_names=names, axis_name=run.strategy.axis_name)
        state = run.first if roll == 0 else run.first.replace(key=jax.random.key_data(jax.random.key(7)))
        learned = run.strategy.place_state({"params": state.params, "variables": state.variables})
        batch = {name: np.roll(x, roll, axis=0) for name, x in batches()[0].items()}
        sums, rows = run.strategy.fetch(run.strategy.compile_eval_step(step)(learned, run.strategy.place_batch(batch)))
        order = np.argsort(rows["index"])
        seen.append({name: rows[name][order] for name in names})
        assert sums["loss"][1] == batch["weight"].sum() and sums["examples"][0] == SIZE
    chex.assert_trees_all_close(*seen, rtol=1e-6)
    assert len({*seen[0]["mask"], *seen[0]["noise"]}) == 2 * SIZE


@pytest.mark.parametrize("layout", ["pmap 1", "pmap 2"])
def test_what_masked_rows_hold_changes_not_a_bit(layout):
    run, (batch, *_) = compiled(layout), batches()
    batch["is_example"][[1, 8, 15]] = 0.0
    other = {name: x.copy() for name, x in batch.items()}
    for name in ("image", "target", "weight"):
        other[name][[1, 8, 15]] = [np.nan if name != "image" else np.full((2, 2, 1), np.nan)] * 3
    chex.assert_trees_all_equal(run(run.first, [batch]), run(run.first, [other]))
    (state,), (metrics,) = run(run.first, [other])
    assert state.skipped == 0 and np.isfinite(metrics["loss"]).all()
    assert metrics["loss"][1] == batch["weight"][batch["is_example"] > 0].sum()


@pytest.mark.parametrize("name", ["is_example", "weight"])
def test_a_batch_that_weighs_nothing_changes_nothing(name):
    run, (batch, *_) = compiled("pmap 2"), batches()
    (state,), (metrics,) = run(run.first, [batch | {name: np.zeros(SIZE, np.float32)}])
    chex.assert_trees_all_equal(state.params, run.first.params)
    assert state.skipped == 0 and metrics["loss"] == (0.0, 0.0) and metrics["gradient_norm"] == (0.0, 1.0)


def test_a_skipped_step_leaves_the_statistics_alone():
    run, (batch, *_) = compiled("pmap 1"), batches()
    bad = batch | {"target": np.full(SIZE, np.nan, np.float32)}
    (good, skipped), _ = run(run.first, [batch, bad])
    chex.assert_trees_all_equal(skipped.variables, good.variables)
    assert skipped.skipped == 1 and good.variables["statistics"]["mean"].any()


class Follow(Fit):
    """Fits the line that the moving average of its own parameters gives."""

    needs_moving_average: ClassVar = True

    def forward(self, given, batch, *, rngs, train):
        outputs, variables = super().forward(given, batch, rngs=rngs, train=train)
        if train:
            outputs["target"], _ = given.apply(batch["image"], train=False, params=given.ema_params)
        return outputs, variables

    def loss(self, outputs, batch):
        return (outputs["value"] - outputs["target"]) ** 2


def test_the_moving_average_may_teach():
    run, (batch, *_) = Run("pmap 1", Follow(FIELDS), ema_decay=0.9), batches()
    zeros = jax.tree.map(np.zeros_like, run.first.params)
    (state,), (metrics,) = run(run.first.replace(ema_params=zeros), [batch])
    mean = 0.5 * batch["image"].reshape(SIZE, -1).mean(axis=0)
    expected = (line(run.first.params, {"statistics": {"mean": mean}}, batch["image"]) ** 2).sum()
    assert metrics["loss"][0] == pytest.approx(expected, rel=1e-5)
    chex.assert_trees_all_close(state.ema_params, jax.tree.map(lambda x: 0.1 * x, state.params), rtol=1e-5)


def test_a_task_that_needs_the_moving_average_is_refused_without_one():
    with pytest.raises(InputError, match=r"^ema_decay is 0, but task 'test_spine' learns from the moving average; val"):
        Run("pmap 1", Follow(FIELDS))


@pytest.mark.parametrize("name", ["is_example", "index"])
def test_a_field_may_not_be_called_as_a_batchs_own(name):
    task = Fit({**FIELDS, name: Field("array")})
    with pytest.raises(InputError, match=f"^the data has a field called '{name}', .*; valid: another name$"):
        Problem(task.wrap(None), task, as_it_is)


def test_the_decay_of_the_moving_average_may_follow_the_steps():
    run = Run("pmap 1", ema_decay=lambda step: jnp.where(step == 1, 1.0, 0.0))
    (first, second, third), _ = run(run.first, batches())
    chex.assert_trees_all_close(first.ema_params, first.params)
    chex.assert_trees_all_equal(second.ema_params, first.ema_params)
    chex.assert_trees_all_close(third.ema_params, third.params)


class Learn(Fit):
    """Fits what a companion answers."""

    def forward(self, given, batch, *, rngs, train):
        outputs, variables = super().forward(given, batch, rngs=rngs, train=train)
        if train:
            outputs["target"] = given.companions["guide"](batch["image"])[:, 0]
        return outputs, variables

    def loss(self, outputs, batch):
        return (outputs["value"] - outputs["target"]) ** 2


class Mean(nn.Module):
    """The mean of the pixels times a factor."""

    @nn.compact
    def __call__(self, images, *, train):
        return self.param("factor", nn.initializers.ones, (1,)) * images.mean(axis=(1, 2))


@pytest.mark.parametrize("layout", ["pmap 2", "mesh 2 2 2"])
def test_a_companion_answers_and_never_changes(layout):
    size = Preprocessing((2, 2), 1, mean=(0.5,), std=(0.5,))
    params = {"factor": np.array([3.0], np.float32)}
    guide = Companion(Mean(), lambda key, x: Mean().init(key, x, train=False), size, size, params, "the guide")
    run = Run(layout, Learn(FIELDS), companions={"guide": guide}, ema_decay=0.9)
    chex.assert_trees_all_equal(run.first.companions, {"guide": {"factor": np.zeros(1, np.float32)}})
    states, seen = run(run.first.replace(companions={"guide": params}), batches())
    chex.assert_trees_all_equal(states[-1].companions, {"guide": params})
    (batch, *_), (metrics, *_) = batches(), seen
    mean = 0.5 * batch["image"].reshape(SIZE, -1).mean(axis=0)
    errors = line(run.first.params, {"statistics": {"mean": mean}}, batch["image"]) - 3 * batch["image"].mean((1, 2, 3))
    assert metrics["loss"][0] == pytest.approx((errors**2).sum(), rel=1e-4)
    assert str(guide) == "learning from the guide: 1 parameters, images of 2x2 px"
