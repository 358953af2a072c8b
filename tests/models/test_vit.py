"""The plain ViT: published sizes, a reference in NumPy float64, shapes, numerics, randomness and refusals."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Tiny, classification

from vit_jax.errors import InputError
from vit_jax.layers.patch_embed import POSEMB
from vit_jax.models.vit import POOLING, VARIANTS, create

TINY = Tiny("Ti/4", {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}, ((16, 16), (8, 20)))
IMAGES = jax.random.normal(jax.random.key(7), (2, 8, 12, 3))


def tiny(variant="Ti/4", **overrides):
    return create(variant, **{"hidden_dim": 16, "depth": 2, "mlp_dim": 32, "num_heads": 2} | overrides)


def init(model, images=IMAGES):
    """Random parameters, none of them zero; drawn by NumPy, which needs no compiling."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_table_has_the_published_variants():
    assert list(VARIANTS) == ["Ti/16", "S/16", "S/32", "B/8", "B/16", "B/32", "L/16", "L/32", "H/14", "g/14", "G/14"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_count_is_the_published_one(variant):
    row = VARIANTS[variant]
    model = classification(1000).wrap(create(variant))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)["params"]
    assert count(params) == row.params

    counted = count(params["encoder"]) if "without the head" in row.source else count(params)
    decimals = len(str(row.paper_params_millions).partition(".")[2])
    assert round(counted / 1e6, decimals) == row.paper_params_millions


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_is_its_row(variant):
    model, row = create(variant), VARIANTS[variant]
    for field in ("hidden_dim", "depth", "mlp_dim", "num_heads", "patch_size"):
        assert getattr(model, field) == getattr(row, field)
    assert f"{variant.partition('/')[2]}" == str(row.patch_size[0]) == str(row.patch_size[1])


def test_any_patch_and_any_field_can_be_chosen():
    assert create("Ti/4").patch_size == (4, 4)
    assert create("B/16x8").patch_size == (16, 8)
    model = create("B/16", hidden_dim=96, patch_size=(2, 4), norm_eps=1e-12)
    assert (model.hidden_dim, model.patch_size, model.norm_eps, model.depth) == (96, (2, 4), 1e-12, 12)


def reference(params, images, *, patch_size, norm_eps):
    """Tokens of a ViT with class token and learned positions, written out in NumPy float64."""
    p = jax.tree.map(np.float64, params["params"])

    def norm(x, p):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm_eps)
        return x * p["scale"] + p["bias"]

    def attention(x, p):
        q, k, v = (
            np.einsum("bnD,Dhd->bnhd", x, p[name]["kernel"]) + p[name]["bias"] for name in ("query", "key", "value")
        )
        scores = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1]))
        mixed = np.einsum("bhnm,bmhd->bnhd", scores / scores.sum(-1, keepdims=True), v)
        return np.einsum("bnhd,hdD->bnD", mixed, p["out"]["kernel"]) + p["out"]["bias"]

    def mlp(x, p):
        x = x @ p["fc1"]["kernel"] + p["fc1"]["bias"]
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x @ p["fc2"]["kernel"] + p["fc2"]["bias"]

    batch, height, width, _ = images.shape
    cuts = [
        np.einsum("bijc,ijcD->bD", images[:, y : y + patch_size[0], x : x + patch_size[1]], p["patch_embed"]["kernel"])
        + p["patch_embed"]["bias"]
        for y in range(0, height, patch_size[0])
        for x in range(0, width, patch_size[1])
    ]
    position = p["pos_embedding"]
    tokens = np.stack(cuts, axis=1) + position["grid"].reshape(1, len(cuts), -1)
    x = np.concatenate([np.repeat(p["class_token"] + position["prefix"], batch, axis=0), tokens], axis=1)
    for name in sorted(key for key in p if key.startswith("block_")):
        x = x + attention(norm(x, p[name]["norm1"]), p[name]["attention"])
        x = x + mlp(norm(x, p[name]["norm2"]), p[name]["mlp"])
    return norm(x, p["norm"])


