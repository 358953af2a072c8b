"""Outputs of chosen blocks, and the encoding of some of the tokens, for every family."""

import functools
import importlib

import chex
import flax.traverse_util
import jax
import numpy as np
import pytest
from families import TINY

from vit_jax.errors import InputError
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.roles import roles_of

pytestmark = pytest.mark.parametrize("family", TINY)


def tiny(family, **options):
    row = TINY[family]
    return importlib.import_module(f"vit_jax.models.{family}").create(row.variant, **row.options | options)


def images_of(family):
    return np.random.default_rng(0).normal(size=(2, *TINY[family].sizes[1], 3)).astype(np.float32)


@functools.cache
def params_of(family):
    """Drawn by NumPy, which needs no compiling."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: tiny(family).init(jax.random.key(0), images_of(family), train=False))["params"]
    return jax.tree.map(lambda leaf: rng.normal(scale=0.1, size=leaf.shape).astype(leaf.dtype), shapes)


@functools.cache
def encoded(family, intermediates, jit=True, **options):
    def encode(params, images):
        model = tiny(family, **dict(options.get("options", ())))
        kwargs = {"patch_tokens": options.get("patch_tokens", True), "intermediates": intermediates}
        return model.apply({"params": params}, images, train=False, **kwargs)

    return (jax.jit(encode) if jit else encode)(params_of(family), images_of(family))


def everything(family):
    return tuple(range(1, tiny(family).depth + 1))


def test_all_blocks_have_the_shape_of_tokens_or_maps(family):
    features = encoded(family, everything(family))
    assert len(features.intermediates) == tiny(family).depth
    if features.maps:
        expected = [
            stage.shape for stage, depth in zip(features.maps, tiny(family).depths, strict=True) for _ in range(depth)
        ]
    else:
        expected = [features.tokens.shape] * tiny(family).depth
    assert [x.shape for x in features.intermediates] == expected


def test_the_last_blocks_output_is_what_the_final_norm_takes(family):
    features = encoded(family, everything(family))
    norm = LayerNorm(tiny(family).norm_eps).apply({"params": params_of(family)["norm"]}, features.intermediates[-1])
    chex.assert_trees_all_close(norm.reshape(features.tokens.shape), features.tokens, atol=1e-5)


def test_jit_equals_eager_and_the_rest_stays(family):
    compiled, eager = encoded(family, (-1, 1)), encoded(family, (-1, 1), jit=False)
    chex.assert_trees_all_close(compiled, eager, atol=2e-5)
    chex.assert_trees_all_close(compiled.tokens, encoded(family, ()).tokens, atol=1e-5)
    chosen = everything(family)
    expected = [encoded(family, chosen).intermediates[i] for i in (0, -1)]
    chex.assert_trees_all_close(list(compiled.intermediates), expected, atol=1e-5)  # in the order of the blocks


@pytest.mark.parametrize("options", [{"remat": "full"}, {"scan": True}], ids=str)
def test_remat_and_scan_give_the_same(family, options):
    for what in options:
        if what in TINY[family].without:
            pytest.skip(f"{what} does not apply to {family}: see tiny.py")
    chosen = (2, tiny(family).depth)
    other = encoded(family, chosen, options=tuple(options.items()))
    chex.assert_trees_all_close(other.intermediates, encoded(family, chosen).intermediates, atol=2e-5)


def test_the_last_block_is_whole_though_no_patch_token_is_wanted(family):
    features = encoded(family, (-1,), patch_tokens=False)
    chex.assert_trees_all_close(features.intermediates, encoded(family, (-1,)).intermediates, atol=1e-5)
    chex.assert_trees_all_close(features.pooled, encoded(family, ()).pooled, atol=1e-5)


@pytest.mark.parametrize("number", [0, 99, -99])
def test_a_block_that_is_not_there_is_refused(family, number):
    depth = tiny(family).depth
    with pytest.raises(InputError, match=f"intermediates has block {number}; valid: 1 to {depth}, or -{depth} to -1"):
        jax.eval_shape(lambda: encoded(family, (number,), jit=False))


def test_some_of_the_tokens_are_encoded_as_if_there_were_no_others(family):
    """Masked modelling drops tokens between the two halves; the kept ones come out whatever the dropped ones were."""
    if "fewer tokens" in TINY[family].without:
        pytest.skip("the model needs all patches")
    model, params, images = tiny(family), params_of(family), images_of(family)
    tokens = model.apply({"params": params}, images, train=False, method="embed")
    kept = tokens[:, [*range(model.num_prefix_tokens), model.num_prefix_tokens + 1, -1]]

    def encode(tokens):
        return model.apply({"params": params}, tokens, train=False, intermediates=(1,), method="encode")

    features = encode(kept)
    assert features.tokens.shape == features.intermediates[0].shape == kept.shape and features.grid is None
    chex.assert_trees_all_close(encode(tokens).tokens, encoded(family, ()).tokens, atol=1e-5)


def test_roles_are_declared_for_blocks_stems_grids_and_heads_of_attention(family):
    model = tiny(family)
    paths = flax.traverse_util.flatten_dict(params_of(family), sep="/")
    roles = roles_of(model, images_of(family))
    assert roles.keys() == paths.keys()
    stem = {"hybrid": ["resnet/conv_root/kernel"], "t2t": []}.get(family, ["patch_embed/kernel"])
    assert [path for path, role in roles.items() if role.kind == "stem"] == stem
    for path, role in roles.items():
        name = path.rpartition("/")[2]
        assert role.in_block == path.startswith("block_"), path
        assert role.is_decayed == (name == "kernel"), path
        assert (role.kind == "position_grid") == (name == "grid"), path
        assert (role.kind == "bias_table") == (name == "bias_table"), path
        assert role.is_fixed == (name == "random_features"), path
        if role.cut is not None:
            assert role.cut.units == ("attention heads" if "/attention/" in path else "MLP hidden units"), path
    cut = {path for path, role in roles.items() if role.cut is not None and path.startswith("block_0/")}
    names = ["mlp/fc1", "mlp/fc2"] + ["attention/query", "attention/out"] * ("attention" not in TINY[family].without)
    kernels = {f"block_0/{name}/kernel" for name in names}
    assert kernels <= cut and not any(path.endswith(("out/bias", "fc2/bias")) for path in cut)
