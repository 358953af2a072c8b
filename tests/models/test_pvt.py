"""PVT: published sizes, the first version's maps and positions, layers, and refusals; see test_families.py too."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from tiny import Tiny, classification

from vit_jax.errors import InputError
from vit_jax.inference.attention_maps import attention_of
from vit_jax.layers.roles import roles_of
from vit_jax.models.pvt import VARIANTS, create
from vit_jax.parallel import sharding
from vit_jax.training import optimizer as optimizers

TINY = Tiny(
    "B0",
    {"hidden_dims": (8, 16, 24, 32), "depths": (1, 2, 1, 1), "num_heads": (1, 2, 3, 4), "mlp_ratios": (2, 2, 2, 2)},
    ((64, 64), (64, 36)),  # smaller ones are reduced to a single key, which attention learns nothing from
    without=("fewer tokens",),  # keys and values are a convolution of the whole map
)
SMALL = {"hidden_dims": (8, 12, 16), "depths": (1, 2, 1), "num_heads": (1, 2, 4), "mlp_ratios": (2, 1.5, 2)}
SMALL |= {"reductions": (4, 2, 1), "strides": (4, 2, 2)}
FIRST = SMALL | {"patch_sizes": (4, 2, 2)}
SECOND = SMALL | {"patch_sizes": (7, 3, 3)}
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)
KINDS = {"1": ("Tiny", FIRST), "2": ("B0", SECOND), "2 linear": ("B2-Li", SECOND)}


def small(kind, **options):
    variant, sizes = KINDS[kind]
    return create(variant, **sizes | options)


def init(model, images=IMAGES):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def apply(model, params, images=IMAGES, **options):
    return jax.jit(lambda p, x: model.apply({"params": p}, x, train=False, **options))(params, images)


def test_table_has_the_published_variants():
    second = ["B0", "B1", "B2-Li", "B2", "B3", "B4", "B5"]
    assert list(VARIANTS) == ["Tiny", "Small", "Medium", "Large", *second]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_has_the_published_parameters_and_flops(variant):
    row, encoder = VARIANTS[variant], create(variant)
    model = classification(1000).wrap(encoder)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)["params"]
    counted = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, params["encoder"])]
    assert counted[0] == row.params
    if variant == "B1":  # whose figure is neither, see its source
        assert [round(count / 1e6, 1) for count in counted] == [14.0, 13.5]
    else:
        assert row.paper_params_millions == round(counted[1 if "no head" in row.source else 0] / 1e6, 1)
    gflops = (encoder.flops((224, 224)) / 2 + encoder.hidden_dim * 1000) / 1e9
    # The papers round to a tenth, which is more than 2 % of the smallest.
    assert abs(gflops / row.paper_gflops - 1) < 0.02 or round(gflops, 1) == row.paper_gflops


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind):
    features = apply(small(kind), init(small(kind)))
    chex.assert_shape(features.maps, [(2, 8, 12, 8), (2, 4, 6, 12), (2, 2, 3, 16)])
    chex.assert_shape([features.tokens, features.pooled], [(2, 6 + (kind == "1"), 16), (2, 16)])
    assert features.grid == (2, 3)
    if kind == "1":
        np.testing.assert_array_equal(features.pooled, features.tokens[:, 0])
    else:
        np.testing.assert_array_equal(features.tokens.reshape(2, 2, 3, 16), features.maps[-1])
        np.testing.assert_allclose(features.pooled, features.tokens.mean(axis=1), atol=1e-6)


def test_the_first_versions_last_map_is_what_its_norm_sees():
    features = apply(small("1"), params := init(small("1")))
    last = np.asarray(features.maps[-1], np.float64).reshape(2, 6, 16)
    normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(features.tokens[:, 1:], normed, atol=1e-4)


@pytest.mark.parametrize("size", [(33, 61), (7, 9), (64, 32)])
def test_the_second_version_takes_images_of_any_size(size):
    model = small("2", reductions=(1, 1, 1)) if size == (7, 9) else small("2")
    params = init(model, np.zeros((1, 32, 32, 3), np.float32))
    features = apply(model, params, np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32))
    for i, feature_map in enumerate(features.maps):
        assert feature_map.shape[1:3] == tuple(-(-side // 4 // 2**i) for side in size) == model.grids(size)[i]
    chex.assert_tree_all_finite(features)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="too small: conv takes windows of 4x4 from a map of 3x3"):
        init(small("2"), np.zeros((1, 12, 12, 3), np.float32))
    with pytest.raises(InputError, match=r"the images give 8x8 patches, .* was made for 8x12"):
        apply(small("1"), init(small("1")), IMAGES[:, :, :32])
    with pytest.raises(InputError, match="the images have 1 channels, but the model was made for 3"):
        apply(small("2"), init(small("2")), IMAGES[..., :1])


@pytest.mark.parametrize("kind", ["1", "2 linear"])
def test_how_it_is_computed_changes_nothing(kind):
    params = init(small(kind))

    def gradient(**options):
        model = small(kind, **options)
        return jax.jit(jax.grad(lambda p: (model.apply({"params": p}, IMAGES, train=True).pooled ** 2).mean()))(params)

    plain = gradient()
    chex.assert_tree_all_finite(plain)
    for options in ({"remat": "full"}, {"scan": True}):
        chex.assert_trees_all_close(gradient(**options), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scan", [False, True])
def test_stochastic_depth_rises_over_all_stages(scan):
    """With a rate of almost 1 at the end, the last block does nothing, and the first always does something."""
    model = small("2", drop_path=0.999, depths=(1, 2, 2), scan=scan)
    params = init(model)
    keys = {"dropout": jax.random.key(0)}

    def changed(name):
        grad = jax.jit(
            jax.grad(lambda p: (model.apply({"params": p}, IMAGES, train=True, rngs=keys).pooled ** 2).sum())
        )
        return float(jnp.abs(grad(params)[name]["mlp"]["fc2"]["kernel"]).max())

    assert changed("block_0") > 0 and changed("block_4") == 0


def test_layers_are_counted_through_the_stages():
    number = small("2").layer_number
    places = {
        "patch_embed/kernel": 0,
        "patch_norm_0/scale": 0,
        "pos_embedding_0/grid": 0,
        "block_0/mlp/dwconv/kernel": 1,
        "norm_0/scale": 1,
        "patch_embed_1/kernel": 2,
        "pos_embedding_1/grid": 2,
        "block_2/attention/query/kernel": 3,
        "norm_1/bias": 3,
        "patch_norm_2/bias": 4,
        "class_token": 4,
        "block_3/norm1/scale": 4,
        "norm/scale": 5,
    }
    assert {path: number(path) for path in places} == places
    assert small("2").depth == 4


def test_muon_takes_the_blocks_matrices_but_no_depthwise_convolution():
    encoder = small("2")
    params = {"encoder": init(encoder)}
    layers = optimizers.Layers(encoder.depth, lambda path: encoder.layer_number(path.removeprefix("encoder/")))
    roles = {f"encoder/{path}": role for path, role in roles_of(encoder, IMAGES).items()}
    optimizer = optimizers.create("muon", schedule=lambda step: 1.0, layers=layers, roles=roles)
    update, _ = optimizer.transform.update(params, optimizer.transform.init(params), params)
    flat = dict(zip(optimizers.leaf_names(update), jax.tree.leaves(update), strict=True))
    # Adam's first update has the sign of the gradient and the size 1.
    by_adam = {path for path, leaf in flat.items() if np.allclose(np.abs(leaf), 1.0, atol=1e-3)}
    kernels = {path.partition("block_1/")[2] for path in flat if "block_1/" in path and path.endswith("kernel")}
    assert {kernel for kernel in kernels if f"encoder/block_1/{kernel}" in by_adam} == {"mlp/dwconv/kernel"}
    assert len(kernels) == 8  # with the reduction's
    assert {"encoder/patch_embed_1/kernel", "encoder/norm/scale", "encoder/block_0/norm1/bias"} <= by_adam


@pytest.mark.parametrize(
    ("leaf", "shape", "spec"),
    [
        ("mlp/dwconv/kernel", (3, 3, 1, 16), (None, None, None, "tensor")),
        ("mlp/dwconv/bias", (16,), ("tensor",)),
        ("attention/key/kernel", (8, 2, 4), (None, "tensor")),
        ("reduction/conv/kernel", (2, 2, 8, 8), ()),
    ],
)
def test_tensor_parallelism_cuts_the_hidden_units_alike(leaf, shape, spec):
    sizes = {"data": 1, "fsdp": 1, "tensor": 2}
    role = roles_of(small("2"), IMAGES)[f"block_0/{leaf}"]
    assert sharding.partition(leaf, shape, sizes, role=role, min_size=1) == PartitionSpec(*spec)


def test_a_cut_model_gives_the_same():
    model = small("2", num_heads=(2, 2, 4))
    params = init(model)
    mesh = Mesh(np.reshape(jax.devices()[:4], (1, 2, 2)), ("data", "fsdp", "tensor"))
    placed = jax.device_put(params, sharding.shardings(params, mesh, roles=roles_of(model, IMAGES), min_size=1))
    chex.assert_trees_all_close(apply(model, placed), apply(model, params), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_reduced_attention_is_none_between_all_tokens(kind):
    model = small(kind)
    with pytest.raises(InputError, match="PVT has no self-attention between all its tokens; valid: vit, deit, hy"):
        attention_of(model, init(model), IMAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 2, 1)}, r"model.options.hidden_dims is \(64, 128, 320, 512\); valid: 3 numbers of 1 or more"),
        ({"depths": 2}, r"model.options.depths is 2; valid: the number of blocks of each stage"),
        ({"depths": ()}, r"model.options.depths is \(\); valid: the number of blocks of each stage"),
        (
            {"depths": (1, 0, 1, 1)},
            r"model.options.depths is \(1, 0, 1, 1\); valid: the number of blocks of each stage",
        ),
        (
            {"num_heads": 3},
            "model.options.num_heads is 3; valid: 4 numbers of 1 or more, one for each of model.options.depths",
        ),
        ({"linear_attention": "no"}, "model.options.linear_attention is 'no'; valid: True, False"),
        ({"version": True}, "model.options.version is True; valid: 1, 2"),
        ({"mlp_ratios": (4, 4, -1, 4)}, r"model.options.mlp_ratios is .*; valid: 4 numbers above 0"),
        ({"num_heads": (3, 2, 5, 8)}, "model.options.hidden_dims 64 is not divisible by model.options.num_heads 3"),
        ({"activation": "gelu"}, "model.options.activation is 'gelu'; valid: tanh, exact, quick, relu, silu"),
        ({"version": 3}, "model.options.version is 3; valid: 1, 2"),
        ({"version": 1, "linear_attention": True}, "linear_attention is of version 2; valid for version 1: False"),
        ({"version": 1, "reductions": (8, 4, 2, 2)}, "model.options.reductions ends with 2; valid for version 1"),
        ({"embed_norm_eps": 0}, "model.options.embed_norm_eps is 0; valid: above 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        create("B1", **options)


def test_lists_will_do_for_tuples():
    assert create("B0", depths=[1, 1, 1, 1]) == create("B0", depths=(1, 1, 1, 1))
