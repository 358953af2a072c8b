"""Attention in windows against the same written out token by token; merging by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.layers.window_attention import CosineWindowAttention, PatchMerging, WindowAttention, Windowing

X = np.random.default_rng(3).normal(size=(2, 6, 8, 8)).astype(np.float32)


def windowing(**changes):
    fields = {"num_heads": 2, "head_dim": None, "window": (3, 4), "shift": (1, 2), "fit": "authors", "fixed": False}
    fields |= {"mask_value": -100.0, "pretrained_window": None, "dropout": 0.0, "qkv_bias": True}
    return Windowing(**fields | changes)


def init(layer, x=X):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, True, train=False))["params"]
    return jax.tree.map(lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32), shapes)


def reference(x, p, rolled, *, cosine):
    """Each token attends to those it shares a window with, found by where the windows' borders are."""
    (h, w), (rows, columns), shift = x.shape[1:3], (3, 4), (1, 2) if rolled else (0, 0)
    place = [(i, j) for i in range(h) for j in range(w)]
    # A border lies at each multiple of the window's side, moved by the shift; the map's edges are borders too.
    window_of = [((i - shift[0]) // rows, (j - shift[1]) // columns) for i, j in place]

    def project(name):
        y = np.einsum("bnD,Dhd->bhnd", x.reshape(len(x), h * w, -1), p[name]["kernel"])
        return y + p[name]["bias"][:, None] if "bias" in p[name] else y

    query, key, value = map(project, ("query", "key", "value"))
    if cosine:
        query, key = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (query, key))
        scores = np.einsum("bhnd,bhmd->bhnm", query, key)
        scores = scores * np.minimum(np.exp(p["logit_scale"]), 100)[:, None, None]
    else:
        scores = np.einsum("bhnd,bhmd->bhnm", query, key) / np.sqrt(query.shape[-1])
    for i, (y1, x1) in enumerate(place):
        for j, (y2, x2) in enumerate(place):
            if window_of[i] != window_of[j]:
                scores[:, :, i, j] = -np.inf
            elif cosine:
                offset = np.array([(y1 - y2) / (rows - 1), (x1 - x2) / (columns - 1)]) * 8
                offset = np.sign(offset) * np.log2(1 + np.abs(offset)) / np.log2(8)
                hidden = np.maximum(offset @ p["offset_hidden"] + p["offset_hidden_bias"], 0)
                scores[:, :, i, j] += 16 / (1 + np.exp(-(hidden @ p["offset_out"])))
            else:
                scores[:, :, i, j] += p["bias_table"][y1 - y2 + rows - 1, x1 - x2 + columns - 1]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhnm,bhmd->bnhd", weights, value)
    return (np.einsum("bnhd,hdD->bnD", mixed, p["out"]["kernel"]) + p["out"]["bias"]).reshape(x.shape)


@pytest.mark.parametrize("rolled", [False, True])
@pytest.mark.parametrize("kind", [WindowAttention, CosineWindowAttention])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_it_is_attention_within_windows(kind, rolled, qkv_bias):
    layer = kind(windowing(qkv_bias=qkv_bias, mask_value=-1e4))
    params = init(layer)
    y = layer.apply({"params": params}, X, rolled, train=False)
    expected = reference(X, jax.tree.map(np.float64, params), rolled, cosine=kind is CosineWindowAttention)
    np.testing.assert_allclose(y, expected, atol=5e-5)
    traced = jax.jit(lambda r: layer.apply({"params": params}, X, r, train=False))(jnp.asarray(rolled))
    np.testing.assert_allclose(traced, y, atol=1e-5)


def test_parameters():
    shapes = jax.tree.map(np.shape, init(WindowAttention(windowing(head_dim=3))))
    assert shapes["bias_table"] == (5, 7, 2)
    assert shapes["query"] == {"kernel": (8, 2, 3), "bias": (2, 3)}
    assert shapes["out"] == {"kernel": (2, 3, 8), "bias": (8,)}
    shapes = jax.tree.map(np.shape, init(CosineWindowAttention(windowing())))
    assert shapes["key"] == {"kernel": (8, 2, 4)} and shapes["query"]["bias"] == (2, 4)
    assert (shapes["logit_scale"], shapes["offset_hidden"], shapes["offset_out"]) == ((2,), (2, 512), (512, 2))


@pytest.mark.parametrize("kind", [WindowAttention, CosineWindowAttention])
@pytest.mark.parametrize(("fit", "fixed"), [("authors", False), ("timm", False), ("authors", True)])
def test_padding_leaves_the_shape_and_finite_gradients(kind, fit, fixed):
    x = X[:, :5, :7]
    layer = kind(windowing(fit=fit, fixed=fixed, qkv_bias=False))
    params = init(layer, x)
    value, gradients = jax.value_and_grad(lambda p: (layer.apply({"params": p}, x, True, train=False) ** 2).sum())(
        params
    )
    assert layer.apply({"params": params}, x, True, train=False).shape == x.shape
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_map_smaller_than_a_window_has_the_biases_of_its_offsets():
    layer = WindowAttention(windowing(shift=(0, 0)))
    x = X[:, :2, :3]
    params = init(layer, x)
    small = WindowAttention(windowing(window=(2, 3), shift=(0, 0)))
    cropped = params | {"bias_table": params["bias_table"][1:-1, 1:-1]}
    np.testing.assert_allclose(
        layer.apply({"params": params}, x, False, train=False),
        small.apply({"params": cropped}, x, False, train=False),
        atol=1e-6,
    )


def test_the_scale_of_cosines_is_at_most_100():
    layer = CosineWindowAttention(windowing())
    params = init(layer)
    of = [
        layer.apply({"params": params | {"logit_scale": np.full(2, s, np.float32)}}, X, True, train=False)
        for s in (np.log(100.0), 9.0, 4.0)
    ]
    np.testing.assert_allclose(of[0], of[1], atol=1e-4)
    assert np.abs(of[0] - of[2]).max() > 1e-3


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(InputError, match="8 channels are not divisible by num_heads 3"):
        init(WindowAttention(windowing(num_heads=3)))


@pytest.mark.parametrize("norm_first", [False, True])
def test_merging_joins_four_patches_in_the_authors_order(norm_first):
    layer = PatchMerging(1e-5, norm_first, "float32")
    x = X[:, :3, :5, :2]
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))

    def norm(y):
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        return y * params["norm"]["scale"] + params["norm"]["bias"]

    four = [padded[:, dy::2, dx::2] for dy, dx in ((0, 0), (1, 0), (0, 1), (1, 1))]
    four = np.concatenate(four, axis=-1)
    kernel = params["reduction"]["kernel"]
    expected = norm(four) @ kernel if norm_first else norm(four @ kernel)
    y = layer.apply({"params": params}, x)
    assert y.shape == (2, 2, 3, 4)
    np.testing.assert_allclose(y, expected, atol=2e-5)