@pytest.mark.parametrize("norm_eps", [1e-6, 1e-1])
def test_model_equals_the_reference(norm_eps):
    model = tiny("Ti/4x2", norm_eps=norm_eps)
    params = init(model)
    features = model.apply(params, IMAGES, train=False)
    expected = reference(params, np.float64(IMAGES), patch_size=(4, 2), norm_eps=norm_eps)
    np.testing.assert_allclose(features.tokens, expected, atol=2e-5)
    np.testing.assert_allclose(features.pooled, expected[:, 0], atol=2e-5)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("posemb", POSEMB)
@pytest.mark.parametrize("pooling", POOLING)
def test_shapes(pooling, posemb, train):
    for variant, (height, width), grid in [("Ti/4", (8, 8), (2, 2)), ("Ti/4x2", (8, 12), (2, 6))]:
        model = tiny(variant, pooling=pooling, posemb=posemb, dropout=0.1, attention_dropout=0.1, drop_path=0.1)
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        images = jax.ShapeDtypeStruct((3, height, width, 3), jnp.float32)
        features, _ = jax.eval_shape(lambda x, m=model, k=keys: m.init_with_output(k, x, train=train), images)
        num_tokens = grid[0] * grid[1] + (pooling == "token")
        chex.assert_shape([features.tokens, features.pooled], [(3, num_tokens, 16), (3, 16)])
        assert features.grid == grid
        assert features.maps is None


@pytest.mark.parametrize(
    ("pooling", "class_token", "has_one"),
    [("token", None, True), ("gap", None, False), ("map", None, False), ("gap", True, True), ("map", False, False)],
)
def test_class_token_is_there_when_asked_for_or_pooled(pooling, class_token, has_one):
    model = tiny(pooling=pooling, class_token=class_token)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))["params"]
    assert model.has_class_token == has_one == ("class_token" in params)


def test_prefix_tokens_come_in_order_and_have_positions_unless_told():
    options = {"distillation_token": True, "register_tokens": 3, "depth": 1}
    for prefix_posemb in (True, False):
        model = tiny(prefix_posemb=prefix_posemb, **options)
        params = init(model)["params"]
        tokens = model.apply({"params": params}, IMAGES, train=False, method="embed")
        expected = np.concatenate([params[name] for name in ("class_token", "distillation_token", "registers")], axis=1)
        if prefix_posemb:
            expected = expected + params["pos_embedding"]["prefix"]
        assert ("prefix" in params["pos_embedding"]) == prefix_posemb
        assert model.num_prefix_tokens == 5
        np.testing.assert_allclose(tokens[:, :5], np.repeat(expected, 2, axis=0), atol=1e-6)
        chex.assert_shape(tokens, (2, 5 + 6, 16))


def test_registers_are_no_patches():
    model = tiny(pooling="gap", register_tokens=4, depth=1)
    features = model.apply(init(model), IMAGES, train=False)
    np.testing.assert_allclose(features.pooled, features.tokens[:, 4:].mean(axis=1), atol=1e-6)


def layer_norm(x, params, epsilon=1e-6):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * params["scale"] + params["bias"]


@pytest.mark.parametrize("pooling", POOLING)
def test_the_last_norm_can_be_after_the_pooling_or_left_out(pooling):
    model, none = tiny(pooling=pooling, final_norm="pooled"), tiny(pooling=pooling, final_norm="none")
    params = init(model)["params"]
    norm = params["fc_norm"]
    plain = none.apply({"params": {k: v for k, v in params.items() if k != "fc_norm"}}, IMAGES, train=False)
    features = model.apply({"params": params}, IMAGES, train=False)
    np.testing.assert_allclose(features.tokens, plain.tokens, atol=1e-5)
    np.testing.assert_allclose(features.pooled, layer_norm(plain.pooled, norm), atol=1e-5)


