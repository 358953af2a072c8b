"""Attention maps against other libraries', rollout and maps worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import vit_jax
from vit_jax.build.plugins import create_task
from vit_jax.inference.attention_maps import attention_of, attention_rollout, patch_map
from vit_jax.models import vit
from vit_jax.training import optimizer
from vit_jax.training.evaluation import make_eval_step
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step
from vit_jax.types import class_fields

SMALL = {"patch_size": 4, "hidden_dim": 12, "depth": 2, "mlp_dim": 12, "num_heads": 3}


def small(**options):
    """An encoder, parameters drawn by NumPy, and images of 3 x 2 patches."""
    rng = np.random.default_rng(0)
    encoder = vit.create("Ti/4", **(SMALL | options))
    images = rng.normal(size=(2, 12, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))["params"]
    return encoder, jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(x.dtype), shapes), images


def classifier():
    """A small classifier whose images need no preparation."""
    task = create_task("classification", class_fields("abcde"))
    return Problem(task.wrap(small()[0]), task, lambda key, batch, axis_name=None: batch)


def random_attention(*shape):
    weights = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["hf_vit", "hf_deit"])
def test_weights_are_those_of_the_checkpoints_own_library(golden, name):
    expected = np.load(golden / name / "expected.npz")
    attention = vit_jax.load(golden / name).attention(expected["pixel_values"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(attention[0], expected["attention_first_layer"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(attention[-1], expected["attention_last_layer"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(attention.sum(-1), np.ones(attention.shape[:-1]), atol=1e-6)


def test_it_takes_images_and_what_preprocess_makes_of_them(golden):
    classifier = vit_jax.load(golden / "hf_vit")
    path = golden / "image.png"
    attention = classifier.attention(path)
    chex.assert_shape(attention, (3, 1, 4, 37, 37))
    chex.assert_trees_all_equal(attention, classifier.attention(classifier.preprocess(path)))
    chex.assert_shape(classifier.attention([path, path]), (3, 2, 4, 37, 37))


@pytest.mark.parametrize("images", [[], "none.png", np.zeros((48, 48, 3), np.float32), np.zeros((2, 3), np.int32)])
def test_what_is_no_image_is_refused(golden, images):
    with pytest.raises(vit_jax.InputError):
        vit_jax.load(golden / "hf_vit").attention(images)


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 7),
        ({"pooling": "gap"}, 6),
        ({"pooling": "map"}, 6),
        ({"distillation_token": True, "register_tokens": 3}, 11),
        ({"qk_norm": True, "dropout": 0.5, "attention_dropout": 0.5}, 7),
        ({"dtype": "bfloat16"}, 7),
    ],
)
def test_every_kind_of_vit_gives_rows_that_sum_to_1(options, tokens):
    attention = attention_of(*small(**options))
    chex.assert_shape(attention, (2, 2, 3, tokens, tokens))
    chex.assert_type(attention, jnp.float32)
    np.testing.assert_allclose(attention.sum(-1), np.ones(attention.shape[:-1]), atol=1e-6)


def test_layers_are_in_order_beyond_ten():
    encoder, params, images = small(depth=11)
    deep = attention_of(encoder, params, images)
    params["block_10"]["attention"]["query"]["kernel"] = 2 * params["block_10"]["attention"]["query"]["kernel"]
    changed = np.asarray(deep != attention_of(encoder, params, images)).any(axis=(1, 2, 3, 4))
    assert changed.tolist() == [False] * 10 + [True]


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}])
def test_asking_for_weights_changes_no_output(options):
    encoder, params, images = small(**options)
    plain = jax.jit(lambda: encoder.apply({"params": params}, images, train=False))()
    captured = jax.jit(lambda: encoder.apply({"params": params}, images, train=False, mutable=["intermediates"]))()
    chex.assert_trees_all_equal(plain, captured[0])


def test_training_neither_keeps_nor_computes_them_twice():
    encoder, _, images = small()
    assert list(jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))) == ["params"]
    batch = {"image": images, "label": np.array([0, 1], np.int32), "index": np.arange(2, dtype=np.uint32)}
    sgd = optimizer.create("sgd", schedule=lambda _: 0.1)
    init = make_init(classifier(), sgd, moving_average=False)
    train_step = make_train_step(classifier(), sgd)
    program = str(jax.make_jaxpr(train_step)(jax.eval_shape(lambda: init(0, batch)), batch))
    # How often a maximum is taken for a softmax of weights [B, heads, N, N], in the last block [B, heads, 1, N].
    assert program.count("f32[2,3,7] = reduce_max") == SMALL["depth"] - 1
    assert program.count("f32[2,3,1] = reduce_max") == 1


# Features are asked of the encoder once more, which the compiler finds to be the same.
@pytest.mark.parametrize(("row_names", "passes"), [((), 1), (("prediction",), 1), (("features",), 2)])
def test_evaluation_spares_the_last_block_its_patch_tokens(row_names, passes):
    _, _, images = small()
    model = classifier().model
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    batch = {"image": images, "label": np.array([0, 1]), "mask": np.ones(2, np.float32), "index": np.arange(2)}
    eval_step = make_eval_step(classifier(), row_names=row_names)
    program = str(jax.make_jaxpr(eval_step)({"params": params, "variables": {}}, batch))
    assert program.count("f32[2,3,1] = reduce_max") == passes
    assert program.count("f32[2,3,7] = reduce_max") == passes * (SMALL["depth"] - 1)


def test_a_model_without_self_attention_is_refused():
    class Average(nn.Module):
        def __call__(self, images, *, train):
            return images.mean(axis=(1, 2))

    with pytest.raises(vit_jax.InputError, match="Average has no self-attention"):
        attention_of(Average(), {}, np.zeros((1, 4, 4, 3), np.float32))


def test_rollout_of_two_layers_by_hand():
    first, second = [[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [0.0, 1.0]]
    attention = np.array([first, second], np.float32)[:, None, None]
    # Half of each and half of the identity: [[1, 0], [1/4, 3/4]], then [[3/4, 1/4], [0, 1]] on its left.
    np.testing.assert_allclose(attention_rollout(attention)[0], [[13 / 16, 3 / 16], [1 / 4, 3 / 4]], rtol=1e-6)
    # Without the identity: second @ first.
    np.testing.assert_allclose(attention_rollout(attention, residual=0.0)[0], [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(attention_rollout(attention, residual=1.0)[0], np.eye(2))
    np.testing.assert_array_equal(attention_rollout(attention[1:], residual=0.0)[0], second)


@pytest.mark.parametrize(
    ("head_fusion", "expected"),
    [
        ("mean", [[0.6, 0.4], [0.5, 0.5]]),
        ("max", [[0.8 / 1.4, 0.6 / 1.4], [0.5, 0.5]]),
        ("min", [[0.4 / 0.6, 0.2 / 0.6], [0.0, 1.0]]),  # nothing is left of the second row
    ],
)
def test_head_fusion_by_hand(head_fusion, expected):
    heads = np.array([[[0.8, 0.2], [1.0, 0.0]], [[0.4, 0.6], [0.0, 1.0]]], np.float32)[None, None]
    rollout = attention_rollout(heads, head_fusion=head_fusion, residual=0.0)
    np.testing.assert_allclose(rollout[0], expected, rtol=1e-6)
    with_identity = attention_rollout(heads, head_fusion=head_fusion, residual=0.25)
    np.testing.assert_allclose(with_identity[0], 0.75 * np.array(expected) + 0.25 * np.eye(2), rtol=1e-6)


@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
def test_rollout_rows_sum_to_1_for_each_image_on_its_own(head_fusion):
    attention = random_attention(5, 3, 2, 7, 7)
    rollout = attention_rollout(attention, head_fusion=head_fusion)
    chex.assert_shape(rollout, (3, 7, 7))
    np.testing.assert_allclose(rollout.sum(-1), np.ones((3, 7)), atol=1e-6)
    alone = attention_rollout(attention[:, 1:2], head_fusion=head_fusion)
    np.testing.assert_allclose(rollout[1:2], alone, atol=1e-6)


def test_uniform_attention_rolls_out_uniformly():
    uniform = np.full((3, 1, 2, 4, 4), 0.25, np.float32)
    np.testing.assert_allclose(attention_rollout(uniform, residual=0.0), np.full((1, 4, 4), 0.25), rtol=1e-6)
    # What was mixed stays uniform; only the share that no layer touched, 1/2 to the third, keeps to itself.
    expected = (1 - 0.5**3) * 0.25 + 0.5**3 * np.eye(4)
    np.testing.assert_allclose(attention_rollout(uniform)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 1, 3, 4), {}, r"attention has the shape \(2, 1, 3, 4\); valid: \[layers, B, heads, N, N\]"),
        ((2, 1, 3, 4, 5), {}, "attention has the shape"),
        ((0, 1, 3, 4, 4), {}, "attention has the shape"),
        ((2, 1, 3, 4, 4), {"head_fusion": "sum"}, "head_fusion is 'sum'; valid: mean, max, min"),
        ((2, 1, 3, 4, 4), {"residual": 1.5}, "residual is 1.5; valid: 0 to 1"),
        ((2, 1, 3, 4, 4), {"residual": float("nan")}, "residual is nan"),
    ],
)
def test_rollout_refuses(shape, options, message):
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.attention_rollout(np.ones(shape, np.float32), **options)


def test_patch_map_by_hand():
    weights = np.arange(64.0).reshape(8, 8)  # two prefix tokens and 2 x 3 patches
    class_token = patch_map(weights, grid=(2, 3), class_token=True)
    np.testing.assert_array_equal(class_token, [[2, 3, 4], [5, 6, 7]])
    patches = patch_map(weights, grid=(2, 3), class_token=False)  # rows 2 to 7, of which 4.5 is the mean
    np.testing.assert_array_equal(patches, [[38, 39, 40], [41, 42, 43]])
    chex.assert_shape(patch_map(random_attention(5, 4, 3, 6, 6), grid=(3, 2), class_token=False), (5, 4, 3, 3, 2))
    for class_token, size in ((True, 6), (False, 5)):
        with pytest.raises(vit_jax.InputError, match=f"{size} tokens are too few for a grid of 2x3 patches"):
            patch_map(weights[:size, :size], grid=(2, 3), class_token=class_token)
