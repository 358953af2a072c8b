"""Optimizers against updates worked out by hand; freezing; the moving average."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax.errors import InputError
from vit_jax.layers.roles import Role, kernel
from vit_jax.training import optimizer as optimizers

PARAMS = {
    "block": {"kernel": jnp.array([2.0, -4.0]), "bias": jnp.array([1.0]), "scale": jnp.array([3.0])},
    "class_token": jnp.array([0.5]),
}
GRADIENTS = {
    "block": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([0.0]), "scale": jnp.array([0.0])},
    "class_token": jnp.array([0.0]),
}


def make(name, **options):
    return optimizers.create(name, schedule=optax.constant_schedule(1.0), **options)


def first_update(name, **options):
    optimizer = make(name, **options)
    return optimizer.transform.update(GRADIENTS, optimizer.transform.init(PARAMS), PARAMS)[0]


def test_adams_first_update_is_the_gradients_sign():
    update = first_update("adam", eps=1e-12)
    chex.assert_trees_all_close(update["block"]["kernel"], jnp.array([1.0, 1.0]), rtol=1e-5)


def test_sgd_is_the_gradient_and_momentum_adds_up():
    optimizer = make("sgd", momentum=0.5)
    state = optimizer.transform.init(PARAMS)
    for factor in (1.0, 1.5, 1.75):
        update, state = optimizer.transform.update(GRADIENTS, state, PARAMS)
        chex.assert_trees_all_close(update["block"]["kernel"], factor * GRADIENTS["block"]["kernel"])


def test_the_first_moment_can_be_kept_in_bfloat16():
    optimizer = make("adam", b1=0.9, eps=1e-12, moment_dtype="bfloat16")
    update, state = optimizer.transform.update(GRADIENTS, optimizer.transform.init(PARAMS), PARAMS)
    mean, square = (jax.tree.leaves(slot)[1] for slot in (state[1].mu, state[1].nu))  # of the block's kernel
    chex.assert_trees_all_equal(mean, jnp.array([0.3, 0.4], jnp.bfloat16))
    chex.assert_trees_all_close(square, jnp.array([0.009, 0.016]), rtol=1e-6)
    # What is rounded is kept for the next step: this one uses it unrounded.
    chex.assert_trees_all_close(update["block"]["kernel"], jnp.array([1.0, 1.0]), rtol=1e-5)
    momentum = make("sgd", moment_dtype="bfloat16").transform.init(PARAMS)
    chex.assert_type(jax.tree.leaves(momentum), jnp.bfloat16)


def test_clipping_scales_to_the_norm():
    update = first_update("sgd", momentum=0.0, clip_norm=1.0)  # the gradient's norm is 5
    chex.assert_trees_all_close(update["block"]["kernel"], jnp.array([0.6, 0.8]), rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_touches_kernels_alone(name):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    optimizer = make(name, weight_decay=0.1)
    update, _ = optimizer.transform.update(zero, optimizer.transform.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(update["block"]["kernel"], 0.1 * PARAMS["block"]["kernel"], rtol=1e-6)
    for leaf in (update["block"]["bias"], update["block"]["scale"], update["class_token"]):
        chex.assert_trees_all_equal(leaf, jnp.zeros(1))


def test_split_leaves_no_slots_for_frozen_leaves():
    optimizer = make("adam", freeze=("^block/",))
    trainable, frozen = optimizer.split(PARAMS)
    assert optimizers.leaf_names(trainable) == ["class_token"]
    assert optimizers.leaf_names(frozen) == ["block/bias", "block/kernel", "block/scale"]
    slots = [leaf for leaf in jax.tree.leaves(optimizer.transform.init(trainable)) if leaf.ndim]
    assert [leaf.shape for leaf in slots] == [(1,), (1,)]  # mean and square of the class token
    chex.assert_trees_all_equal(optimizers.merge(trainable, frozen), PARAMS)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_turning_clipping_or_decay_on_leaves_the_slots_where_they_were(name):
    def slots(**options):
        return optimizers.leaf_names(make(name, **options).transform.init(PARAMS))

    assert slots() == slots(clip_norm=1.0, weight_decay=0.1)


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("blok",), "'blok' matches no parameter.*block/bias"),
        (("(",), "no regular expression"),
        (("block", "token"), "matches every parameter"),
    ],
)
def test_freeze_refusals(freeze, message):
    with pytest.raises(InputError, match=message):
        make("adam", freeze=freeze).split(PARAMS)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamm", {}, "adamm.*adamw, adam, sgd, muon"),
        ("adam", {"weight_decay": 0.1}, "adam has none"),
        ("adamw", {"weight_decay": -0.1}, "weight_decay is -0.1"),
        ("adamw", {"b2": 1.0}, "b2 is 1.0"),
        ("muon", {}, "tells no blocks apart; valid: adamw, adam, sgd"),
        ("sgd", {"clip_norm": -1.0}, "clip_norm is -1.0"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(InputError, match=message):
        make(name, **options)


def test_moving_average_by_hand_and_bitwise_where_nothing_changed():
    average = optimizers.moving_average({"a": jnp.array(4.0)}, {"a": jnp.array(8.0)}, 0.75)
    assert float(average["a"]) == 5.0
    values = {"a": jnp.asarray(np.random.default_rng(0).normal(size=100), jnp.float32)}
    chex.assert_trees_all_equal(optimizers.moving_average(values, values, 0.9), values)


BLOCKS = {
    "encoder": {
        "patch_embed": {"kernel": jnp.ones(1)},
        "block_0": {"kernel": jnp.ones(1)},
        "block_1": {"kernel": jnp.ones(1)},
        "norm": {"scale": jnp.ones(1)},
    },
    "head": {"kernel": jnp.ones(1)},
}
NUMBERS = {"encoder/patch_embed/kernel": 0, "encoder/block_0/kernel": 1, "encoder/block_1/kernel": 2}
LAYERS = optimizers.Layers(2, lambda path: NUMBERS.get(path, 3))
IN_BLOCK = Role("kernel", is_decayed=True, num_inputs=1, in_block=True)
ROLES = {f"encoder/block_{i}/kernel": IN_BLOCK for i in (0, 1)} | {"head/kernel": kernel(1, kind="head")}


def test_each_layers_rate_is_a_share_of_the_next_ones():
    factors = make("adamw", layer_decay=0.5, layers=LAYERS).rate_factors(BLOCKS)
    expected = {
        "encoder": {
            "patch_embed": {"kernel": 0.125},
            "block_0": {"kernel": 0.25},
            "block_1": {"kernel": 0.5},
            "norm": {"scale": 1.0},
        },
        "head": {"kernel": 1.0},
    }
    assert factors == expected
    assert set(jax.tree.leaves(make("adamw").rate_factors(BLOCKS))) == {1.0}


def test_the_first_blocks_and_the_stem_can_be_frozen():
    trainable, _ = make("sgd", freeze_blocks=1, layers=LAYERS).split(BLOCKS)
    assert optimizers.leaf_names(trainable) == ["encoder/block_1/kernel", "encoder/norm/scale", "head/kernel"]
    trainable, frozen = make("sgd", layers=LAYERS).split(BLOCKS)
    assert not jax.tree.leaves(frozen)


def _first_muon_update(gradients, **options):
    optimizer = make("muon", layers=LAYERS, roles=ROLES, **options)
    params, _ = optimizer.split(jax.tree.map(jnp.zeros_like, gradients))
    trainable = jax.tree.map(lambda p, g: None if p is None else g, params, gradients, is_leaf=lambda x: x is None)
    return optimizer.transform.update(trainable, optimizer.transform.init(params), params)[0]


def test_muon_makes_the_blocks_updates_nearly_orthogonal_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda _: jnp.asarray(rng.normal(size=(4, 6)), jnp.float32), BLOCKS)
    update = _first_muon_update(gradients)
    for name in ("block_0", "block_1"):
        singular_values = np.linalg.svd(update["encoder"][name]["kernel"], compute_uv=False)
        # Five iterations bring them near 1 (to 0.7 ... 1.2); then the scale: 0.2 sqrt(6).
        assert np.all(np.abs(singular_values / (0.2 * 6**0.5) - 1.0) < 0.35), singular_values
    for leaf in (update["head"]["kernel"], update["encoder"]["norm"]["scale"]):
        chex.assert_trees_all_close(jnp.abs(leaf), jnp.ones((4, 6)), rtol=1e-4)
    assert _first_muon_update(gradients, freeze=("block_0",))["encoder"]["block_0"]["kernel"] is None


def test_muon_takes_heads_as_part_of_the_matrix():
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)), jnp.float32)
    layers = optimizers.Layers(1, lambda path: 1)

    def update(name, shape, num_inputs):
        role = dataclasses.replace(IN_BLOCK, num_inputs=num_inputs)
        optimizer = make("muon", layers=layers, roles={f"block_0/{name}/kernel": role})
        gradients = {"block_0": {name: {"kernel": matrix.reshape(shape)}}}
        params = jax.tree.map(jnp.zeros_like, gradients)
        update, _ = optimizer.transform.update(gradients, optimizer.transform.init(params), params)
        return update["block_0"][name]["kernel"]

    expected = update("fc1", (6, 6), 1)
    for name, shape, inputs in (("query", (6, 2, 3), 1), ("out", (2, 3, 6), 2), ("conv", (1, 2, 3, 6), 3)):
        assert update(name, shape, inputs).shape == shape
        chex.assert_trees_all_close(update(name, shape, inputs).reshape(6, 6), expected, rtol=1e-5)


def test_muon_needs_to_know_the_blocks():
    with pytest.raises(InputError, match="'muon', but the model tells no blocks apart"):
        make("muon", layers=LAYERS, roles={"head/kernel": kernel(1)})


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_fixed_parameter_has_no_rate_and_no_decay(name):
    roles = {"block/kernel": Role(is_fixed=True)}
    optimizer = make(name, weight_decay=0.1, roles=roles)
    assert optimizer.rate_factors(PARAMS)["block"] == {"kernel": 0.0, "bias": 1.0, "scale": 1.0}
    assert not any(jax.tree.leaves(optimizers.decayed(PARAMS, roles)))


def test_decay_goes_by_the_roles():
    roles = {"block/kernel": Role(), "class_token": Role(is_decayed=True)}
    decayed = {"block": {"kernel": False, "bias": False, "scale": False}, "class_token": True}
    assert optimizers.decayed(PARAMS, roles) == decayed


def test_layers_are_needed_to_tell_them_apart():
    with pytest.raises(InputError, match=r"layer_decay is 0.5, but the model tells no layers apart"):
        make("sgd", layer_decay=0.5)
    with pytest.raises(InputError, match="freeze_blocks is 1; valid: 0 to the model's 0 blocks"):
        make("sgd", freeze_blocks=1)
