"""Fitting arrays to a model by the roles of its parameters, without any library's format."""

import flax.traverse_util
import jax
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.layers.roles import trace
from vit_jax.models import hybrid, swin, vit
from vit_jax.ops.posemb import resize_grid
from vit_jax.ops.windows import resize_table
from vit_jax.pretrained.report import Found, adapt_channels, fit
from vit_jax.tasks.classification import zero_heads

SMALL = {"hidden_dim": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2}
SMALL_SWIN = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "mlp_ratio": 2.0}


def traced(model, *shape):
    images = np.zeros((1, *shape), np.float32)
    return trace(lambda: {"encoder": model.init(jax.random.key(0), images, train=False)["params"]})


def fitted(old, new):
    """Random parameters of one model, and what they become in the other."""
    rng = np.random.default_rng(0)
    flat = flax.traverse_util.flatten_dict(old.shapes, sep="/")
    arrays = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in flat.items()}
    found = Found(arrays, {path: f"tensor {path}" for path in arrays}, [f"tensor {path}" for path in arrays])
    template = flax.traverse_util.flatten_dict(new.shapes, sep="/")
    return arrays, *fit(found, template, roles=new.roles, source="there", antialias=True)


@pytest.mark.parametrize("posemb", ["learned", "sincos2d_mae"])
def test_grids_are_resized_and_stems_adapted(posemb):
    model = vit.create("Ti/4", **SMALL, posemb=posemb)
    arrays, params, report = fitted(traced(model, 16, 16, 3), traced(model, 8, 24, 1))
    grid, stem = "encoder/pos_embedding/grid", "encoder/patch_embed/kernel"
    assert (report.resized, report.adapted) == ({grid: ((4, 4), (2, 6))}, {stem: (3, 1)})
    np.testing.assert_array_equal(params[grid], resize_grid(arrays[grid], (2, 6)))
    np.testing.assert_array_equal(params[stem], adapt_channels(arrays[stem], 1))
    assert len(report.loaded) == len(params) - 2


def test_bias_tables_are_resized():
    arrays, params, report = fitted(
        traced(swin.create("T/2", **SMALL_SWIN), 32, 32, 3), traced(swin.create("T/4", **SMALL_SWIN), 32, 32, 3)
    )
    tables = {f"encoder/block_{i}/attention/bias_table" for i in (0, 1)}
    assert report.resized == dict.fromkeys(tables, ((3, 3), (7, 7)))
    for table in tables:
        np.testing.assert_array_equal(params[table], resize_table(arrays[table], (7, 7)))


def test_the_stem_of_a_hybrid_is_its_resnets():
    model = hybrid.create("R50+B/16", **SMALL, resnet_stages=(1,), resnet_width=32)
    _, _, report = fitted(traced(model, 16, 16, 3), traced(model, 16, 16, 1))
    assert report.adapted == {"encoder/resnet/conv_root/kernel": (3, 1)}


def test_what_has_another_role_is_refused():
    model = vit.create("Ti/4", **SMALL)
    with pytest.raises(InputError, match=r"there: tensor encoder/.* gives encoder/.* \[.*\], not \[.*\]"):
        fitted(traced(model, 16, 16, 3), traced(model.clone(mlp_dim=32), 16, 16, 3))


def test_heads_that_are_zero_are_found():
    params = {name: {"kernel": np.zeros((2, 2))} for name in ("head", "fc")}
    assert zero_heads(params) == ["head/kernel"]
    assert zero_heads({"head": {"kernel": np.eye(2)}}) == []
