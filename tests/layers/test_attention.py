"""Attention against NumPy float64, and pooling by attention."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.layers.attention import (
    AttentionPooling,
    MultiHeadAttention,
    causal_mask,
    dot_product_attention,
    is_for_cudnn,
    padding_mask,
)
from vit_jax.ops import platform

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 12)).astype(np.float32)
MEMORY = RNG.normal(size=(2, 7, 12)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def reference(params, x, memory):
    """Head by head, in float64."""
    p = jax.tree.map(np.float64, params["params"])
    out = np.broadcast_to(p["out"]["bias"], x.shape).copy()
    for head in range(p["query"]["kernel"].shape[1]):
        q, k, v = (
            source @ p[name]["kernel"][:, head] + p[name]["bias"][head]
            for name, source in (("query", x), ("key", memory), ("value", memory))
        )
        out += softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])) @ v @ p["out"]["kernel"][head]
    return out


def random_params(layer):
    """Parameters drawn by NumPy, the biases too, which needs no compiling."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), X, train=False))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def make(num_heads=3, **options):
    layer = MultiHeadAttention(num_heads, **options)
    return layer, random_params(layer)


def test_dot_product_attention_by_hand():
    query = jnp.log(3.0) * jnp.array([[[[1.0], [0.0]]]])
    key, value = jnp.array([[[[1.0], [0.0]]]]), jnp.array([[[[4.0], [8.0]]]])
    np.testing.assert_allclose(dot_product_attention(query, key, value), [[[[5.0], [6.0]]]], rtol=1e-6)


def test_dot_product_attention_drops_weights():
    ones = jnp.ones((1, 1, 2, 3))
    halved = dot_product_attention(ones, ones, ones, dropout=lambda weights: weights * jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(halved, 0.5 * ones, rtol=1e-6)


def test_large_scores_do_not_overflow():
    x = 100.0 * jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])
    np.testing.assert_allclose(dot_product_attention(x, x, x), x, rtol=1e-6)


def derivatives(target, dtype, value_offset=0.0):
    """The value, and derivatives forward and backward, as float32; weights from nearly even to one of all."""
    rng = np.random.default_rng(2)
    query, key, value = (scale * rng.normal(size=(2, 3, n, 4)) for scale, n in ((8, 5), (1, 7), (1, 7)))
    arrays = [jnp.asarray(x, "bfloat16").astype(dtype) for x in (query, key, value + value_offset)]
    tangents = [jnp.asarray(rng.normal(size=x.shape), "bfloat16").astype(dtype) for x in arrays]
    cotangent = jnp.asarray(rng.normal(size=query.shape), "bfloat16").astype(dtype)
    with platform.compiling_for(target):
        mixed, moved = jax.jvp(dot_product_attention, arrays, tangents)
        gradients = jax.vjp(dot_product_attention, *arrays)[1](cotangent)
    assert mixed.dtype == moved.dtype == dtype
    return [np.asarray(x, np.float32) for x in (mixed, moved, *gradients)]


