"""The train step: devices agree, bad steps change nothing, frozen leaves stay, sums add up."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import small_config
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny import classification, flipped, scaled

from vit_jax.build.experiment import experiment
from vit_jax.data.loading.loader import Share
from vit_jax.models import vit
from vit_jax.parallel.pmap import Pmap
from vit_jax.training import optimizer as optimizers
from vit_jax.training.evaluation import make_eval_step
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step, sum_over_parts

BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (24, 4, 4, 1), dtype=np.uint8),
    "label": np.eye(3, dtype=np.float32)[np.random.default_rng(1).integers(0, 3, 24)],
    "index": np.arange(24, dtype=np.uint32),
}
EXAMPLE = {name: value[:1] for name, value in BATCH.items()}


def tiny(prepare=flipped, class_weights=None, **options):
    encoder = vit.create("Ti/2", hidden_dim=8, depth=1, mlp_dim=16, num_heads=2, **options)
    task = classification(3, class_weights=class_weights)
    return Problem(task.wrap(encoder), task, prepare)


@functools.cache
def compiled(num_devices, *, weights=None, name="adamw", schedule=lambda step: 0.05, freeze=(), **options):
    """Strategy, first state and step, once for all tests that train in the same way."""
    problem = tiny(class_weights=weights)
    optimizer = optimizers.create(name, schedule=schedule, weight_decay=0.1, clip_norm=1.0, freeze=freeze)
    strategy = Pmap(jax.local_devices()[:num_devices])
    first = jax.device_get(jax.jit(lambda: make_init(problem, optimizer, moving_average=True)(0, EXAMPLE))())
    step = make_train_step(problem, optimizer, ema_decay=0.5, axis_name=strategy.axis_name, **options)
    return strategy, first, strategy.compile_train_step(step)


def run(num_devices, batches, **options):
    """First and last state, and the metrics of each step."""
    strategy, first, step = compiled(num_devices, **options)
    return first, *trained(strategy, first, step, batches)


def trained(strategy, first, step, batches):
    state, seen = strategy.place_state(first), []
    for batch in batches:
        state, metrics = step(state, strategy.place_batch(batch))
        seen.append({name: tuple(map(float, pair)) for name, pair in strategy.fetch(metrics).items()})
    return strategy.fetch(state), seen


def poisoned(batch):
    return batch | {"label": np.full((24, 3), np.nan, np.float32)}


@pytest.mark.parametrize("num_devices", [3, 8])
def test_devices_agree_with_one(num_devices):
    # With SGD, since Adam blows up the rounding of gradients that are zero, such as those of the keys' biases.
    options = {"name": "sgd", "weights": (0.5, 1.0, 3.0)}
    _, one, one_metrics = run(1, [BATCH] * 3, **options)
    _, many, many_metrics = run(num_devices, [BATCH] * 3, **options)
    assert one_metrics[0]["loss"][1] == (BATCH["label"] * (0.5, 1.0, 3.0)).sum() != 24  # a mean over the weights
    chex.assert_trees_all_close(many.params, one.params, atol=1e-6)
    chex.assert_trees_all_close(many.ema_params, one.ema_params, atol=1e-6)
    chex.assert_trees_all_close(many_metrics, one_metrics, rtol=1e-5)


def test_devices_agree_with_one_under_every_augmentation():
    config = small_config(
        batch_size=24,
        num_steps=4,
        optimizer__name="sgd",
        data__repeats=3,
        data__augment={
            "flip": {},
            "shift": {"pixels": 1},
            "randaugment": {"magnitude_std": 0.5},
            "erase": {"probability": 0.25},
            "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
        },
    )
    built = experiment(config)
    batches = list(built.train_loader.train_batches(Share(24), seed=0, start_step=0, total_steps=4))

    def ended(num_devices):
        strategy = Pmap(jax.local_devices()[:num_devices])
        first = strategy.new_state(lambda: built.init(0, built.example))
        step = strategy.compile_train_step(built.make_train_step(strategy.axis_name))
        return trained(strategy, first, step, batches)

    (one, one_metrics), (many, many_metrics) = ended(1), ended(8)
    chex.assert_trees_all_close(many.params, one.params, atol=1e-6)
    chex.assert_trees_all_close(many_metrics, one_metrics, rtol=1e-5)


def test_a_step_changes_every_leaf_and_the_average_follows():
    first, last, _ = run(1, [BATCH] * 2)
    for path, before in jax.tree_util.tree_leaves_with_path(first.params):
        after = last.params
        for key in path:
            after = after[key.key]
        assert not np.array_equal(before, after), path
    once = run(1, [BATCH])[1]
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, once.ema_params, last.params)
    chex.assert_trees_all_close(last.ema_params, expected, atol=1e-6)


def test_a_bad_step_changes_nothing_but_the_counters():
    _, good, _ = run(1, [BATCH])
    _, after, metrics = run(1, [BATCH, poisoned(BATCH)])
    for name in ("params", "opt_state", "ema_params"):
        chex.assert_trees_all_equal(getattr(after, name), getattr(good, name))
    assert (after.step, after.skipped, after.skipped_in_row) == (2, 1, 1)
    # A NaN label spoils every gradient; the first leaf in tree order is named.
    assert after.nonfinite_leaf == 0
    assert metrics[1]["skipped_steps"] == (1.0, 1.0)


def test_a_good_step_ends_the_row():
    _, state, _ = run(1, [poisoned(BATCH), BATCH])
    assert (state.skipped, state.skipped_in_row, state.nonfinite_leaf) == (1, 0, -1)


def test_after_too_many_bad_steps_good_ones_change_nothing_either():
    first, state, _ = run(1, [poisoned(BATCH)] * 2 + [BATCH], max_skipped_steps=2)
    chex.assert_trees_all_equal(state.params, first.params)
    assert (state.step, state.skipped_in_row) == (3, 3)


def test_bad_steps_do_not_reach_the_sums():
    _, _, metrics = run(1, [BATCH, poisoned(BATCH)], log_every_steps=10)
    assert metrics[1]["loss"] == metrics[0]["loss"]
    assert metrics[0]["loss"][1] == 24.0


def test_sums_start_anew_after_each_log():
    _, _, metrics = run(1, [BATCH] * 5, log_every_steps=2)
    assert [m["loss"][1] for m in metrics] == [24.0, 48.0, 24.0, 48.0, 24.0]


def test_the_learning_rate_follows_the_steps_skipped_ones_too():
    _, _, metrics = run(1, [poisoned(BATCH), BATCH], schedule=lambda step: 0.25 * (step + 1))
    assert [metric["learning_rate"][0] for metric in metrics] == [0.25, 0.5]


def test_frozen_leaves_stay_bitwise_and_have_no_slots():
    first, last, _ = run(1, [BATCH] * 2, freeze=("encoder/block_0",))
    chex.assert_trees_all_equal(last.params["encoder"]["block_0"], first.params["encoder"]["block_0"])
    chex.assert_trees_all_equal(last.ema_params["encoder"]["block_0"], first.params["encoder"]["block_0"])
    assert not np.array_equal(last.params["encoder"]["norm"]["bias"], first.params["encoder"]["norm"]["bias"])
    assert not [name for name in optimizers.leaf_names(last.opt_state) if "block_0" in name]


def test_the_gradient_is_that_of_the_mean_loss_over_unmasked_examples():
    half = {name: value[:12] for name, value in BATCH.items()}
    half |= {"is_example": np.ones(12, np.float32)}
    _, from_half, _ = run(1, [half], name="sgd")
    _, from_whole, _ = run(1, [BATCH | {"is_example": np.repeat([1.0, 0.0], 12).astype(np.float32)}], name="sgd")
    chex.assert_trees_all_close(from_whole.params, from_half.params, atol=1e-6)


@pytest.mark.parametrize(("num_devices", "parts"), [(1, 4), (2, 3)])
def test_accumulated_gradients_are_those_of_the_whole_batch(num_devices, parts):
    mask = np.ones(24, np.float32)
    mask[[3, 4, 20]] = 0.0
    batches = [BATCH | {"is_example": mask}] * 3
    _, whole, whole_metrics = run(num_devices, batches, name="sgd")
    _, state, metrics = run(num_devices, batches, name="sgd", accumulate_steps=parts)
    chex.assert_trees_all_close(state.params, whole.params, atol=1e-6)
    chex.assert_trees_all_close(state.ema_params, whole.ema_params, atol=1e-6)
    chex.assert_trees_all_close(metrics, whole_metrics, rtol=1e-5)


def test_parts_have_each_row_once_and_a_key_of_their_own_and_pass_the_carry_on():
    def counts(part, key, carry):
        assert part["row"].shape == (6,)
        number = jax.nn.one_hot(jax.random.randint(key, (), 0, 10**4), 10**4)
        return (jax.nn.one_hot(part["row"], 24).sum(0), number), 10 * carry + part["row"][0]

    parts = sum_over_parts(counts, {"row": jnp.arange(24)}, jax.random.key(0), jnp.int32(5), num_parts=4)
    (rows, numbers), carry = parts
    np.testing.assert_array_equal(rows, np.ones(24))
    assert sorted(numbers[numbers > 0].tolist()) == [1.0] * 4
    assert carry == 50123


def test_no_row_moves_to_another_device_to_be_accumulated():
    shares = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    batch = jax.device_put(BATCH, shares)

    def total(batch, key):
        return sum_over_parts(lambda part, key, _: (part["image"].sum(), ()), batch, key, (), num_parts=3)[0]

    program = jax.jit(total).lower(batch, jax.random.key(0)).compile().as_text()
    assert "all-reduce" in program
    assert not re.search("all-gather|all-to-all|collective-permute", program)


def test_eval_step_sums_over_devices():
    problem = tiny(scaled)
    strategy = Pmap(jax.local_devices()[:2])
    params = problem.model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), train=False)["params"]
    learned = strategy.place_state({"params": params, "variables": {}})
    step = strategy.compile_eval_step(make_eval_step(problem, axis_name=strategy.axis_name))
    mask = np.ones(24, np.float32)
    mask[20:] = 0
    sums, rows = strategy.fetch(step(learned, strategy.place_batch(BATCH | {"is_example": mask})))
    assert rows == {}
    assert tuple(map(float, sums["examples"])) == (20.0, 20.0)
    # The head starts at zero, so every class is equally likely.
    assert tuple(map(float, sums["loss"])) == (pytest.approx(20 * np.log(3), rel=1e-5), 20.0)


def test_the_same_seed_gives_the_same_start_and_another_one_another():
    optimizer = optimizers.create("sgd", schedule=optax.constant_schedule(0.1))
    init = make_init(tiny(), optimizer, moving_average=False)
    chex.assert_trees_all_equal(init(3, EXAMPLE), init(3, EXAMPLE))
    kernel = [init(seed, EXAMPLE).params["encoder"]["patch_embed"]["kernel"] for seed in (3, 4)]
    assert not np.array_equal(*kernel)
    assert init(3, EXAMPLE).ema_params is None
