"""What becomes of every leaf: resized, adapted, missing, unused, and heads that are zero."""

import numpy as np
import pytest

import vit_jax
from vit_jax.ops.posemb import resize_grid
from vit_jax.pretrained.report import adapt_channels, matches


@pytest.mark.parametrize(
    ("name", "tensor", "num_prefix", "antialias"),
    [
        ("hf_vit", "vit.embeddings.position_embeddings", 1, False),
        ("hf_deit", "deit.embeddings.position_embeddings", 2, False),
        ("timm_vit", "pos_embed", 1, True),
        ("timm_vit_gap", "pos_embed", 0, True),
        ("timm_vit_reg", "pos_embed", 0, True),
    ],
)
def test_position_embeddings_are_resized_as_in_their_library(changed, name, tensor, num_prefix, antialias):
    copy = changed(name)
    table = copy.tensors[tensor][0]
    classifier = vit_jax.load(copy.folder, image_size=(24, 80))
    assert classifier.report.resized == {"encoder/pos_embedding/grid": ((6, 6), (3, 10))}
    assert "encoder/pos_embedding/grid: resized from 6x6 to 3x10" in str(classifier.report)
    params = classifier.params["encoder"]["pos_embedding"]
    expected = resize_grid(table[num_prefix:].reshape(6, 6, 48), (3, 10), antialias=antialias)
    np.testing.assert_array_equal(params["grid"], expected)
    assert ("prefix" in params) == (num_prefix > 0)
    if num_prefix:
        np.testing.assert_array_equal(params["prefix"], table[:num_prefix])
    assert classifier.preprocess(np.zeros((50, 60, 3), np.uint8)).shape == (1, 24, 80, 3)
    assert np.isfinite(classifier.apply(np.zeros((1, 24, 80, 3), np.float32))).all()


def test_the_same_grid_is_bitwise_untouched(changed):
    copy = changed("timm_vit")
    params = vit_jax.load(copy.folder, image_size=48).params["encoder"]["pos_embedding"]
    table = copy.tensors["pos_embed"][0]
    np.testing.assert_array_equal(params["grid"].reshape(36, 48), table[1:])


def test_a_rectangle_is_read_by_the_config_and_never_by_a_root(changed):
    """2 x 8 patches are 16, a square number; they become 4 x 4."""
    copy = changed("hf_vit")
    copy.config |= {"image_size": [16, 64]}
    table = np.random.default_rng(0).normal(size=(1, 17, 48)).astype(np.float32)
    copy.tensors["vit.embeddings.position_embeddings"] = table
    folder = copy.save()
    as_is = vit_jax.load(folder)
    np.testing.assert_array_equal(as_is.params["encoder"]["pos_embedding"]["grid"], table[0, 1:].reshape(2, 8, 48))
    assert as_is.preprocessing.image_size == (16, 64)
    square = vit_jax.load(folder, image_size=32)
    assert square.report.resized == {"encoder/pos_embedding/grid": ((2, 8), (4, 4))}
    expected = resize_grid(table[0, 1:].reshape(2, 8, 48), (4, 4), antialias=False)
    np.testing.assert_array_equal(square.params["encoder"]["pos_embedding"]["grid"], expected)


def test_196_positions_without_a_class_token(changed):
    copy = changed("timm_vit_gap")
    copy.config["model_args"]["img_size"] = 112
    copy.tensors["pos_embed"] = np.random.default_rng(0).normal(size=(1, 196, 48)).astype(np.float32)
    folder = copy.save()
    assert vit_jax.load(folder).params["encoder"]["pos_embedding"]["grid"].shape == (14, 14, 48)
    copy.tensors["pos_embed"] = copy.tensors["pos_embed"][:, :195]
    copy.save()
    with pytest.raises(vit_jax.InputError, match="pos_embed has 195 positions, but images of 112x112 px make 14x14"):
        vit_jax.load(folder)


def test_one_channel_is_the_sum_and_a_grey_image_gives_the_same(golden):
    colour, grey = vit_jax.load(golden / "timm_vit"), vit_jax.load(golden / "timm_vit", in_channels=1)
    assert grey.report.adapted == {"encoder/patch_embed/kernel": (3, 1)}
    assert "encoder/patch_embed/kernel: adapted from 3 to 1 channels" in str(grey.report)
    pixels = np.random.default_rng(0).normal(size=(2, 48, 48, 1)).astype(np.float32)
    np.testing.assert_allclose(grey.apply(pixels), colour.apply(np.repeat(pixels, 3, axis=3)), atol=2e-5)
    assert (grey.preprocessing.channels, grey.preprocessing.mean) == (1, (0.5,))
    assert grey.preprocess(golden / "image.png").shape == (1, 48, 48, 1)


