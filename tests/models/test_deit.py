"""DeiT: sizes as published, its details, and its agreement with checkpoints of other libraries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN
from tiny import Tiny, classification

import vit_jax
from vit_jax.errors import InputError
from vit_jax.models import vit
from vit_jax.models.deit import VARIANTS, create

TINY = Tiny("Ti/4", {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}, ((16, 16), (8, 20)))


def num_params(model):
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def test_the_paper_has_these():
    assert list(VARIANTS) == ["Ti/16", "S/16", "B/16"]
    assert {("deit", name) for name in VARIANTS} <= set(vit_jax.list_models())


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts(variant):
    row, encoder = VARIANTS[variant], create(variant)
    assert num_params(classification(1000, distillation_head=True).wrap(encoder)) == row.params
    assert round(row.params / 1e6) == row.paper_params_millions
    assert (encoder.hidden_dim, encoder.depth, encoder.mlp_dim) == (row.hidden_dim, row.depth, row.mlp_dim)
    assert (encoder.num_heads, encoder.patch_size) == (row.num_heads, row.patch_size)
    # Without distillation it has as many as the ViT of its size.
    plain = classification(1000).wrap(create(variant, distillation_token=False))
    assert num_params(plain) == vit.VARIANTS[variant].params


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_are_those_of_one_more_token(variant):
    encoder, plain = create(variant), vit.create(variant)
    dim, depth, mlp_dim = encoder.hidden_dim, encoder.depth, encoder.mlp_dim
    products_with_kernels = dim * (4 * dim + 2 * mlp_dim)
    attention = 2 * dim * (198**2 - 197**2)
    assert encoder.flops((224, 224)) - plain.flops((224, 224)) == 2 * depth * (products_with_kernels + attention)


def test_its_details_are_those_of_a_checkpoint():
    """Created by name with the checkpoint's sizes it answers as the checkpoint's own library did."""
    classifier = vit_jax.load(GOLDEN / "hf_deit")
    other = classifier.encoder
    sizes = {key: getattr(other, key) for key in ("hidden_dim", "depth", "mlp_dim", "num_heads", "patch_size")}
    encoder = create("Ti/16", **sizes)
    assert encoder.gelu == other.gelu and encoder.distillation_token
    images = np.random.default_rng(0).normal(size=(1, *classifier.preprocessing.image_size, 3)).astype(np.float32)
    features = encoder.clone(norm_eps=other.norm_eps).apply(
        {"params": classifier.params["encoder"]}, images, train=False
    )
    np.testing.assert_allclose(features.tokens, classifier.features(images).tokens, atol=1e-5)


def test_any_patch_and_field():
    encoder = create("Ti/4", hidden_dim=16, depth=1, num_heads=2, gelu="tanh")
    assert (encoder.patch_size, encoder.gelu, encoder.num_prefix_tokens) == ((4, 4), "tanh", 2)


@pytest.mark.parametrize("variant", ["L/16", "X", "", "S16"])
def test_an_unknown_variant_is_named(variant):
    with pytest.raises(InputError, match=r"deit has no variant .*valid: Ti/16, S/16, B/16, or one of these sizes"):
        create(variant)


def test_a_bad_patch_is_refused():
    with pytest.raises(InputError, match="no variant 'S/0'"):
        create("S/0")