def test_what_suits_the_cpu_differs_from_the_rest_by_rounding():
    chex.assert_trees_all_close(derivatives("cpu", "float32"), derivatives("tpu", "float32"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value_offset", [0.0, 5.0])
def test_in_bfloat16_the_cpus_derivatives_are_no_worse(value_offset):
    exact = derivatives("tpu", "float32", value_offset)
    errors = {}
    for target in ("cpu", "tpu"):
        near = derivatives(target, "bfloat16", value_offset)
        errors[target] = [np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(near, exact, strict=True)]
    assert max(errors["tpu"]) < 0.05
    for cpu, tpu in zip(errors["cpu"], errors["tpu"], strict=True):
        assert cpu < 1.5 * tpu + 1e-3, errors


@pytest.mark.parametrize("num_heads", [1, 3, 4])
def test_self_attention_equals_the_reference(num_heads):
    layer, params = make(num_heads)
    d = 12 // num_heads
    for name in ("query", "key", "value"):
        chex.assert_shape(params["params"][name]["kernel"], (12, num_heads, d))
        chex.assert_shape(params["params"][name]["bias"], (num_heads, d))
    chex.assert_shape(params["params"]["out"]["kernel"], (num_heads, d, 12))
    np.testing.assert_allclose(layer.apply(params, X, train=False), reference(params, X, X), atol=1e-5)


def test_attention_to_a_memory_of_another_length_equals_the_reference():
    layer, params = make()
    y = layer.apply(params, X, MEMORY, train=False)
    chex.assert_shape(y, (2, 5, 12))
    np.testing.assert_allclose(y, reference(params, X, MEMORY), atol=1e-5)


def test_bfloat16_is_close_and_keeps_float32_parameters():
    layer, params = make(dtype="bfloat16")
    chex.assert_type(jax.tree.leaves(params), jnp.float32)
    y = layer.apply(params, X, train=False)
    chex.assert_type(y, jnp.bfloat16)
    np.testing.assert_allclose(y.astype(jnp.float32), reference(params, X, X), atol=0.05)


def test_dropout_is_random_in_training_only():
    layer, params = make(dropout=0.5)

    def train(seed):
        return layer.apply(params, X, train=True, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(train(1), train(1))
    assert (train(1) != train(2)).any()
    np.testing.assert_allclose(layer.apply(params, X, train=False), reference(params, X, X), atol=1e-5)


def test_heads_that_do_not_divide_are_refused_by_number():
    with pytest.raises(InputError, match="hidden_dim 12 is not divisible by num_heads 5"):
        make(5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_pooling_ignores_the_order_of_tokens(dtype):
    pool = AttentionPooling(num_heads=3, mlp_dim=24, gelu="tanh", norm_eps=1e-6, dtype=dtype)
    params = random_params(pool)
    pooled = pool.apply(params, X, train=False)
    chex.assert_shape(pooled, (2, 12))
    chex.assert_shape(params["params"]["probe"], (1, 1, 12))
    permuted = pool.apply(params, X[:, [3, 1, 4, 0, 2]], train=False)
    chex.assert_trees_all_close(pooled, permuted, atol=1e-5 if dtype == "float32" else 0.05)
    assert not np.allclose(pooled, pool.apply(params, X + 1, train=False), atol=0.1)


def test_attention_pooling_is_attention_of_the_probe_plus_an_mlp():
    pool = AttentionPooling(num_heads=3, mlp_dim=24, gelu="tanh", norm_eps=1e-6)
    params = random_params(pool)
    p = jax.tree.map(np.float64, params["params"])
    x = reference({"params": p["attention"]}, np.broadcast_to(p["probe"], (2, 1, 12)), X)
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = y * p["norm"]["scale"] + p["norm"]["bias"]
    y = y @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    expected = x + y @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]
    np.testing.assert_allclose(pool.apply(params, X, train=False), expected[:, 0], atol=1e-5)


def test_ways_to_compute_agree_on_the_cpu():
    """Where cuDNN cannot run, `auto` is `xla`, and `cudnn` says what it needs."""
    layer, params = make(3, attention="xla")
    chex.assert_trees_all_equal(
        layer.clone(attention="auto").apply(params, X, train=False), layer.apply(params, X, train=False)
    )
    with pytest.raises(
        InputError, match=r"'cudnn', which needs an NVIDIA GPU .* here: cpu, float32, 4, 0.0; valid: auto"
    ):
        layer.clone(attention="cudnn").apply(params, X, train=False)


@pytest.mark.parametrize(
    ("shape", "dtype", "capability", "chosen"),
    [
        ((2, 12, 197, 64), "bfloat16", "8.0", True),
        ((2, 12, 197, 64), "float32", "9.0", False),
        ((2, 12, 197, 128), "float16", "9.0", True),
        ((2, 12, 197, 136), "bfloat16", "9.0", False),
        ((2, 12, 197, 60), "bfloat16", "9.0", False),
        ((2, 12, 197, 64), "bfloat16", "7.5", False),
        ((2, 12, 197, 64), "bfloat16", "12.0", True),
        ((2, 12, 197, 64), "bfloat16", 9.0, True),
        ((2, 12, 197, 64), "bfloat16", "gfx942", False),  # AMD's GPUs
        ((2, 12, 197, 64), "bfloat16", "gfx90a:sramecc+:xnack-", False),
        ((2, 12, 197, 64), "bfloat16", "", False),
        ((2, 12, 197, 64), "bfloat16", None, False),
    ],
)
def test_what_auto_gives_to_cudnn(monkeypatch, shape, dtype, capability, chosen):
    device = type("Gpu", (), {"compute_capability": capability})()
    assert not is_for_cudnn(shape, dtype)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert is_for_cudnn(shape, dtype) == chosen
    # What drops weights out is never cuDNN's.
    assert not MultiHeadAttention(1, dropout=0.1, dtype=dtype)._uses_cudnn(shape)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's attention needs an NVIDIA GPU")
def test_cudnn_equals_xla():
    x = np.random.default_rng(0).normal(size=(2, 197, 128)).astype(np.float32)
    layer = MultiHeadAttention(2, dtype="bfloat16", attention="xla")
    params = layer.init(jax.random.key(0), x, train=False)

    def outputs(attention):
        way = layer.clone(attention=attention)
        return jax.value_and_grad(lambda p: (way.apply(p, x, train=True).astype(jnp.float32) ** 2).mean())(params)

    chex.assert_trees_all_close(outputs("cudnn"), outputs("xla"), atol=2e-2)


ALLOWED = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)  # the last query may attend to no key


def masked_arrays(dtype="float32"):
    rng = np.random.default_rng(3)
    return [jnp.asarray(3 * rng.normal(size=(2, 2, n, 4)), dtype) for n in (3, 4, 4)]


def masked_reference(query, key, value, allowed):
    """Query by query, over the allowed keys alone, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    for b, head, n in np.ndindex(query.shape[:3]):
        keys = np.flatnonzero(allowed[n])
        if len(keys):
            scores = key[b, head, keys] @ query[b, head, n] / np.sqrt(query.shape[-1])
            out[b, head, n] = softmax(scores) @ value[b, head, keys]
    return out


@pytest.mark.parametrize("target", ["cpu", "tpu"])
def test_a_mask_leaves_keys_out(target):
    arrays = masked_arrays()
    with platform.compiling_for(target):
        mixed = dot_product_attention(*arrays, mask=ALLOWED[None, None])
    np.testing.assert_allclose(mixed, masked_reference(*arrays, ALLOWED), atol=1e-5)
    assert not np.asarray(mixed)[:, :, 2].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("target", ["cpu", "tpu"])
def test_a_masks_derivatives_are_finite_and_those_of_the_allowed_keys(target, dtype):
    arrays = masked_arrays(dtype)
    tangents = [jnp.cos(x) for x in arrays]

    def some(query, key, value):  # the first two queries by an additive mask, which has a derivative of its own
        scores = jnp.einsum("bhnd,bhmd->bhnm", query[:, :, :2] * 0.5, key) + jnp.where(ALLOWED[:2], 0.0, -1e9)
        return jnp.einsum("bhnm,bhmd->bhnd", jax.nn.softmax(scores), value)

    with platform.compiling_for(target):
        attend = lambda *xs: dot_product_attention(*xs, mask=ALLOWED[None, None])  # noqa: E731
        moved = jax.jvp(attend, arrays, tangents)[1]
        gradients = jax.grad(lambda *xs: (attend(*xs).astype(jnp.float32) ** 2).sum(), argnums=(0, 1, 2))(*arrays)
    wide = [x.astype(jnp.float32) for x in arrays]
    expected = jax.grad(lambda *xs: (some(*xs) ** 2).sum(), argnums=(0, 1, 2))(*wide)
    atol = 1e-4 if dtype == "float32" else 0.5
    chex.assert_trees_all_close([x.astype(jnp.float32) for x in gradients], list(expected), atol=atol)
    assert np.isfinite(np.asarray(moved, np.float32)).all() and not np.asarray(moved, np.float32)[:, :, 2].any()
    assert not np.asarray(gradients[0], np.float32)[:, :, 2].any()


def test_masks_by_hand():
    np.testing.assert_array_equal(causal_mask(3)[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    mask = padding_mask(jnp.array([[True, True, False], [True, False, False]])) & causal_mask(3)
    assert mask.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(mask[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 0]])


@pytest.mark.parametrize("options", [{}, {"attention": "cudnn"}, {"qk_norm": True}, {"dropout": 0.5}], ids=str)
def test_padding_changes_nothing_in_a_layer(options):
    """With `cudnn` too, which a mask turns into XLA's code; in training what is dropped is drawn for all keys."""
    layer, params = make(**options | {"attention": "xla"})
    layer = layer.clone(attention=options.get("attention", "auto"))
    valid = np.array([[True] * 5 + [False] * 2] * 2)
    padded = np.concatenate([MEMORY[:, :5], np.full((2, 2, 12), 7, np.float32)], axis=1)
    y = layer.apply(params, X, padded, train=False, mask=padding_mask(jnp.asarray(valid)))
    plain = layer.clone(attention="xla")
    chex.assert_trees_all_close(y, plain.apply(params, X, MEMORY[:, :5], train=False), atol=1e-5)
    other = np.where(valid[..., None], padded, -3.0).astype(np.float32)
    rngs = {"dropout": jax.random.key(0)}
    mask = padding_mask(jnp.asarray(valid))
    trained = [layer.apply(params, X, memory, train=True, mask=mask, rngs=rngs) for memory in (padded, other)]
    chex.assert_trees_all_equal(*trained)


def test_the_weights_that_are_kept_are_masked():
    layer, params = make()
    _, kept = layer.apply(params, X, train=False, mask=causal_mask(5), mutable=["intermediates"])
    weights = np.asarray(kept["intermediates"]["attention_weights"][0])
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    assert not weights[..., ~np.tri(5, dtype=bool)].any()


def test_a_mask_that_is_no_bool_is_refused():
    layer, params = make()
    with pytest.raises(ValueError, match="mask has dtype float32; valid: bool"):
        layer.apply(params, X, train=False, mask=jnp.ones((1, 1, 5, 5)))


def test_values_of_their_own():
    layer, params = make()
    y = layer.apply(params, X, MEMORY, MEMORY + 1.0, train=False)
    p = params["params"]
    moved = jnp.einsum("c,chd,hde->e", jnp.ones(12), p["value"]["kernel"], p["out"]["kernel"])
    np.testing.assert_allclose(y, layer.apply(params, X, MEMORY, train=False) + moved, atol=1e-4)