def test_more_channels_repeat_and_keep_the_scale(golden):
    kernel = np.random.default_rng(0).normal(size=(2, 2, 3, 5)).astype(np.float32)
    five = adapt_channels(kernel, 5)
    np.testing.assert_allclose(five, kernel[:, :, [0, 1, 2, 0, 1]] * 0.6, rtol=1e-6)
    np.testing.assert_allclose(adapt_channels(kernel, 6).sum(axis=2), kernel.sum(axis=2), rtol=1e-4, atol=1e-6)
    classifier = vit_jax.load(golden / "hf_vit", in_channels=5)
    assert classifier.apply(np.zeros((1, 48, 48, 5), np.float32)).shape == (1, 7)
    with pytest.raises(vit_jax.InputError, match="images of 5 channels, which are not decoded"):
        classifier.preprocess(golden / "image.png")
    with pytest.raises(vit_jax.InputError, match="in_channels is 0; valid: 1 or more"):
        vit_jax.load(golden / "hf_vit", in_channels=0)


def test_an_unused_tensor_is_refused_unless_named(changed):
    copy = changed("hf_vit")
    copy.tensors["vit.pooler.dense.bias"] = np.zeros(48, np.float32)
    folder = copy.save()
    with pytest.raises(
        vit_jax.InputError, match=r"no place for vit.pooler.dense.bias; .*allow=\('vit.pooler.dense.bias'"
    ):
        vit_jax.load(folder)
    for allow in (["vit.pooler.dense.bias"], ["vit.pooler"], ["*pooler*"]):
        assert vit_jax.load(folder, allow=allow).report.unused == ("vit.pooler.dense.bias",)
    with pytest.raises(vit_jax.InputError, match=r"no place for vit.pooler"):
        vit_jax.load(folder, allow=["vit.pool"])


def test_a_missing_tensor_is_refused_unless_named(changed):
    copy = changed("hf_vit")
    name = "vit.encoder.layer.1.layernorm_after.weight"
    del copy.tensors[name]
    folder = copy.save()
    with pytest.raises(vit_jax.InputError, match=f"{folder}: it lacks {name}; to load it all the same"):
        vit_jax.load(folder)
    for allow in ([name], ["encoder/block_1/norm2"]):
        classifier = vit_jax.load(folder, allow=allow)
        assert classifier.report.initialised == ("encoder/block_1/norm2/scale",)
        assert "encoder/block_1/norm2/scale: newly initialised" in str(classifier.report)
        np.testing.assert_array_equal(classifier.params["encoder"]["block_1"]["norm2"]["scale"], np.ones(48))
        assert "encoder/block_1/norm2/scale" not in classifier.report.loaded


def test_what_model_args_ask_for_must_be_there(changed):
    copy = changed("timm_vit")
    copy.config["model_args"] |= {"init_values": 1e-4}
    with pytest.raises(vit_jax.InputError, match=r"it lacks blocks.0.ls1.gamma, .* and 1 more"):
        vit_jax.load(copy.save())


def test_a_tensor_of_another_shape_is_refused(changed):
    copy = changed("hf_vit")
    copy.tensors["vit.layernorm.weight"] = np.zeros(47, np.float32)
    with pytest.raises(vit_jax.InputError, match=r"vit.layernorm.weight gives encoder/norm/scale \[47\], not \[48\]"):
        vit_jax.load(copy.save())


def test_heads_that_do_not_divide_are_refused(changed):
    copy = changed("hf_vit")
    copy.config["num_attention_heads"] = 5
    with pytest.raises(
        vit_jax.InputError, match=r"model.options.hidden_dim 48 is not divisible by model.options.num_heads 5"
    ):
        vit_jax.load(copy.save())


@pytest.mark.parametrize(("name", "head"), [("hf_vit", "classifier"), ("timm_vit", "head")])
def test_a_zero_head_is_refused_for_inference(changed, golden, name, head):
    copy = changed(name)
    copy.tensors[f"{head}.weight"] = np.zeros_like(copy.tensors[f"{head}.weight"])
    folder = copy.save()
    with pytest.raises(vit_jax.InputError, match=f"{head}.weight is zero throughout, so that all classes are alike"):
        vit_jax.load(folder)
    classifier = vit_jax.load(folder, allow=[head])
    assert classifier.features(np.zeros((1, 48, 48, 3), np.float32)).pooled.shape == (1, 48)
    with pytest.raises(vit_jax.InputError, match="head/kernel is zero throughout"):
        classifier.predict(golden / "image.png")


def test_a_new_head_is_zero_too(changed, golden):
    copy = changed("hf_vit")
    del copy.tensors["classifier.weight"]
    classifier = vit_jax.load(copy.save(), allow=["classifier.weight"])
    with pytest.raises(vit_jax.InputError, match="head/kernel is zero throughout"):
        classifier.apply(np.zeros((1, 48, 48, 3), np.float32))


def test_patterns():
    assert matches("a.b.c", ["a.b"]) and matches("a/b", ["a"]) and matches("a.b", ["a.?"])
    assert not matches("a.bc", ["a.b"]) and not matches("a.b", [])
