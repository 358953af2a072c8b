"""T2T-ViT: published sizes, the authors' answers, any image size, features that stay fixed, refusals."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Tiny, classification

from vit_jax.errors import InputError
from vit_jax.layers.roles import Role, roles_of
from vit_jax.layers.tokens_to_token import performer_attention, split_grids
from vit_jax.models.t2t import VARIANTS, create
from vit_jax.training import optimizer

# Its random features, like a softmax, are computed in float32, with matrix products.
TINY = Tiny(
    "14",
    {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "token_dim": 8},
    ((32, 32), (16, 48)),
    without=("bfloat16 in all products",),
)
IMAGES = jax.random.normal(jax.random.key(7), (2, 32, 48, 3))
SMALL = {"hidden_dim": 16, "depth": 2, "mlp_dim": 32, "num_heads": 2, "token_dim": 8}


def tiny(variant="14", **overrides):
    return create(variant, **SMALL | overrides)


def init(model, images=IMAGES):
    """Random parameters, none of them zero; drawn by NumPy, which needs no compiling."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_table_has_the_published_variants():
    assert list(VARIANTS) == ["7", "10", "12", "14", "19", "24", "t-14", "t-19", "t-24"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_multiply_adds_are_the_published_ones(variant):
    row = VARIANTS[variant]
    model = create(variant)
    for field in ("tokens_type", "hidden_dim", "depth", "mlp_dim", "num_heads"):
        assert getattr(model, field) == getattr(row, field)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    wrapped = classification(1000).wrap(model)
    params = jax.eval_shape(lambda x: wrapped.init(jax.random.key(0), x, train=False), images)["params"]
    assert count(params) == row.params
    # The authors' model keeps its table of positions among the parameters.
    assert round((row.params + (14**2 + 1) * model.hidden_dim) / 1e6, 1) == row.paper_params_millions
    gmacs = model.flops((224, 224)) / 2e9
    assert round(gmacs, 1) == row.paper_gmacs or abs(gmacs / row.paper_gmacs - 1) < 0.02


def test_the_grid_of_any_image():
    assert split_grids((224, 224)) == [(56, 56), (28, 28), (14, 14)]
    assert split_grids((32, 50)) == [(8, 12), (4, 6), (2, 3)]
    assert split_grids((3, 8)) == [(1, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("variant", ["14", "t-14"])
@pytest.mark.parametrize(("size", "grid"), [((32, 32), (2, 2)), ((30, 51), (2, 4))])
def test_one_set_of_parameters_takes_any_image_size(variant, size, grid):
    model = tiny(variant)
    params = init(model)
    features = model.apply(params, jnp.ones((3, *size, 3)), train=False)
    tokens = 1 + grid[0] * grid[1]
    chex.assert_shape([features.tokens, features.pooled], [(3, tokens, 16), (3, 16)])
    np.testing.assert_array_equal(features.pooled, features.tokens[:, 0])
    assert features.grid == grid and features.maps is None
    chex.assert_tree_all_finite(features)


def test_the_two_halves_are_the_whole():
    model = tiny()
    params = init(model)
    tokens = model.apply(params, IMAGES, train=False, method="embed")
    halves = model.apply(params, tokens, grid=(2, 3), train=False, method="encode")
    chex.assert_trees_all_close(halves, model.apply(params, IMAGES, train=False))
    fewer = model.apply(params, tokens[:, [0, 4, 2]], train=False, method="encode")
    chex.assert_shape(fewer.tokens, (2, 3, 16))
    assert fewer.grid is None


def test_tokens_are_in_the_images_order():
    """A change of the upper right corner changes that corner's token the most."""
    model = tiny()
    model = model.bind(init(model))
    before = model.tokens_to_token(IMAGES, train=False)
    after = model.tokens_to_token(IMAGES.at[:, :4, -4:].add(3.0), train=False)
    change = jnp.abs(after - before).sum(axis=(0, 3))
    chex.assert_shape(change, (2, 3))
    assert change.argmax() == 2, change


def test_performer_attention_is_the_formula_and_nears_softmax():
    rng = np.random.default_rng(0)
    query, key, value = rng.normal(scale=0.5, size=(3, 1, 6, 4))
    features = rng.normal(size=(40_000, 4))

    def mapped(x):
        return np.exp(x @ features.T - (x**2).sum(-1, keepdims=True) / 2) / np.sqrt(len(features))

    weights = mapped(query[0]) @ mapped(key[0]).T
    expected = weights / weights.sum(axis=1, keepdims=True) @ value[0]
    mixed = performer_attention(*(jnp.asarray(x, jnp.float32) for x in (query, key, value)), jnp.asarray(features))
    np.testing.assert_allclose(mixed[0], expected, atol=1e-4)

    weights = np.exp(query[0] @ key[0].T)
    np.testing.assert_allclose(mixed[0], weights / weights.sum(axis=1, keepdims=True) @ value[0], atol=0.05)


def test_performer_attention_keeps_all_digits_of_its_products():
    """On accelerators too, which otherwise round what goes into float32 products."""
    query, features = jnp.zeros((1, 6, 4), jnp.bfloat16), jnp.zeros((3, 4))
    lowered = jax.jit(jax.grad(lambda x: performer_attention(x, x, x, features).sum().astype(jnp.float32))).lower(query)
    products = re.findall(r"stablehlo.dot_general.*", lowered.as_text())
    assert len(products) >= 5 + 5
    for product in products:
        assert "precision = [HIGHEST, HIGHEST]" in product and "bf16" not in product, product


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.1), ("sgd", 0.1), ("muon", 0.1)])
def test_random_features_are_orthogonal_and_stay_as_they_are(name, decay):
    model = tiny(depth=1)
    params = jax.jit(lambda: model.init(jax.random.key(0), IMAGES, train=False))()["params"]
    features = params["tokens_to_token"]["layer1"]["random_features"]
    np.testing.assert_allclose(features @ features.T, 4 * np.eye(4), atol=1e-5)

    layers = optimizer.Layers(model.depth, model.layer_number)
    known = roles_of(model, IMAGES)
    assert known["tokens_to_token/layer1/random_features"] == Role(is_fixed=True)
    made = optimizer.create(name, schedule=lambda step: 0.1, weight_decay=decay, layers=layers, roles=known)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: (model.apply({"params": p}, IMAGES, train=False).pooled ** 2).sum())(params)
        updates, state = made.transform.update(gradients, state, params)
        return jax.tree.map(lambda p, u: p - 0.1 * u, params, updates), state

    new, state = params, made.transform.init(params)
    for _ in range(3):
        new, state = step(new, state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(new):
        before = params
        for key in path:
            before = before[key.key]
        fixed = path[-1].key == "random_features"
        assert np.array_equal(leaf, before) == fixed, jax.tree_util.keystr(path)


@pytest.mark.parametrize("variant", ["14", "t-14"])
def test_gradients_reach_every_parameter_but_the_random_features(variant):
    model = tiny(variant, depth=1, qkv_bias=True)
    params = init(model)
    gradients = jax.jit(jax.grad(lambda p: (model.apply(p, IMAGES, train=False).tokens ** 3).sum()))(params)
    chex.assert_tree_all_finite(gradients)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        largest, name = jnp.abs(gradient).max(), jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("random_features"):
            assert largest == 0
        elif not name.endswith("attention/key/bias"):  # which the softmax takes away again
            assert largest > 1e-6, name


def test_the_scale_of_the_backbones_attention_can_be_given():
    plain, scaled = tiny(), tiny(qk_scale=0.5)
    params = init(plain)
    folded = jax.tree.map(np.copy, params)
    for i in range(2):
        folded["params"][f"block_{i}"]["attention"]["query"]["kernel"] *= 0.5 * np.sqrt(8)
    expected = plain.apply(folded, IMAGES, train=False).tokens
    np.testing.assert_allclose(scaled.apply(params, IMAGES, train=False).tokens, expected, atol=1e-5)
    assert np.abs(plain.apply(params, IMAGES, train=False).tokens - expected).max() > 1e-3


@pytest.mark.parametrize("variant", ["14", "t-14"])
def test_bfloat16_stays_close(variant):
    model = tiny(variant, dtype="bfloat16")
    params = init(model)
    assert model.apply(params, IMAGES, train=False, method="embed").dtype == jnp.bfloat16
    features = model.apply(params, IMAGES, train=False)
    exact = tiny(variant).apply(params, IMAGES, train=False)
    np.testing.assert_allclose(features.tokens, exact.tokens, atol=0.3)


@pytest.mark.parametrize("option", ["token_dropout", "dropout", "attention_dropout", "drop_path"])
def test_regularisation_is_random_in_training_only(option):
    model = tiny(**{option: 0.5})
    params = init(model)
    train = jax.jit(lambda key: model.apply(params, IMAGES, train=True, rngs={"dropout": key}).tokens)
    assert (train(jax.random.key(1)) != train(jax.random.key(2))).any()
    chex.assert_trees_all_equal(model.apply(params, IMAGES, train=False), tiny().apply(params, IMAGES, train=False))


def test_layers_are_numbered_from_the_image():
    model = tiny()
    numbers = {path.partition("/")[0]: model.layer_number(path) for path in optimizer.leaf_names(init(model)["params"])}
    assert numbers == {"class_token": 0, "tokens_to_token": 0, "block_0": 1, "block_1": 2, "norm": 3}


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("15", {}, "t2t has no variant '15'; valid: 7, 10, .*, t-24"),
        ("14", {"pooling": "gap"}, "t2t has no option 'pooling'; .*valid: tokens_type, "),
        (
            "14",
            {"tokens_type": "convolution"},
            "model.options.tokens_type is 'convolution'; valid: performer, transformer",
        ),
        ("14", {"token_dim": 7}, "model.options.token_dim is 7; valid: even, 2 or more"),
        ("14", {"hidden_dim": 15, "num_heads": 3}, "model.options.hidden_dim is 15; valid: even, 2 or more"),
        (
            "14",
            {"hidden_dim": 16, "num_heads": 3},
            "model.options.hidden_dim 16 is not divisible by model.options.num_heads 3",
        ),
        ("14", {"depth": 0}, "model.options.depth is 0; valid: 1 or more"),
        ("14", {"qk_scale": 0.0}, "model.options.qk_scale is 0.0; valid: above 0, or None"),
        ("14", {"token_dropout": 1.0}, "model.options.token_dropout is 1.0"),
        ("14", {"posemb": "sincos2d"}, "model.options.posemb is 'sincos2d'; valid: sincos1d, learned"),
        ("14", {"norm_eps": 0}, "model.options.norm_eps is 0; valid: above 0"),
    ],
)
def test_bad_input_is_refused_by_name(variant, overrides, message):
    with pytest.raises(InputError, match=message):
        create(variant, **overrides)


def test_images_that_do_not_fit_are_refused():
    model = tiny()
    params = init(model)
    with pytest.raises(InputError, match="2x8 px is too small; valid: 3 px or more"):
        model.apply(params, jnp.ones((1, 2, 8, 3)), train=False)
    with pytest.raises(InputError, match="images have 1 channels, but the model was made for 3"):
        model.apply(params, jnp.ones((1, 32, 32, 1)), train=False)
    learned = tiny(posemb="learned")
    with pytest.raises(InputError, match=r"2x2 patches, but .* made for 2x3"):
        learned.apply(init(learned), jnp.ones((1, 32, 32, 3)), train=False)
