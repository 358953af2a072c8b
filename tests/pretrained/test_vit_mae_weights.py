"""Transformers' ViTMAE: read as a bare encoder or with its decoder, and written; see tests/golden."""

import json

import numpy as np
import pytest
import scipy.special
from conftest import small_config
from safetensors.numpy import load_file

import vit_jax
from vit_jax.build.experiment import experiment

OF_THE_SOURCE = {"model__name": None, "model__variant": None}
OF_THE_SOURCE |= {
    f"model__options__{key}": None for key in ("hidden_dim", "depth", "mlp_dim", "num_heads", "posemb", "pooling")
}
OF_THE_SOURCE |= {f"data__{key}": None for key in ("image_size", "channels", "mean", "std")}


def bare(copy):
    """Makes a copy of the golden folder a `ViTMAEModel`; gives the decoder's tensors."""
    tensors = copy.tensors
    copy.config["architectures"] = ["ViTMAEModel"]
    copy.tensors = {name.removeprefix("vit."): x for name, x in tensors.items() if name.startswith("vit.")}
    return {name: x.astype(np.float64) for name, x in tensors.items() if name.startswith("decoder.")}


def normed(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * weight + bias


def decoded(tensors, tokens, ids_restore, heads=4):
    """What the decoder of the golden file says of the encoder's tokens `[B, 1 + visible, D]`, in NumPy."""

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(x, name):
        return normed(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    x = linear(tokens, "decoder.decoder_embed")
    count, hidden = ids_restore.shape[1], x.shape[2]
    masked = np.broadcast_to(tensors["decoder.mask_token"], (len(x), count + 1 - x.shape[1], hidden))
    patches = np.concatenate([x[:, 1:], masked], axis=1)
    x = np.concatenate([x[:, :1], np.take_along_axis(patches, ids_restore[..., None], axis=1)], axis=1)
    x = x + tensors["decoder.decoder_pos_embed"]
    for i in range(2):
        layer = f"decoder.decoder_encoder.layer.{i}"
        y = norm(x, f"{layer}.layernorm_before")
        q, k, v = (
            linear(y, f"{layer}.attention.attention.{part}").reshape(*y.shape[:2], heads, -1)
            for part in ("query", "key", "value")
        )
        weights = scipy.special.softmax(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(hidden / heads), axis=-1)
        x = x + linear(np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape), f"{layer}.attention.output.dense")
        y = linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense")
        x = x + linear(y * scipy.special.ndtr(y), f"{layer}.output.dense")
    return linear(norm(x, "decoder.decoder_norm"), "decoder.decoder_pred")[:, 1:]


def test_the_encoder_of_visible_patches_is_transformers(changed, golden):
    copy = changed("hf_vit_mae")
    decoder = bare(copy)
    loaded = vit_jax.load(copy.save())
    assert loaded.task is None and loaded.report.unused == () and set(loaded.info["fields"]) == {"image"}
    expected = np.load(golden / "hf_vit_mae" / "expected.npz")
    variables, model = {"params": loaded.params}, loaded.model
    pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
    tokens = np.asarray(model.apply(variables, pixels, train=False, method="embed"))
    visible = np.argsort(expected["noise"], axis=1, kind="stable")[:, :9]
    patches = np.take_along_axis(tokens[:, 1:], visible[..., None], axis=1)
    kept = np.concatenate([tokens[:, :1], patches], axis=1)
    features = model.apply(variables, kept, grid=None, train=False, method="encode")
    logits = decoded(decoder, np.asarray(features.tokens, np.float64), expected["ids_restore"])
    np.testing.assert_allclose(logits, expected["logits"], atol=2e-5)


def test_a_bare_encoder_goes_out_as_a_vit(changed, tmp_path):
    copy = changed("hf_vit_mae")
    bare(copy)
    before = vit_jax.load(copy.save())
    assert vit_jax.save(before, tmp_path / "out", to="huggingface") == "ViTModel"
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == copy.tensors.keys()
    assert all(np.array_equal(written[name], copy.tensors[name]) for name in written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["ViTMAEBackbone"]}, "'ViTMAEBackbone' is not supported; valid: ViTMAEModel, ViTMAEForPre"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported; valid: gelu"),
        ({"image_size": "big"}, "image_size is 'big'; valid: one number, or height and width"),
    ],
)
def test_what_is_not_supported_is_named(changed, change, message):
    copy = changed("hf_vit_mae")
    copy.config |= change
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(copy.save())


