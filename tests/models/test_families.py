"""What every family of models keeps, each with its tiny model of `tiny.py`."""

import functools
import json
import math
import pkgutil
import re

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import TINY
from tiny import classification, scaled

import vit_jax
import vit_jax.models
from vit_jax.build import plugins
from vit_jax.info import new_info
from vit_jax.layers import roles
from vit_jax.training import optimizer as optimizers
from vit_jax.training.checkpoints import reading
from vit_jax.training.evaluation import make_eval_step
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step
from vit_jax.types import Features

pytestmark = pytest.mark.parametrize("family", TINY)


def tiny(family, **options):
    row = TINY[family]
    return plugins.create_encoder(family, row.variant, **row.options | options)


def check_applies(family, what):
    if what in TINY[family].without:
        pytest.skip(f"{what} does not apply to {family}: see tiny.py")


def images_of(family, which=0, batch=2):
    size = TINY[family].sizes[which]
    return np.random.default_rng(0).normal(size=(batch, *size, 3)).astype(np.float32)


@functools.cache
def params_of(family, scale=0.05, with_head=False):
    """Parameters moved off their initial values, so that zeros and ones hide nothing; made once, since it compiles."""
    model = problem_of(family).model if with_head else tiny(family)
    params = jax.jit(lambda: model.init(jax.random.key(0), images_of(family), train=False))()["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32), params)


def apply(model, params, images, **options):
    return jax.jit(lambda p, x: model.apply({"params": p}, x, train=False, **options))(params, images)


def test_every_family_has_a_row(family):
    there = {module.name for module in pkgutil.iter_modules(vit_jax.models.__path__)}
    assert {f"test_{name}.py" for name in there - TINY.keys()} == set(), "no TINY in tests/models"


@pytest.mark.parametrize("which", [0, 1])
def test_shapes(family, which):
    model, images = tiny(family), images_of(family, which)
    features, params = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))
    chex.assert_type(jax.tree.leaves(params), jnp.float32)
    batch, num_tokens, dim = features.tokens.shape
    rows, columns = features.grid
    assert batch == 2 and num_tokens >= rows * columns
    assert rows * images.shape[2] == columns * images.shape[1] or features.maps  # the image's proportion
    chex.assert_shape(features.pooled, (2, dim))
    if features.maps is None:
        return
    for i, stage in enumerate(features.maps):
        stride = 4 * 2**i
        assert stage.shape[:3] == (2, math.ceil(images.shape[1] / stride), math.ceil(images.shape[2] / stride))
    assert features.maps[-1].shape[1:3] == features.grid


def test_gradients_are_finite_and_reach_every_parameter(family):
    _, gradients = plain_gradient(family)
    chex.assert_tree_all_finite(gradients)
    for path, gradient in flax.traverse_util.flatten_dict(gradients, sep="/").items():
        # A key's bias adds the same to all scores of a query, which the softmax takes away again.
        if not path.endswith("key/bias"):
            assert path in fixed(family) or jnp.abs(gradient).max() > 1e-6, path


@functools.cache
def fixed(family):
    """Paths of the encoder's parameters that stay as they are drawn."""
    traced = roles.trace(lambda: tiny(family).init(jax.random.key(0), images_of(family), train=False)["params"])
    return {path for path, role in traced.roles.items() if role.is_fixed}


def test_bfloat16_multiplies_in_bfloat16_and_stays_close(family):
    model, images, params = tiny(family, dtype="bfloat16"), images_of(family), params_of(family, scale=0.01)
    text = jax.jit(lambda p: model.apply({"params": p}, images, train=False)).lower(params).as_text()
    products = re.findall(r"stablehlo\.dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)", text)
    assert ("bf16", "bf16") in products
    if "bfloat16 in all products" not in TINY[family].without:
        assert set(products) == {("bf16", "bf16")}
    close, exact = apply(model, params, images), apply(tiny(family), params, images)
    chex.assert_trees_all_close(close.pooled.astype(jnp.float32), exact.pooled, atol=0.1)


