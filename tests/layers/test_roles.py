"""Roles: collected from declarations and names, for parameters and what belongs to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax.layers import roles
from vit_jax.layers.head import Head
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.patch_embed import PositionEmbedding
from vit_jax.layers.roles import Cut, Role

IMAGES = np.zeros((1, 4, 4, 3), np.float32)


class Block(nn.Module):
    """With a layer of our own, one of Linen's, and a fixed parameter."""

    @nn.compact
    def __call__(self, x, *, train):
        roles.declare_block(self)
        table = roles.param(self, "table", nn.initializers.ones, (3,), Role(is_fixed=True))
        return nn.Dense(3, name="dense")(Mlp(6, name="mlp")(x, train=train)) * table


class Model(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        x = nn.remat(lambda module, x: module(x, train=train))(Block(name="block_0"), images)
        x = PositionEmbedding(name="pos_embedding")(x, x[:, :1, 0]).mean(axis=1)
        return Head(5, name="head")(x)


@pytest.fixture(scope="module")
def found():
    return roles.roles_of(Model(), IMAGES)


def test_declared_roles(found):
    units = "MLP hidden units"
    assert found["block_0/mlp/fc1/kernel"] == Role("kernel", True, 1, Cut(-1, units), in_block=True)
    assert found["block_0/mlp/fc1/bias"] == Role(cut=Cut(-1, units), in_block=True)
    assert found["block_0/mlp/fc2/kernel"] == Role("kernel", True, 1, Cut(-2, units), in_block=True)
    assert found["block_0/table"] == Role(is_fixed=True, in_block=True)
    assert found["pos_embedding/grid"] == Role("position_grid")
    assert found["head/kernel"] == Role("head", True, 1)


def test_parameters_without_a_declaration_go_by_their_last_name(found):
    assert found["block_0/dense/kernel"] == Role("kernel", True, 1, in_block=True)
    assert found["block_0/mlp/fc2/bias"] == found["block_0/dense/bias"] == Role(in_block=True)
    assert found["head/bias"] == found["pos_embedding/prefix"] == Role()


def test_every_parameter_has_one(found):
    shapes = jax.eval_shape(lambda: Model().init(jax.random.key(0), IMAGES, train=False))["params"]
    names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(shapes)}
    assert found.keys() == names


def test_what_belongs_to_a_parameter_has_its_role(found):
    for prefix in ("params/", "opt_state/1/mu/", "ema_params/encoder/"):
        assert roles.role_of(found, f"{prefix}block_0/table").is_fixed
    assert roles.role_of(found, "opt_state/1/count") == Role()
    assert roles.role_of({}, "anything/kernel").is_decayed


def test_the_longest_ending_counts():
    known = {"block_0/kernel": Role(), "companions/teacher/block_0/kernel": Role(is_fixed=True)}
    assert roles.role_of(known, "companions/teacher/block_0/kernel").is_fixed
    assert not roles.role_of(known, "params/block_0/kernel").is_fixed


def test_another_models_roles_can_be_added(found):
    with roles.collecting() as collected:
        roles.add(found, prefix="companions/teacher")
    assert collected["companions/teacher/block_0/table"].is_fixed
    roles.add(found, prefix="nowhere")  # nothing is being collected


def test_collecting_again_finds_the_same(found):
    """Though JAX does not trace the same function twice."""

    def initialise():
        return {"encoder": Model().init(jax.random.key(0), IMAGES, train=False)["params"]}

    first, second = roles.trace(initialise), roles.trace(initialise)
    assert first.roles == second.roles == {f"encoder/{path}": role for path, role in found.items()}
    with roles.collecting() as applied:
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), first.shapes)
        Model().apply({"params": params["encoder"]}, IMAGES, train=False)
    assert applied == {}


def test_no_gradient_reaches_a_fixed_parameter():
    params = Model().init(jax.random.key(0), IMAGES + 1.0, train=False)
    params["params"]["head"]["kernel"] += 1.0
    gradient = jax.grad(lambda p: Model().apply(p, IMAGES + 1.0, train=False).sum())(params)["params"]
    assert not gradient["block_0"]["table"].any() and gradient["block_0"]["dense"]["kernel"].any()


def test_a_head_is_a_dense_layer_that_starts_at_zero():
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    params = Head(4).init(jax.random.key(0), x)
    assert not params["params"]["kernel"].any()
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)
    np.testing.assert_array_equal(Head(4).apply(params, x), nn.Dense(4).apply(params, x))