def test_pre_norm_is_on_all_tokens():
    model = tiny(pre_norm=True)
    params = init(model)["params"]
    plain = tiny().apply({"params": params}, IMAGES, train=False, method="embed")
    tokens = model.apply({"params": params}, IMAGES, train=False, method="embed")
    np.testing.assert_allclose(tokens, layer_norm(plain, params["norm_pre"]), atol=1e-5)


def test_layer_scale_scales_both_branches():
    model = tiny(layer_scale=0.1, depth=1)
    started = model.init(jax.random.key(0), IMAGES, train=False)["params"]["block_0"]
    np.testing.assert_array_equal([started["scale1"], started["scale2"]], np.full((2, 16), np.float32(0.1)))
    params = init(model)["params"]
    block = params["block_0"]
    folded = jax.tree.map(np.copy, params)
    for leaf in ("kernel", "bias"):
        folded["block_0"]["attention"]["out"][leaf] *= block["scale1"]
        folded["block_0"]["mlp"]["fc2"][leaf] *= block["scale2"]
    expected = tiny(depth=1).apply({"params": folded}, IMAGES, train=False).tokens
    np.testing.assert_allclose(model.apply({"params": params}, IMAGES, train=False).tokens, expected, atol=1e-5)


def test_query_and_key_can_be_normalised_and_biases_left_out():
    model = tiny(qk_norm=True, qkv_bias=False, patch_bias=False, depth=1)
    params = init(model)["params"]
    attention = params["block_0"]["attention"]
    assert attention["query"].keys() == params["patch_embed"].keys() == {"kernel"}
    chex.assert_shape(attention["query_norm"]["scale"], (8,))
    # The norm takes a factor away from the query, and from the key.
    larger = jax.tree.map(np.copy, params)
    larger["block_0"]["attention"]["query"]["kernel"] *= 8
    larger["block_0"]["attention"]["key"]["kernel"] *= 5
    small, large = (model.apply({"params": p}, IMAGES, train=False).tokens for p in (params, larger))
    np.testing.assert_allclose(small, large, atol=1e-3)


@pytest.mark.parametrize("pooling", POOLING)
def test_jit_equals_eager_and_so_do_the_two_halves(pooling):
    model = tiny(pooling=pooling, depth=1)
    params = init(model)
    eager = model.apply(params, IMAGES, train=False)
    jitted = jax.jit(lambda p, x: model.apply(p, x, train=False))(params, IMAGES)
    tokens = model.apply(params, IMAGES, train=False, method="embed")
    halves = model.apply(params, tokens, grid=(2, 3), train=False, method="encode")
    chex.assert_tree_all_finite(eager)
    chex.assert_trees_all_close(eager, jitted, atol=1e-5)
    chex.assert_trees_all_close(eager, halves)


def test_encode_takes_any_number_of_tokens_without_their_grid():
    model = tiny(posemb="none", pooling="gap", depth=1)
    params = init(model)
    tokens = model.apply(params, IMAGES, train=False, method="embed")
    features = model.apply(params, tokens[:, [5, 1, 3]], train=False, method="encode")
    chex.assert_shape(features.tokens, (2, 3, 16))
    assert features.grid is None
    reordered = model.apply(params, tokens[:, [1, 3, 5]], train=False, method="encode")
    chex.assert_trees_all_close(features.pooled, reordered.pooled, atol=1e-5)


@pytest.mark.parametrize("class_token", [False, True])
def test_gap_is_the_mean_over_the_patches_alone(class_token):
    model = tiny(pooling="gap", class_token=class_token, depth=1)
    features = model.apply(init(model), IMAGES, train=False)
    chex.assert_shape(features.tokens, (2, 6 + class_token, 16))
    np.testing.assert_allclose(features.pooled, features.tokens[:, -6:].mean(axis=1), atol=1e-6)


