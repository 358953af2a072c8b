"""Stacks of blocks: remat and scan change neither parameters nor results; what they compute again, and how often."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_jax.errors import InputError
from vit_jax.layers.stack import REMAT, block_numbers, run_stack
from vit_jax.models import vit

IMAGES = np.random.default_rng(7).normal(size=(2, 8, 8, 3)).astype(np.float32)
WAYS = [("full", False), ("dots", False), ("none", True), ("full", True), ("dots", True)]


def tiny(**options):
    sizes = {"hidden_dim": 16, "depth": 3, "mlp_dim": 32, "num_heads": 2}
    return vit.create("Ti/4", **sizes | options)


def shapes(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))["params"]


def parameters(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes(model))


def loss(model):
    return lambda params: (model.apply({"params": params}, IMAGES, train=True).pooled ** 2).sum()


@pytest.fixture(scope="module")
def plain():
    params = parameters(tiny(layer_scale=0.5))
    return params, jax.jit(jax.value_and_grad(loss(tiny(layer_scale=0.5))))(params)


@pytest.mark.parametrize(("remat", "scan"), WAYS)
def test_loss_and_gradients_are_those_of_the_plain_stack(plain, remat, scan):
    params, expected = plain
    model = tiny(layer_scale=0.5, remat=remat, scan=scan)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes(model), params)
    chex.assert_trees_all_close(jax.jit(jax.value_and_grad(loss(model)))(params), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("remat", "scan"), WAYS)
def test_attention_weights_are_left_for_each_block(plain, remat, scan):
    def weights(model):
        return model.apply({"params": plain[0]}, IMAGES, train=False, mutable=["intermediates"])[1]

    chex.assert_trees_all_close(
        weights(tiny(layer_scale=0.5, remat=remat, scan=scan)), weights(tiny(layer_scale=0.5)), atol=1e-6
    )


def test_each_block_of_a_scan_has_its_own_drop_path():
    # The last block is dropped nearly always and the first, whose rate is 0, never: what is left is a single block.
    model = tiny(depth=2, drop_path=1 - 1e-6, scan=True)
    params = parameters(model)
    tokens = model.apply({"params": params}, IMAGES, train=True, rngs={"dropout": jax.random.key(0)}).tokens
    first = {name: leaf for name, leaf in params.items() if name != "block_1"}
    expected = tiny(depth=1).apply({"params": first}, IMAGES, train=False).tokens
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


def products(*, depth=2, **options):
    """How many matrix products the program of the gradient has."""
    model = tiny(depth=depth, **options)
    return jax.jit(jax.grad(loss(model))).lower(shapes(model)).as_text().count("stablehlo.dot_general")


def test_what_is_computed_again():
    # A block's forward pass has 6 products with parameters (query, key, value, out, fc1, fc2) and 2 of attention. The
    # last of them, fc2's, gives nothing that the backward pass needs; that of the attention's weights does, for `out`.
    none = products()
    assert products(remat="full") - none == 2 * 7
    assert products(remat="dots") - none == 2 * 2


@pytest.mark.parametrize("remat", REMAT)
def test_a_scanned_program_does_not_grow_with_the_depth(remat):
    assert products(scan=True, remat=remat) == products(scan=True, remat=remat, depth=4) < products(depth=4)


class Add(nn.Module):
    """Adds `amount`, or with dropout twice that or nothing."""

    amount: float
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x, *, train):
        amount = self.amount * self.param("one", nn.initializers.ones, ())
        return x + nn.Dropout(self.dropout, deterministic=not train)(jnp.full_like(x, amount))


class Stack(nn.Module):
    amounts: tuple[float, ...]

    def setup(self):
        self.blocks = [Add(amount) for amount in self.amounts]

    def __call__(self, x, *, train):
        return run_stack(self, self.blocks, x, train=train, remat="none", scan=True).x


def test_fields_that_differ_go_through_the_loop():
    variables = Stack((1.0, 2.0, 4.0)).init(jax.random.key(0), jnp.zeros(1), train=False)
    assert list(variables["params"]) == ["blocks_0", "blocks_1", "blocks_2"]
    assert Stack((1.0, 2.0, 4.0)).apply(variables, jnp.zeros(1), train=False) == 7.0


def test_each_block_of_a_scan_draws_its_own_numbers():
    model = Stack((1.0, 1.0))
    variables = model.init(jax.random.key(0), jnp.zeros(64), train=False)
    sums, others = (
        model.apply(variables, jnp.zeros(64), train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2)
    )
    assert set(sums.tolist()) == {0.0, 2.0, 4.0}  # with the same numbers in both there would be no 2
    assert (sums != others).any()


def test_block_numbers_count_from_either_end():
    assert block_numbers((), 4) == ()
    assert block_numbers((-1, 2, 4), 4) == (2, 4)
    with pytest.raises(InputError, match="intermediates has block 5; valid: 1 to 4, or -4 to -1 from the end"):
        block_numbers((1, 5), 4)
