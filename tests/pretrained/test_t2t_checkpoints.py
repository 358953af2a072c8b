"""T2T-ViT checkpoints by the authors' names: their answers, their positions, what goes back out, and refusals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import vit_jax
from vit_jax.build.info import from_info
from vit_jax.models.t2t import sinusoid
from vit_jax.ops.posemb import resize_grid

FOLDERS = ("t2t_performer", "t2t_transformer")


def pixels_of(golden, name):
    return np.load(golden / name / "expected.npz")["pixel_values"].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_answers_as_the_authors_model(golden, name):
    classifier = vit_jax.load(golden / name)
    expected = np.load(golden / name / "expected.npz")
    pixels = pixels_of(golden, name)
    np.testing.assert_allclose(classifier.apply(pixels), expected["logits"], atol=5e-5)
    encoder = getattr(classifier.model, "encoder")  # noqa: B009
    tokens = encoder.apply(
        {"params": classifier.params["encoder"]},
        pixels,
        train=False,
        method=lambda m, x, train: m.tokens_to_token(x, train=train),
    )
    np.testing.assert_allclose(tokens.reshape(1, 16, 48), expected["tokens"], atol=5e-5)
    attention = classifier.attention(golden / "image.png")
    assert attention.shape == (2, 1, 4, 17, 17)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_leaf_is_loaded_and_positions_are_computed(golden, name):
    classifier = vit_jax.load(golden / name)
    report = classifier.report
    assert len(report.loaded) == len(jax.tree.leaves(classifier.params))
    assert (report.initialised, report.unused, report.buffers) == ((), (), ("pos_embed",))
    data = classifier.preprocessing
    assert (data.image_size, data.crop_fraction, data.interpolation) == ((64, 64), 0.9, "bicubic")
    model, task, preprocessing = from_info(json.loads(json.dumps(classifier.info)))
    assert (model, task, preprocessing) == (classifier.model, classifier.task, classifier.preprocessing)


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_written_is_what_was_read(golden, tmp_path, name):
    classifier = vit_jax.load(golden / name)
    architecture = vit_jax.save(classifier, tmp_path / "x", to="t2t")
    written, read = load_file(tmp_path / "x" / "model.safetensors"), load_file(golden / name / "model.safetensors")
    assert written.keys() == read.keys()
    np.testing.assert_allclose(written.pop("pos_embed"), read["pos_embed"], atol=1e-6)
    for tensor, array in written.items():
        np.testing.assert_array_equal(array, read[tensor])
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    theirs = json.loads((golden / name / "config.json").read_text())
    assert config["architecture"] == theirs["architecture"] == architecture
    assert config["model_args"] | theirs["model_args"] == config["model_args"]
    again = vit_jax.load(tmp_path / "x")
    assert again.info == classifier.info
    np.testing.assert_array_equal(again.apply(pixels_of(golden, name)), classifier.apply(pixels_of(golden, name)))


def embedded(classifier, pixels):
    """The tokens with their positions."""
    encoder = getattr(classifier.model, "encoder")  # noqa: B009
    return encoder.apply({"params": classifier.params["encoder"]}, pixels, train=False, method="embed")


def test_at_another_size_the_positions_are_resized_as_the_authors_do(golden):
    pixels = jnp.ones((1, 96, 64, 3))
    table = load_file(golden / "t2t_performer" / "model.safetensors")["pos_embed"][0]
    grid = resize_grid(table[1:].reshape(4, 4, 48), (6, 4), antialias=False)
    expected = np.concatenate([table[:1], grid.reshape(24, 48)])
    np.testing.assert_allclose(sinusoid((4, 4), (6, 4), 48), expected, atol=1e-5)

    classifier = vit_jax.load(golden / "t2t_performer", image_size=(96, 64))
    encoder = getattr(classifier.model, "encoder").clone(posemb_grid=(6, 4))  # noqa: B009
    computed = encoder.apply({"params": classifier.params["encoder"]}, pixels, train=False, method="embed")
    difference = sinusoid((4, 4), (6, 4), 48) - sinusoid((6, 4), (6, 4), 48)
    np.testing.assert_allclose(embedded(classifier, pixels) - computed, difference[None], atol=1e-5)
    assert jnp.abs(difference).max() > 0.1


def test_a_table_that_is_no_sinusoid_is_learned(changed, tmp_path, golden):
    copy = changed("t2t_performer")
    table = np.asarray(sinusoid((2, 2), (4, 4), 48))[None]
    copy.tensors["pos_embed"] = table
    classifier = vit_jax.load(copy.save())
    assert classifier.info["model"]["options"]["posemb"] == "learned" and classifier.report.buffers == ()
    pixels = pixels_of(golden, "t2t_performer")
    plain = vit_jax.load(golden / "t2t_performer")
    difference = embedded(classifier, pixels) - embedded(plain, pixels)
    np.testing.assert_allclose(difference, table - np.asarray(sinusoid((4, 4), (4, 4), 48)), atol=1e-5)
    vit_jax.save(classifier, tmp_path / "x", to="t2t")
    np.testing.assert_array_equal(load_file(tmp_path / "x" / "model.safetensors")["pos_embed"], table)
    larger = vit_jax.load(copy.folder, image_size=(64, 96))
    assert larger.report.resized == {"encoder/pos_embedding/grid": ((4, 4), (4, 6))}


def test_a_checkpoint_need_not_say_what_its_tensors_and_name_do(changed, golden):
    copy = changed("t2t_performer")
    copy.config = {"architecture": "t2t_vit_7", "num_classes": 7, "pretrained_cfg": {"input_size": [3, 64, 64]}}
    del copy.tensors["pos_embed"]
    logits = vit_jax.load(copy.save()).apply(pixels_of(golden, "t2t_performer"))
    expected = np.load(golden / "t2t_performer" / "expected.npz")["logits"]
    np.testing.assert_allclose(logits, expected, atol=5e-5)


def test_biases_and_scale_of_the_backbones_attention(changed, golden):
    """A scale of twice the usual is a query of twice the size."""
    plain = changed("t2t_transformer")
    rng = np.random.default_rng(0)
    for i in range(2):
        plain.tensors[f"blocks.{i}.attn.qkv.bias"] = rng.normal(size=144).astype(np.float32)
    plain.config["model_args"] |= {"qkv_bias": True, "qk_scale": 2 / np.sqrt(12)}
    pixels = pixels_of(golden, "t2t_transformer")
    scaled = vit_jax.load(plain.save()).apply(pixels)
    plain.config["model_args"]["qk_scale"] = None
    for i in range(2):
        for leaf in ("weight", "bias"):
            plain.tensors[f"blocks.{i}.attn.qkv.{leaf}"][:48] *= 2
    np.testing.assert_allclose(scaled, vit_jax.load(plain.save()).apply(pixels), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_layer": "rms"}, "model_args.norm_layer is not supported; valid: attn_drop_rate, depth, "),
        ({"tokens_type": "convolution"}, "tokens_type 'convolution' is not supported; valid: performer, transformer"),
        ({"img_size": 96}, r"pos_embed has shape \[1, 17, 48\], but .* grid of 6x6 tokens need \[1, 37, 48\]"),
        ({"img_size": "64"}, "img_size is '64'; valid: one number, or height and width"),
        ({"num_heads": 5}, "model.options.hidden_dim 48 is not divisible by model.options.num_heads 5"),
        ({"embed_dim": 64}, r"pos_embed has shape \[1, 17, 48\]"),
        ({"token_dim": 8}, r"tokens_to_token.attention1.kqv.bias gives .*layer1/key/bias \[16\], not \[8\]"),
        ({"depth": 3}, "model_args.depth is 3, but there are tensors of 2 blocks"),
        ({"depth": 1}, r"the model has no place for blocks.1.attn.proj.bias, "),
    ],
)
def test_what_does_not_fit_is_refused(changed, arguments, message):
    copy = changed("t2t_performer")
    copy.config["model_args"] |= arguments
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(copy.save())


def test_an_unknown_architecture_has_to_tell_its_heads(changed):
    copy = changed("t2t_performer")
    copy.config["architecture"] = "t2t_vit_99"
    vit_jax.load(copy.save())
    del copy.config["model_args"]["num_heads"]
    with pytest.raises(vit_jax.InputError, match=r"'t2t_vit_99' does not tell the number of heads; valid: .*t2t_vit_7"):
        vit_jax.load(copy.save())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_size": (64, 96)},
            r"t2t cannot express data.image_size \(64, 96\) \(valid: as high as wide, and a",
        ),
        ({"image_size": 40}, r"data.image_size \(40, 40\)"),
    ],
)
def test_what_the_authors_code_cannot_do_is_not_written(golden, tmp_path, options, message):
    classifier = vit_jax.load(golden / "t2t_performer", **options)
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.save(classifier, tmp_path / "x", to="t2t")
    with pytest.raises(vit_jax.InputError, match="model 't2t' is not written in the format timm; valid: t2t, workdir"):
        vit_jax.save(classifier, tmp_path / "x", to="timm")
    assert not (tmp_path / "x").exists()
    vit_jax.save(classifier, tmp_path / "x", to="workdir")
    pixels = jnp.ones((1, *classifier.preprocessing.image_size, 3))
    np.testing.assert_array_equal(vit_jax.load(tmp_path / "x").apply(pixels), classifier.apply(pixels))