def test_representation_is_the_tanh_of_a_dense_layer():
    model, plain = tiny(representation_size=5, depth=1), tiny(depth=1)
    params = init(model)["params"]
    layer = params["pre_logits"]
    pooled = plain.apply({"params": {k: v for k, v in params.items() if k != "pre_logits"}}, IMAGES, train=False).pooled
    expected = np.tanh(pooled @ layer["kernel"] + layer["bias"])
    representation = model.apply({"params": params}, IMAGES, train=False).pooled
    chex.assert_shape(representation, (2, 5))
    np.testing.assert_allclose(representation, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLING)
def test_gradients_are_finite_and_reach_every_parameter(pooling):
    model = tiny("Ti/2x4", pooling=pooling, class_token=True, representation_size=5, depth=1)
    params = init(model)
    gradients = jax.jit(jax.grad(lambda p: (model.apply(p, IMAGES, train=False).pooled ** 2).sum()))(params)
    chex.assert_tree_all_finite(gradients)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        largest, name = jnp.abs(gradient).max(), jax.tree_util.keystr(path, simple=True, separator="/")
        # A key's bias adds the same to all scores of a query, which the softmax takes away again.
        assert largest < 1e-5 if name.endswith("key/bias") else largest > 1e-5, name


@pytest.mark.parametrize("pooling", POOLING)
def test_bfloat16_multiplies_in_bfloat16_and_stays_close(pooling):
    model = tiny(pooling=pooling, depth=1, dtype="bfloat16")
    params = init(model)
    chex.assert_type(jax.tree.leaves(params), jnp.float32)
    assert model.apply(params, IMAGES, train=False, method="embed").dtype == jnp.bfloat16

    forward = jax.jit(lambda p: model.apply(p, IMAGES, train=False))
    products = re.findall(
        r"stablehlo\.dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)", forward.lower(params).as_text()
    )
    assert set(products) == {("bf16", "bf16")}
    exact = tiny(pooling=pooling, depth=1).apply(params, IMAGES, train=False)
    features = forward(params)
    chex.assert_type(features.tokens, jnp.float32)
    chex.assert_trees_all_close(features.tokens, exact.tokens, atol=0.1)
    chex.assert_trees_all_close(features.pooled.astype(jnp.float32), exact.pooled, atol=0.1)


@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "drop_path"])
def test_regularisation_is_random_in_training_only(option):
    model = tiny(**{option: 0.5})
    params = init(model)
    train = jax.jit(lambda key: model.apply(params, IMAGES, train=True, rngs={"dropout": key}).tokens)
    np.testing.assert_array_equal(train(jax.random.key(1)), train(jax.random.key(1)))
    assert (train(jax.random.key(1)) != train(jax.random.key(2))).any()
    chex.assert_trees_all_equal(model.apply(params, IMAGES, train=False), tiny().apply(params, IMAGES, train=False))


def test_training_without_regularisation_needs_no_key():
    model = tiny(depth=1)
    params = init(model)
    chex.assert_trees_all_equal(model.apply(params, IMAGES, train=True), model.apply(params, IMAGES, train=False))


def test_drop_path_rises_linearly_to_its_rate():
    model = tiny(depth=4, drop_path=0.3)
    rates = [block.drop_path for block in model.bind(init(model)).blocks]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("variant", ["X/16", "B16", "B/", "B/0", "B/16x0", "B/-4", "b/16", ""])