def test_regularisation_is_random_in_training_only(family):
    model, images, params = tiny(family, drop_path=0.5), images_of(family, batch=8), params_of(family)
    train = jax.jit(lambda key: model.apply({"params": params}, images, train=True, rngs={"dropout": key}).pooled)
    np.testing.assert_array_equal(train(jax.random.key(1)), train(jax.random.key(1)))
    assert (train(jax.random.key(1)) != train(jax.random.key(2))).any()
    chex.assert_trees_all_equal(apply(model, params, images), apply(tiny(family), params, images))


@pytest.mark.parametrize("options", [{"remat": "full"}, {"scan": True}], ids=str)  # others are in layers/test_stack.py
def test_how_it_is_computed_changes_nothing(family, options):
    check_applies(family, *options)
    other, images = tiny(family, **options), images_of(family)
    shapes = jax.eval_shape(lambda: other.init(jax.random.key(0), images, train=False))["params"]
    chex.assert_trees_all_equal_shapes(params_of(family), shapes)
    chex.assert_trees_all_close(gradient(other, family), plain_gradient(family), rtol=1e-4, atol=1e-4)


def gradient(model, family):
    def loss(params):
        features = model.apply({"params": params}, images_of(family), train=True)
        maps = [] if features.maps is None else list(features.maps)
        return sum((x**2).sum() for x in [features.pooled, features.tokens, *maps])

    return jax.jit(jax.value_and_grad(loss))(params_of(family))


@functools.cache
def plain_gradient(family):
    return gradient(tiny(family), family)


@pytest.mark.parametrize("options", [{}, {"scan": True}], ids=str)
def test_the_pooled_vector_needs_no_patch_tokens(family, options):
    """It and its gradient are the same without them; the prefix tokens are still there."""
    for what in options:
        check_applies(family, what)

    def loss(params, patch_tokens):
        model = tiny(family, **options)
        features = model.apply({"params": params}, images_of(family), train=True, patch_tokens=patch_tokens)
        return (features.pooled**2).sum(), features

    (value, features), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(
        params_of(family), False
    )
    (expected, full), expected_gradient = with_patch_tokens(family)
    chex.assert_trees_all_close((value, gradient), (expected, expected_gradient), rtol=1e-4, atol=1e-5)
    few, dim = features.tokens.shape[1:]
    chex.assert_trees_all_close(features.pooled, full.pooled, atol=1e-5)
    chex.assert_trees_all_close(features.tokens, full.tokens[:, :few], atol=1e-5)
    all_tokens = full.tokens.shape[1]
    assert few == (all_tokens if full.maps else all_tokens - math.prod(full.grid))
    assert dim == features.pooled.shape[1]


@functools.cache
def with_patch_tokens(family):
    def loss(params):
        features = tiny(family).apply({"params": params}, images_of(family), train=True)
        return (features.pooled**2).sum(), features

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params_of(family))


def test_layers_are_numbered_from_the_image_to_the_outputs(family):
    model = tiny(family)
    paths = flax.traverse_util.flatten_dict(params_of(family), sep="/")
    numbers = {path: model.layer_number(path) for path in paths}
    assert set(numbers.values()) == set(range(model.depth + 2))  # each of them is there


@pytest.mark.parametrize("patch_tokens", [True, False])
def test_flops_are_the_compilers(family, patch_tokens):
    """By the formula, the matrix products alone; the compiler counts what is between them too."""
    model, images, params = tiny(family), images_of(family, batch=1), params_of(family)
    forward = functools.partial(model.apply, train=False, patch_tokens=patch_tokens)
    counted = jax.jit(lambda p, x: forward({"params": p}, x)).lower(params, images).cost_analysis()
    flops = model.flops(images.shape[1:3], patch_tokens=patch_tokens)
    assert 0.4 * counted["flops"] < flops <= 1.02 * counted["flops"]


def problem_of(family):
    task = classification(3)
    return Problem(task.wrap(tiny(family)), task, scaled)


def batch_of(family, size):
    height, width = TINY[family].sizes[0]
    images = np.random.default_rng(0).integers(0, 256, (size, height, width, 3), dtype=np.uint8)
    return {"image": images, "label": np.arange(size) % 3, "index": np.arange(size, dtype=np.uint32)}