class TestWithItsDecoder:
    """`ViTMAEForPreTraining`, which is the task `masked_autoencoder`."""

    def test_it_reconstructs_as_transformers(self, golden):
        loaded = vit_jax.load(golden / "hf_vit_mae")
        expected = np.load(golden / "hf_vit_mae" / "expected.npz")
        pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
        outputs = loaded.model.apply({"params": loaded.params}, pixels, expected["noise"], train=False)
        np.testing.assert_allclose(outputs.patches, expected["logits"], atol=2e-5)
        np.testing.assert_array_equal(outputs.masked, expected["mask"])
        np.testing.assert_allclose(loaded.task.loss(outputs, {}).mean(), expected["loss"], atol=2e-5)

    def test_training_may_start_from_its_encoder(self, golden):
        whole = vit_jax.load(golden / "hf_vit_mae")
        config = small_config(init__source=str(golden / "hf_vit_mae"), **OF_THE_SOURCE)
        run = experiment(config)
        assert all(path.startswith("encoder/") for path in run.warm_start.arrays)
        kernel = run.warm_start.arrays["encoder/block_2/mlp/fc1/kernel"]
        np.testing.assert_array_equal(kernel, whole.params["encoder"]["block_2"]["mlp"]["fc1"]["kernel"])

    def test_it_comes_back_bit_for_bit(self, golden, tmp_path):
        before = vit_jax.load(golden / "hf_vit_mae")
        assert before.info["task"]["name"] == "masked_autoencoder"
        assert before.report.unused == before.report.initialised == ()
        assert vit_jax.save(before, tmp_path / "out", to="huggingface") == "ViTMAEForPreTraining"
        theirs, ours = (load_file(folder / "model.safetensors") for folder in (golden / "hf_vit_mae", tmp_path / "out"))
        assert theirs.keys() == ours.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        theirs, ours = (json.loads((f / "config.json").read_text()) for f in (golden / "hf_vit_mae", tmp_path / "out"))
        assert {key: theirs[key] for key in ours} == ours

    def test_published_files_call_the_decoders_layers_otherwise(self, changed, golden):
        copy = changed("hf_vit_mae")
        copy.tensors = {name.replace("decoder_encoder.layer", "decoder_layers"): x for name, x in copy.tensors.items()}
        loaded, usual = vit_jax.load(copy.save()), vit_jax.load(golden / "hf_vit_mae")
        np.testing.assert_array_equal(
            loaded.params["decoder"]["block_1"]["mlp"]["fc1"]["kernel"],
            usual.params["decoder"]["block_1"]["mlp"]["fc1"]["kernel"],
        )

    def test_at_another_size_both_tables_are_resized(self, golden):
        loaded = vit_jax.load(golden / "hf_vit_mae", image_size=(64, 32))
        assert loaded.report.resized == {
            f"{part}/pos_embedding/grid": ((6, 6), (8, 4)) for part in ("decoder", "encoder")
        }

    def test_other_formats_do_not_have_the_task(self, golden, tmp_path):
        with pytest.raises(vit_jax.InputError, match="task 'masked_autoencoder' is not written in the format timm; "):
            vit_jax.save(vit_jax.load(golden / "hf_vit_mae"), tmp_path / "out", to="timm")
        loaded = vit_jax.load(golden / "hf_vit_mae", image_size=(64, 32))
        with pytest.raises(vit_jax.InputError, match=r"data.image_size \(64, 32\) \(valid: a square\)"):
            vit_jax.save(loaded, tmp_path / "out", to="huggingface")
