"""The hybrid: published sizes, Google's answers, any image size, the ResNet's parts against NumPy, refusals."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import Tiny, classification

from vit_jax.errors import InputError
from vit_jax.layers.norm import GroupNorm
from vit_jax.layers.resnet import StdConv, stage_grids
from vit_jax.models.hybrid import VARIANTS, create

TINY = Tiny(
    "R50+B/16",
    {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "resnet_stages": (1, 1), "resnet_width": 32},
    ((32, 32), (16, 48)),
)
IMAGES = jax.random.normal(jax.random.key(7), (2, 32, 48, 3))
SMALL = {"hidden_dim": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2, "resnet_stages": (1, 1), "resnet_width": 32}


def tiny(variant="R50+B/16", **overrides):
    return create(variant, **SMALL | overrides)


def init(model, images=IMAGES):
    """Random parameters, none of them zero; drawn by NumPy, which needs no compiling."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def test_table_has_the_published_variants():
    assert list(VARIANTS) == ["R+Ti/16", "R26+S/32", "R26+B/32", "R50+B/16", "R50+L/32"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_count_is_the_published_one(variant):
    row = VARIANTS[variant]
    model = create(variant)
    wrapped = classification(1000).wrap(model)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(lambda x: wrapped.init(jax.random.key(0), x, train=False), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == row.params
    if row.paper_params_millions is not None:
        hidden_layer = model.hidden_dim * (model.hidden_dim + 1)
        assert round((row.params + hidden_layer) / 1e6, 1) == row.paper_params_millions


@pytest.mark.parametrize(
    ("variant", "grid"),
    [("R+Ti/16", (7, 7)), ("R26+S/32", (7, 7)), ("R26+B/32", (7, 7)), ("R50+B/16", (14, 14)), ("R50+L/32", (7, 7))],
)
def test_grid_at_224(variant, grid):
    assert create(variant).grid_of((224, 224)) == grid


def test_any_size_is_halved_rounding_up():
    assert stage_grids((224, 224), 0) == [(112, 112), (56, 56)]
    assert stage_grids((50, 33), 3) == [(25, 17), (13, 9), (13, 9), (7, 5), (4, 3)]
    model = tiny(posemb="sincos2d")
    params = init(model)
    for size, grid in [((64, 64), (8, 8)), ((50, 33), (7, 5))]:
        features = model.apply(params, jnp.ones((2, *size, 3)), train=False)
        assert features.grid == grid
        chex.assert_shape(features.tokens, (2, 1 + grid[0] * grid[1], 16))


def flops_of(image_size, channels, row, width=64):
    """Multiply-adds of the ResNet, layer by layer as its definition has them."""
    height, stride_of = image_size[0], lambda i, j: 2 if i and not j else 1
    size, macs, features = height // 2, 0, width
    macs += size**2 * 7 * 7 * channels * width
    size //= 2
    for i, units in enumerate(row.stages):
        inner = width * 2**i
        for j in range(units):
            macs += size**2 * features * inner
            size //= stride_of(i, j)
            macs += size**2 * (9 * inner * inner + inner * 4 * inner)
            if features != 4 * inner or stride_of(i, j) > 1:
                macs += size**2 * features * 4 * inner
            features = 4 * inner
    return macs, size, features


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_are_the_sum_over_the_layers(variant):
    model = create(variant)
    macs, size, features = flops_of((224, 224), 3, VARIANTS[variant])
    patch, dim = model.patch_size[0], model.hidden_dim
    patches = (size // patch) ** 2
    macs += patches * patch**2 * features * dim
    n = patches + 1
    macs += model.depth * (n * dim * (4 * dim + 2 * model.mlp_dim) + 2 * n**2 * dim)
    assert model.flops((224, 224)) == 2 * macs


def test_cells_that_the_patch_does_not_divide_are_left_out():
    model = create("R+Ti/16", depth=1)  # patches of 8x8 cells of 4 pixels
    assert (model.grid_of((76, 100)), model.extent_of((76, 100))) == ((2, 3), (64, 96))


def test_convolution_by_hand():
    """A standardised kernel, zeros around the image, more of them at the lower right."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 5, 3)), rng.normal(loc=2, size=(3, 3, 3, 4))
    layer = StdConv(4, 3, 2)
    y = layer.apply({"params": {"kernel": kernel.astype(np.float32)}}, x.astype(np.float32))
    kernel = (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5)
    padded = np.pad(x, ((0, 0), (0, 1), (1, 1), (0, 0)))  # 6 needs 1 in all, 5 needs 2
    expected = np.zeros((2, 3, 3, 4))
    for row in range(3):
        for column in range(3):
            cut = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected[:, row, column] = np.einsum("bijc,ijco->bo", cut, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_groups_of_channels_are_normalised():
    rng = np.random.default_rng(0)
    x = rng.normal(loc=3, scale=2, size=(2, 3, 4, 12))
    scale, bias = rng.normal(size=(2, 12))
    layer = GroupNorm(num_groups=4, epsilon=1e-2)
    y = layer.apply({"params": {"scale": scale, "bias": bias}}, x.astype(np.float32))
    for group in range(4):
        part = x[..., 3 * group : 3 * group + 3]
        centred = part - part.mean((1, 2, 3), keepdims=True)
        expected = centred / np.sqrt(part.var((1, 2, 3), keepdims=True) + 1e-2)
        np.testing.assert_allclose(
            y[..., 3 * group : 3 * group + 3],
            expected * scale[3 * group : 3 * group + 3] + bias[3 * group : 3 * group + 3],
            atol=1e-5,
        )
    with pytest.raises(InputError, match="10 channels are not divisible by the 4 groups"):
        layer.init(jax.random.key(0), np.zeros((1, 2, 2, 10)))


def test_a_new_residual_unit_passes_on_its_input():
    model = tiny()
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))["params"]
    assert sorted(params["resnet"]) == ["conv_root", "gn_root", "stage1_unit1", "stage2_unit1"]
    started = jax.jit(lambda: model.init(jax.random.key(0), IMAGES, train=False))()["params"]["resnet"]
    for unit in ("stage1_unit1", "stage2_unit1"):
        assert not started[unit]["gn3"]["scale"].any() and (started[unit]["gn_proj"]["scale"] == 1).all()


def test_layers_are_numbered_with_the_resnet_before_the_blocks():
    model = tiny()
    numbers = {name: model.layer_number(f"{name}/x") for name in ("resnet", "patch_embed", "block_0", "norm")}
    assert numbers == {"resnet": 0, "patch_embed": 0, "block_0": 1, "norm": 2}


def test_bfloat16_convolves_in_bfloat16_and_stays_close():
    model = tiny(dtype="bfloat16")
    params = init(model)
    text = jax.jit(lambda p: model.apply(p, IMAGES, train=False)).lower(params).as_text()
    types = set(re.findall(r"stablehlo\.convolution.*-> tensor<[\dx]*x(\w+)>", text))
    assert types == {"bf16"}


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("R50+B/32", {}, r"hybrid has no variant 'R50\+B/32'; valid: R\+Ti/16, "),
        ("R50+B/16", {"stages": (1,)}, "hybrid has no option 'stages'; .*valid: .*resnet_stages, resnet_width"),
        (
            "R50+B/16",
            {"resnet_stages": (1, 0)},
            r"model.options.resnet_stages is \(1, 0\); valid: numbers of 1 or more",
        ),
        ("R50+B/16", {"resnet_width": 48}, "model.options.resnet_width is 48; valid: a multiple of 32"),
        ("R50+B/16", {"depth": 0}, "model.options.depth is 0; valid: 1 or more"),
    ],
)
def test_bad_input_is_refused_by_name(variant, overrides, message):
    with pytest.raises(InputError, match=message):
        create(variant, **overrides)


def test_images_that_do_not_fit_are_refused():
    model = tiny("R+Ti/16", resnet_stages=())
    with pytest.raises(InputError, match=r"images of 28x48 px leave the ResNet as 7x12 cells, .* patch of 8x8 cells"):
        init(model, IMAGES[:, :28])
    model = tiny()
    with pytest.raises(InputError, match="the images have 1 channels, but the model was made for 3"):
        model.apply(init(model), IMAGES[..., :1], train=False)
    with pytest.raises(InputError, match=r"6x4 patches.*made for 4x6"):
        model.apply(init(model), IMAGES.swapaxes(1, 2), train=False)