def test_eight_images_are_learnt(family):
    """With the train step: the loss falls, and every parameter moves but those that are fixed."""
    problem, batch = problem_of(family), batch_of(family, 8)
    optimizer = optimizers.create("adamw", schedule=lambda step: 3e-3)
    state = jax.jit(lambda: make_init(problem, optimizer, moving_average=False)(0, batch))()
    before = flax.traverse_util.flatten_dict(state.params, sep="/")
    step = jax.jit(make_train_step(problem, optimizer))
    losses = []
    for _ in range(25):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert losses[-1] < 0.5 * losses[0], losses
    for path, array in flax.traverse_util.flatten_dict(state.params, sep="/").items():
        moved = bool((array != before[path]).any())
        assert moved == (path.removeprefix("encoder/") not in fixed(family)), path


def test_masked_rows_change_no_figure(family):
    learned = {"params": params_of(family, with_head=True), "variables": {}}
    evaluate = jax.jit(make_eval_step(problem_of(family)))
    half = batch_of(family, 4) | {"is_example": np.array([1, 1, 0, 0], np.float32)}
    other = half | {"image": half["image"][[0, 1, 3, 2]]}
    sums, same = evaluate(learned, half)[0], evaluate(learned, other)[0]
    assert float(sums["examples"][0]) == 2
    chex.assert_trees_all_equal(sums, same)
    alone = evaluate(learned, {name: array[:2] for name, array in half.items()})[0]
    chex.assert_trees_all_close(sums, alone, rtol=1e-4)


def test_saved_and_loaded_it_answers_alike(family, tmp_path):
    row = TINY[family]
    problem = problem_of(family)
    images, params = images_of(family), params_of(family, with_head=True)
    info = new_info(
        model={"name": family, "variant": row.variant, "options": row.options},
        task={"name": "classification", "options": {}},
        fields=problem.task.fields,
        preprocessing={"image_size": row.sizes[0], "mean": [0.5] * 3, "std": [0.5] * 3},
    )
    reading.write_params(tmp_path / "run" / "checkpoints", 0, params, json.loads(json.dumps(info)))
    classifier = vit_jax.load(tmp_path / "run")
    expected = apply(problem.model, params, images)
    np.testing.assert_allclose(classifier.apply(images), expected, atol=2e-5)
    assert isinstance(classifier.features(images), Features)


def test_an_unknown_variant_or_option_is_refused_with_the_valid_ones(family):
    with pytest.raises(vit_jax.InputError, match=rf"{family} has no variant 'X/99'; valid: "):
        plugins.create_encoder(family, "X/99")
    with pytest.raises(
        vit_jax.InputError, match=rf"{family} has no option 'drop_paths'; nearest: 'drop_path'; valid: .*norm_eps"
    ):
        tiny(family, drop_paths=0.1)
    with pytest.raises(vit_jax.InputError, match=r"model.options.drop_path is 1.5; valid: at least 0 and less than 1"):
        tiny(family, drop_path=1.5)
    with pytest.raises(vit_jax.InputError, match=r"model.options.dtype is 'float16'; valid: float32, bfloat16"):
        tiny(family, dtype="float16")


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("scan", "no", "True, False"),
        ("scan", 1, "True, False"),
        ("drop_path", False, "at least 0 and less than 1"),
        ("norm_eps", float("inf"), "above 0"),
        ("norm_eps", "1e-6", "above 0"),
    ],
)
def test_a_value_of_another_kind_is_refused(family, name, value, valid):
    with pytest.raises(vit_jax.InputError, match=f"^model.options.{name} is {value!r}; valid: {valid}$"):
        tiny(family, **{name: value})


def test_a_variant_that_is_no_text_is_refused(family):
    with pytest.raises(
        vit_jax.InputError, match=rf"^model.variant is \['a'\]; valid: text, .* of {family}'s VARIANTS$"
    ):
        vit_jax.create_model(family, ["a"])