def test_unknown_variant_is_refused_with_the_valid_ones(variant):
    with pytest.raises(InputError, match=f"no variant {variant!r}; valid: Ti/16, .*G/14.*'B/16x8'"):
        create(variant)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"heads": 3}, "no option 'heads'; nearest: 'num_heads'; valid: patch_size, .*num_heads.*dtype"),
        ({"name": "vit"}, "no option 'name'"),
        ({"posemb": "rope"}, "model.options.posemb is 'rope'; valid: learned, sincos2d, sincos2d_mae, sincos1d, none"),
        ({"pooling": "max"}, "model.options.pooling is 'max'; valid: token, gap, map"),
        ({"gelu": "relu"}, "model.options.gelu is 'relu'; valid: tanh, exact"),
        ({"dropout": 1.0}, "model.options.dropout is 1.0; valid: at least 0 and less than 1"),
        ({"attention_dropout": -0.1}, "model.options.attention_dropout is -0.1"),
        ({"drop_path": float("nan")}, "model.options.drop_path is nan"),
        ({"depth": 0}, "model.options.depth is 0; valid: 1 or more"),
        ({"mlp_dim": -1}, "model.options.mlp_dim is -1"),
        ({"num_heads": 0}, "model.options.num_heads is 0"),
        ({"hidden_dim": 100}, "model.options.hidden_dim 100 is not divisible by model.options.num_heads 3"),
        (
            {"pooling": "token", "class_token": False},
            "model.options.pooling 'token' needs model.options.class_token; .*: gap, map",
        ),
        ({"class_token": False}, "model.options.pooling 'token' needs model.options.class_token"),
    ],
)
def test_bad_option_is_refused_by_name_and_value(overrides, message):
    with pytest.raises(InputError, match=message):
        create("Ti/16", **overrides)


def test_what_patches_do_not_divide_changes_nothing():
    """Of 8x12 pixels, patches of 3x5 leave out the last two rows and columns."""
    model = tiny("Ti/3x5", depth=1)
    params, whole = init(model), IMAGES[:, :6, :10]
    assert model.grid_of((8, 12)) == (2, 2) and model.extent_of((8, 12)) == (6, 10)
    assert model.flops((8, 12)) == model.flops((6, 10))
    chex.assert_trees_all_equal(*(model.apply(params, images, train=False) for images in (IMAGES, whole)))


def test_an_image_smaller_than_a_patch_is_refused_by_both_sizes():
    with pytest.raises(InputError, match=r"8x12 px.*9x5 px"):
        init(tiny("Ti/9x5"))


def test_image_of_another_grid_is_refused_by_both_grids():
    model = tiny(depth=1)
    with pytest.raises(InputError, match=r"3x2 patches.*made for 2x3"):
        model.apply(init(model), IMAGES.swapaxes(1, 2), train=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dtype": "float33"}, "model.options.dtype is 'float33'; valid: float32, bfloat16"),
        ({"remat": "some"}, "model.options.remat is 'some'; valid: none, full, dots"),
        ({"representation_size": 0}, "model.options.representation_size is 0"),
        ({"norm_eps": -1.0}, "model.options.norm_eps is -1.0; valid: above 0"),
        ({"final_norm": "last"}, "model.options.final_norm is 'last'; valid: tokens, pooled, none"),
        ({"layer_scale": 0.0}, "model.options.layer_scale is 0.0; valid: above 0, or None"),
        ({"register_tokens": -1}, "model.options.register_tokens is -1; valid: 0 or more"),
        ({"register_tokens": 0.0}, "model.options.register_tokens is 0.0; valid: 0 or more"),
        ({"class_token": "no"}, "model.options.class_token is 'no'; valid: True, False or None"),
        (
            {"distillation_token": True, "pooling": "gap"},
            "model.options.distillation_token needs model.options.class_token",
        ),
        ({"patch_size": (0, 4)}, r"model.options.patch_size is \(0, 4\)"),
        ({"hidden_dim": 8.0}, "model.options.hidden_dim is 8.0"),
        ({"dropout": "a"}, "model.options.dropout is 'a'"),
    ],
)
def test_values_out_of_range_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        create("Ti/4", **overrides)


def test_one_number_is_a_square_patch():
    assert create("Ti/16", patch_size=4).patch_size == (4, 4)


def test_images_of_other_channels_are_refused():
    model = create("Ti/4", hidden_dim=8, depth=1, mlp_dim=8, num_heads=2)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))
    with pytest.raises(InputError, match="images have 1 channels, but the model was made for 3"):
        jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, 8, 8, 1)), train=False), shapes)
