"""Swin and Swin V2: published sizes and FLOPs, maps, stages, stochastic depth, names and refusals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Tiny, classification

from vit_jax.errors import InputError
from vit_jax.inference.attention_maps import attention_of
from vit_jax.layers.roles import roles_of
from vit_jax.models.swin import VARIANTS, create
from vit_jax.parallel.sharding import partition
from vit_jax.training import optimizer

TINY = Tiny(
    "T/2",
    {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "mlp_ratio": 2.0},
    ((32, 32), (24, 44)),
    without=("fewer tokens",),  # its windows are full
)
IMAGES = np.random.default_rng(0).normal(size=(2, 24, 44, 3)).astype(np.float32)


def tiny(variant="T/2", **overrides):
    return create(variant, **{"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "mlp_ratio": 2.0} | overrides)


def init(model, images=IMAGES):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def test_table_has_the_published_variants():
    v1 = ["T/7", "S/7", "B/7", "B/12", "L/7", "L/12"]
    v2 = ["V2-T/8", "V2-T/16", "V2-S/8", "V2-S/16", "V2-B/8", "V2-B/16", "V2-B/24", "V2-L/16", "V2-L/24"]
    assert list(VARIANTS) == v1 + v2


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_flops_are_the_published_ones(variant):
    row = VARIANTS[variant]
    encoder = create(variant)
    images = jax.ShapeDtypeStruct((1, row.image_size, row.image_size, 3), jnp.float32)
    model = classification(1000).wrap(encoder)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == row.params
    assert round(count / 1e6) == row.paper_params_millions
    gflops = encoder.flops((row.image_size, row.image_size)) / 2e9  # the source's multiply-add is one
    assert gflops == pytest.approx(row.paper_gflops, rel=0.02)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_is_its_row(variant):
    model, row = create(variant), VARIANTS[variant]
    for field in ("embed_dim", "depths", "num_heads", "version"):
        assert getattr(model, field) == getattr(row, field)
    assert model.window_size == ((row.window_size,) * 2,) * 4
    before = row.pretrained_window_size
    assert model.pretrained_window_size == (before and tuple((side, side) for side in before))


@pytest.mark.parametrize("variant", ["T/2", "V2-T/2"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 44), (30, 17)])
def test_maps_are_at_strides_of_4_and_twice_that(variant, height, width):
    model = tiny(variant, depths=(1, 1, 1), num_heads=(1, 2, 4))
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, train=False), images)
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16)]
    assert [x.shape for x in features.maps] == [(2, *size, 8 * 2**i) for i, size in enumerate(sizes)]
    assert features.tokens.shape == (2, sizes[2][0] * sizes[2][1], 32)
    assert (features.pooled.shape, features.grid) == ((2, 32), sizes[2])


@pytest.mark.parametrize("variant", ["T/2", "V2-T/2"])
def test_tokens_are_the_last_map_normalised_and_pooled_is_their_mean(variant):
    model = tiny(variant)
    params = init(model)
    features = model.apply({"params": params}, IMAGES, train=False)
    last = np.asarray(features.maps[-1])
    last = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-5)
    expected = (last * params["norm"]["scale"] + params["norm"]["bias"]).reshape(2, -1, 16)
    np.testing.assert_allclose(features.tokens, expected, atol=2e-5)
    np.testing.assert_allclose(features.pooled, expected.mean(axis=1), atol=2e-5)


def test_an_image_that_patches_do_not_divide_is_padded_with_zeros():
    model = tiny()
    params = init(model)
    padded = np.pad(IMAGES[:, :22, :41], ((0, 0), (0, 2), (0, 3), (0, 0)))
    of = [model.apply({"params": params}, x, train=False).tokens for x in (IMAGES[:, :22, :41], padded)]
    np.testing.assert_array_equal(*of)


def test_in_timms_way_what_patches_do_not_divide_is_left_out():
    model = tiny(window_fit="timm")
    params = init(model)
    assert (model.grid_of((22, 41)), model.extent_of((22, 41))) == ((5, 10), (20, 40))
    assert model.flops((22, 41)) == model.flops((20, 40))
    of = [model.apply({"params": params}, IMAGES[:, :h, :w], train=False).tokens for h, w in ((22, 41), (20, 40))]
    np.testing.assert_array_equal(*of)


def test_parameters_are_those_of_any_image_size():
    """So that a model goes on at another size."""
    model = tiny(window_size=8)
    shapes = [jax.tree.map(np.shape, init(model, IMAGES[:, :h, :w])) for h, w in ((8, 8), (24, 44))]
    assert shapes[0] == shapes[1]
    assert shapes[0]["block_3"]["attention"]["bias_table"] == (15, 15, 4)


@pytest.mark.parametrize("variant", ["T/2", "V2-T/2"])
def test_every_second_block_of_a_stage_shifts(variant):
    """A pixel reaches the next window only through it."""
    model = tiny(variant, depths=(2,), num_heads=(2,), window_size=2)
    params = init(model)
    changed = IMAGES.copy()
    changed[:, 0, 4] += 1.0  # the second patch of the first window
    for depth, reached in ((1, 2), (2, 3)):
        one = tiny(variant, depths=(depth,), num_heads=(2,), window_size=2)
        maps = [one.apply({"params": params}, x, train=False).maps[0] for x in (IMAGES, changed)]
        columns = np.abs(np.asarray(maps[1]) - maps[0]).max(axis=(0, 1, 3)) > 1e-6
        assert columns.tolist() == [True] * reached + [False] * (11 - reached)


def test_drop_path_rises_linearly_over_all_stages():
    model = tiny(depths=(1, 2, 1), num_heads=(1, 1, 1), drop_path=0.3)
    bound = model.bind({"params": init(model)})
    np.testing.assert_allclose([block.drop_path for stage in bound.stages for block in stage], [0, 0.1, 0.2, 0.3])


def test_v2_learns_too_and_its_blocks_may_be_scanned():
    """The generic suite has V1."""
    plain, model = tiny("V2-T/2"), tiny("V2-T/2", scan=True, remat="full")
    params = init(plain)

    def gradient(model):
        return jax.jit(jax.grad(lambda p: (model.apply({"params": p}, IMAGES, train=True).tokens ** 2).sum()))(params)

    expected, gradients = gradient(plain), gradient(model)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-7, path
    for left, right in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-3)


def test_v2_starts_as_its_patches_alone():
    """Norms after the branches start at zero."""
    model = tiny("V2-T/2", depths=(2,), num_heads=(2,))
    params = model.init(jax.random.key(0), IMAGES, train=False)["params"]
    bound = model.bind({"params": params})
    np.testing.assert_allclose(
        model.apply({"params": params}, IMAGES, train=False).maps[0],
        bound.embed_norm(bound.patch_embed(IMAGES)),
        atol=1e-6,
    )


def test_layers_weight_decay_muon_and_tensor_sharding_go_by_the_names():
    model = tiny("V2-T/2", depths=(1, 2), num_heads=(2, 4))
    flat = optimizer.leaf_names(params := init(model))
    number = {path: model.layer_number(path) for path in flat}
    assert number["patch_embed/kernel"] == number["embed_norm/scale"] == 0
    assert number["block_0/mlp/fc1/kernel"] == number["merge_0/reduction/kernel"] == 1
    assert (number["block_1/norm1/scale"], number["block_2/norm1/scale"], number["norm/scale"]) == (2, 3, 4)
    assert model.depth == 3
    roles = roles_of(model, IMAGES)
    decayed = {path for path, yes in zip(flat, jax.tree.leaves(optimizer.decayed(params, roles)), strict=True) if yes}
    assert "block_0/attention/query/kernel" in decayed and "merge_0/reduction/kernel" in decayed
    assert not any(re.search("offset|logit_scale|bias", path) for path in decayed)
    sizes = {"data": 1, "fsdp": 1, "tensor": 2}
    path, shape = "block_0/attention/query/kernel", params["block_0"]["attention"]["query"]["kernel"].shape
    assert partition(path, shape, sizes, role=roles[path], min_size=1)[1] == "tensor"
    assert not roles["merge_0/reduction/kernel"].in_block and roles[path].in_block


def test_there_is_no_attention_between_all_tokens():
    model = tiny()
    with pytest.raises(InputError, match="Swin has no self-attention between all its tokens"):
        attention_of(model, init(model), IMAGES)


def test_values_for_all_stages_or_for_each():
    model = tiny(window_size=[3, [2, 4]], num_heads=2, patch_size=2, shift_size=[0, (1, 2)])
    assert model.window_size == ((3, 3), (2, 4))
    assert (model.num_heads, model.patch_size, model.shift_size) == ((2, 2), (2, 2), ((0, 0), (1, 2)))
    assert create("V2-B/16", pretrained_window_size=12).pretrained_window_size == ((12, 12),) * 4
    assert create("V2-L/24", window_size=16).pretrained_window_size is None
    assert tiny("T/9").window_size == ((9, 9), (9, 9))


@pytest.mark.parametrize("variant", ["X/7", "T", "T/0", "T/7x7", "V3-T/7", "t/7", ""])
def test_unknown_variant_is_refused_with_the_valid_ones(variant):
    with pytest.raises(InputError, match=f"swin has no variant {variant!r}; valid: T/7, .*V2-L/24, .*'T/8'"):
        create(variant)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depth": 3}, "swin has no option 'depth'; nearest: 'depths'; valid: embed_dim, depths, .*window_size"),
        ({"depths": ()}, r"model.options.depths is \(\); valid: the number of blocks of each stage"),
        ({"depths": 2}, "model.options.depths is 2"),
        ({"num_heads": (2,)}, r"model.options.num_heads is \(2,\); valid: one for all stages, or one for each of 2$"),
        ({"num_heads": (3, 4)}, r"model.options.num_heads is \(3, 4\); valid: at 0, a divisor of 8 channels"),
        (
            {"window_size": (2, 2, 2)},
            r"model.options.window_size is \(2, 2, 2\); valid: one for all .*rows and columns",
        ),
        ({"window_size": 0}, "model.options.window_size is 0"),
        ({"window_size": None}, "model.options.window_size is None"),
        ({"window_size": True}, "model.options.window_size is True"),
        (
            {"window_size": 2, "shift_size": (1, 2)},
            r"model.options.shift_size is \(2, 2\) for windows of \(2, 2\); valid: less",
        ),
        ({"mask_value": "x"}, "model.options.mask_value is 'x'; valid: a number"),
        ({"shift_size": (-1, 0)}, r"model.options.shift_size is \(-1, 0\)"),
        ({"pretrained_window_size": 4}, "model.options.pretrained_window_size is an option of Swin V2"),
        ({"version": 3}, "model.options.version is 3; valid: 1, 2"),
        ({"window_fit": "mine"}, "model.options.window_fit is 'mine'; valid: authors, timm"),
        ({"posemb": "sincos2d"}, "model.options.posemb is 'sincos2d'; valid: none, learned"),
        ({"patch_size": 0}, "model.options.patch_size is 0; valid: one number, or height and width"),
        ({"head_dim": 0}, "model.options.head_dim is 0; valid: 1 or more, or None"),
        ({"mlp_ratio": 0.0}, "model.options.mlp_ratio is 0.0; valid: above 0"),
        ({"dropout": 1.0}, "model.options.dropout is 1.0; valid: at least 0"),
        ({"remat": "all"}, "model.options.remat is 'all'; valid: none, full, dots"),
    ],
)
def test_bad_option_is_refused_by_name_and_value(overrides, message):
    with pytest.raises(InputError, match=message):
        tiny(**overrides)


def test_an_image_of_another_grid_does_not_fit_a_learned_embedding():
    model = tiny(posemb="learned")
    with pytest.raises(InputError, match=r"11x6 patches.*made for 6x11"):
        model.apply({"params": init(model)}, IMAGES.swapaxes(1, 2), train=False)
