"""The decoder block against a composition of layers worked out apart, and its masks; a stack's arithmetic."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.attention import causal_mask, padding_mask
from vit_jax.layers.transformer import DecoderBlock, EncoderBlock, stack_layer_number, stack_macs

RNG = np.random.default_rng(0)
X, MEMORY = (RNG.normal(size=(2, n, 8)).astype(np.float32) for n in (3, 5))
POSITIONS, MEMORY_POSITIONS = (RNG.normal(size=(1, n, 8)).astype(np.float32) for n in (3, 5))


def make(**options):
    block = DecoderBlock(num_heads=2, mlp_dim=16, **options)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), X, MEMORY, train=False))
    rng = np.random.default_rng(1)
    return block, jax.tree.map(lambda leaf: rng.normal(scale=0.4, size=leaf.shape).astype(leaf.dtype), shapes)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def reference(params, x, memory, positions, memory_positions, post_norm):
    """In float64, with einsum over explicit heads."""
    p = jax.tree.map(np.float64, params["params"])

    def attend(q, x, keys, values):
        query, key, value = (
            np.einsum("bnc,chd->bhnd", y, q[name]["kernel"]) + q[name]["bias"][:, None]
            for name, y in (("query", x), ("key", keys), ("value", values))
        )
        weights = softmax(query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1]))
        return np.einsum("bhnd,hdc->bnc", weights @ value, q["out"]["kernel"]) + q["out"]["bias"]

    def norm(y, name):
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        return y * p[name]["scale"] + p[name]["bias"]

    def mlp(y):
        y = y @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / 2**0.5))
        return y @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]

    branches = (
        ("norm1", lambda y: attend(p["self_attention"], y + positions, y + positions, y)),
        ("norm2", lambda y: attend(p["cross_attention"], y + positions, memory + memory_positions, memory)),
        ("norm3", mlp),
    )
    x = np.float64(x)
    for name, branch in branches:
        x = norm(x + branch(x), name) if post_norm else x + branch(norm(x, name))
    return x


@pytest.mark.parametrize("post_norm", [False, True])
def test_a_decoder_block_equals_the_reference(post_norm):
    block, params = make(post_norm=post_norm)
    y = block.apply(params, X, MEMORY, train=False, positions=POSITIONS, memory_positions=MEMORY_POSITIONS)
    np.testing.assert_allclose(y, reference(params, X, MEMORY, POSITIONS, MEMORY_POSITIONS, post_norm), atol=2e-5)
    without = block.apply(params, X, MEMORY, train=False)
    np.testing.assert_allclose(without, reference(params, X, MEMORY, 0.0, 0.0, post_norm), atol=2e-5)


def test_a_causal_decoder_does_not_see_what_follows():
    block, params = make()
    later = X.copy()
    later[:, 2:] += 1.0
    a, b = (block.apply(params, x, MEMORY, train=False, mask=causal_mask(3)) for x in (X, later))
    chex.assert_trees_all_close(a[:, :2], b[:, :2], atol=1e-6)
    assert np.abs(a - b)[:, 2].max() > 0.1


def test_padding_of_the_memory_changes_nothing():
    block, params = make()
    mask = padding_mask(jnp.array([[True] * 4 + [False]] * 2))
    y = block.apply(params, X, MEMORY, train=False, memory_mask=mask)
    chex.assert_trees_all_close(y, block.apply(params, X, MEMORY[:, :4], train=False), atol=1e-5)


def test_bfloat16_comes_out_as_it_went_in_and_dropout_is_random_in_training():
    block, params = make(dtype="bfloat16", dropout=0.5)
    x, memory = jnp.asarray(X, jnp.bfloat16), jnp.asarray(MEMORY, jnp.bfloat16)
    exact = make()[0].apply(params, X, MEMORY, train=False)
    y = block.apply(params, x, memory, train=False)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), exact, atol=0.2)
    ys = [block.apply(params, x, memory, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)]
    chex.assert_trees_all_equal(ys[0], ys[1])
    assert (ys[0] != ys[2]).any()


def test_an_encoder_block_takes_a_mask():
    block = EncoderBlock(2, 16, "tanh", 1e-6, 0.0, 0.0, 0.0, "float32", True, False, None, "auto")
    params = block.init(jax.random.key(0), X, train=False)
    mask = padding_mask(jnp.array([[True, True, False]] * 2))
    y = block.apply(params, X, train=False, mask=mask)[:, :2]
    chex.assert_trees_all_close(y, block.apply(params, X[:, :2], train=False), atol=1e-5)


def test_arithmetic_by_hand():
    # 3 tokens of width 2, MLP of 4: projections 4 * 3 * 4, attention 2 * 9 * 2, MLP 2 * 3 * 8.
    assert stack_macs(2, 3, 2, 4) == 2 * (48 + 36 + 48)
    # One output: keys and values of all, 2 * 3 * 4; query and out 2 * 4; attention 2 * 3 * 2; MLP 16.
    assert stack_macs(1, 3, 2, 4, outputs=1) == 24 + 8 + 12 + 16
    numbers = [stack_layer_number(path, 2, after=("norm",)) for path in ("stem/kernel", "block_1/x", "norm/scale")]
    assert numbers == [0, 2, 3]
