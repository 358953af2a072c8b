"""PVT in the formats of Hugging Face and timm: read as those libraries answer, and written bit for bit."""

import json

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import vit_jax
from vit_jax.build.info import from_info
from vit_jax.inference.predictor import Predictor
from vit_jax.info import new_info
from vit_jax.types import class_fields

FOLDERS = {"hf_pvt": "huggingface", "hf_pvt_v2": "huggingface", "timm_pvt_v2_li": "timm"}


@pytest.mark.parametrize("name", FOLDERS)
def test_it_answers_as_its_own_library(golden, name):
    classifier = vit_jax.load(golden / name)
    expected = np.load(golden / name / "expected.npz")
    pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(classifier.apply(pixels), expected["logits"], atol=5e-5)
    features = classifier.features(pixels)
    if name == "hf_pvt":  # each block's output, and the tokens after the norm
        outputs = [expected[f"hidden_{block}"] for block in (0, 2, 3, 4)]
        outputs[-1] = outputs[-1][:, 1:]
        np.testing.assert_allclose(features.tokens, expected["hidden_5"], atol=5e-5)
    else:
        outputs = [expected[f"hidden_{stage}"].transpose(0, 2, 3, 1) for stage in range(4)]
    for feature_map, output in zip(features.maps, outputs, strict=True):
        np.testing.assert_allclose(feature_map.reshape(output.shape), output, atol=5e-5)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_leaf_is_loaded_and_the_model_rebuilt(golden, name):
    classifier = vit_jax.load(golden / name)
    report = classifier.report
    assert len(report.loaded) == len(jax.tree.leaves(classifier.params))
    assert (report.resized, report.adapted, report.initialised, report.unused) == ({}, {}, (), ())
    model, task, preprocessing = from_info(json.loads(json.dumps(classifier.info)))
    assert (model, task, preprocessing) == (classifier.model, classifier.task, classifier.preprocessing)


def test_class_names_and_preprocessing_come_along(golden):
    classifier = vit_jax.load(golden / "hf_pvt_v2")
    assert classifier.class_names == tuple(f"LABEL_{i}" for i in range(7))
    assert classifier.preprocessing.mean == (0.485, 0.456, 0.406)
    assert classifier.preprocessing.image_size == (64, 64)
    assert vit_jax.load(golden / "timm_pvt_v2_li").class_names == tuple("012345")


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_written_is_what_was_read(golden, name, tmp_path):
    classifier = vit_jax.load(golden / name)
    vit_jax.save(classifier, tmp_path / "out", to=FOLDERS[name])
    before, after = (load_file(folder / "model.safetensors") for folder in (golden / name, tmp_path / "out"))
    assert before.keys() == after.keys()
    for tensor, array in before.items():
        np.testing.assert_array_equal(array, after[tensor])
    again = vit_jax.load(tmp_path / "out")
    assert again.info["model"] == classifier.info["model"]
    assert again.model == classifier.model
    if FOLDERS[name] == "huggingface":
        theirs, ours = (json.loads((f / "config.json").read_text()) for f in (golden / name, tmp_path / "out"))
        known = theirs.keys() & ours.keys() - {"id2label", "label2id", "image_size"}
        assert {key: ours[key] for key in known} == {key: theirs[key] for key in known}
        assert "strides" in known and "hidden_act" in known


def test_transformers_first_version_takes_stride_for_size(changed):
    copy = changed("hf_pvt")
    copy.config["strides"] = [3, 2, 1, 2]
    copy.config["patch_sizes"] = [4, 2, 2, 2]
    for stage, side in ((0, 3), (2, 1)):
        name = f"pvt.encoder.patch_embeddings.{stage}.projection.weight"
        copy.tensors[name] = np.ascontiguousarray(copy.tensors[name][:, :, :side, :side])
    encoder = vit_jax.load(copy.save()).model.encoder
    assert (encoder.patch_sizes, encoder.strides) == ((3, 2, 1, 2), (4, 2, 2, 2))


@pytest.mark.parametrize(
    ("key", "value", "field", "ours"),
    [
        ("hidden_act", "relu", "activation", "relu"),
        ("hidden_act", "gelu_new", "activation", "tanh"),
        ("layer_norm_eps", 1e-3, "embed_norm_eps", 1e-3),
        ("layer_norm_eps", 1e-3, "norm_eps", 1e-3),
        ("drop_path_rate", 0.1, "drop_path", 0.1),
    ],
)
def test_options_of_transformers_are_read(changed, key, value, field, ours):
    copy = changed("hf_pvt_v2")
    copy.config[key] = value
    assert getattr(vit_jax.load(copy.save()).model.encoder, field) == ours


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("hf_pvt", "hidden_act", "tanh", "hidden_act 'tanh' is not supported; valid: gelu, "),
        ("hf_pvt", "depths", [1, 2], r"depths is \[1, 2\]; valid: a list with a value for each of 4 stages"),
        ("hf_pvt_v2", "architectures", ["PvtV2ForDetection"], "architecture 'PvtV2ForDetection' .*; valid: PvtV2Model"),
        ("timm_pvt_v2_li", "global_pool", "", "global_pool '' is not supported; valid: avg"),
    ],
)
def test_what_is_not_supported_is_named(changed, name, key, value, message):
    copy = changed(name)
    copy.config[key] = value
    copy.config.get("model_args", {}).pop("global_pool", None)
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(copy.save())


def test_an_unknown_argument_of_timm_is_named(changed):
    copy = changed("timm_pvt_v2_li")
    copy.config["model_args"]["act_layer"] = "relu"
    with pytest.raises(vit_jax.InputError, match=r"model_args.act_layer is not supported; valid: attn_drop_rate"):
        vit_jax.load(copy.save())


@pytest.mark.parametrize("name", ["hf_pvt", "hf_pvt_v2"])
def test_a_bare_model_gives_features(changed, golden, name):
    copy = changed(name)
    prefix = "pvt." if name == "hf_pvt" else "pvt_v2."
    copy.tensors = {k.removeprefix(prefix): x for k, x in copy.tensors.items() if k.startswith(prefix)}
    copy.config["architectures"] = ["PvtModel" if name == "hf_pvt" else "PvtV2Backbone"]
    bare = vit_jax.load(copy.save())
    pixels = np.load(golden / name / "expected.npz")["pixel_values"].transpose(0, 2, 3, 1)
    chex.assert_trees_all_equal(bare.features(pixels), vit_jax.load(golden / name).features(pixels))
    assert bare.task is None and bare.class_names == ()


def test_positions_of_all_stages_are_resized(golden):
    classifier = vit_jax.load(golden / "hf_pvt", image_size=(64, 96))
    assert classifier.report.resized == {
        f"encoder/pos_embedding_{stage}/grid": ((side, side), (side, side * 3 // 2))
        for stage, side in enumerate((16, 8, 4, 2))
    }
    assert classifier.features(np.zeros((1, 64, 96, 3), np.float32)).maps[0].shape == (1, 16, 24, 16)
    grey = vit_jax.load(golden / "hf_pvt_v2", in_channels=1, image_size=(50, 70))
    assert list(grey.report.adapted) == ["encoder/patch_embed/kernel"] and grey.report.resized == {}


def random_model(version, data=None, **options):
    """A tiny PVT with random parameters and three classes."""
    sizes = {"hidden_dims": (8, 12), "depths": (1, 1), "num_heads": (1, 2), "mlp_ratios": (2, 2)}
    sizes |= {"reductions": (2, 1), "strides": (4, 2), "patch_sizes": (4, 2) if version == 1 else (7, 3)}
    fields = class_fields(["cat", "dog", "fox"])
    info = new_info(
        model={"name": "pvt", "variant": "Tiny" if version == 1 else "B0", "options": sizes | options},
        task={"name": "classification", "options": {}},
        fields=fields,
        preprocessing={"image_size": (32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3} | (data or {}),
    )
    model, task, preprocessing = from_info(info)
    images = np.zeros((1, *preprocessing.image_size, 3), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, shapes)
    return Predictor(model, params, {}, task, fields, preprocessing, info)


@pytest.mark.parametrize(
    ("version", "to", "options"),
    [
        (1, "huggingface", {"embed_norm_eps": 1e-6, "qkv_bias": False}),
        (2, "huggingface", {"embed_norm_eps": 1e-6, "activation": "silu", "linear_attention": True}),
        (2, "timm", {"mlp_ratios": (2, 2.5), "qkv_bias": False}),
        (2, "timm", {"reductions": (1, 2)}),
    ],
)
def test_a_model_comes_back_as_it_went(version, to, options, tmp_path):
    model = random_model(version, **options)
    vit_jax.save(model, tmp_path / "out", to=to)
    again = vit_jax.load(tmp_path / "out")
    assert again.model == model.model and again.class_names == model.class_names
    assert (again.preprocessing.mean, again.preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    assert again.preprocessing.resize_target == again.preprocessing.image_size == (32, 32)
    pixels = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(again.apply(pixels), model.apply(pixels))


@pytest.mark.parametrize(
    ("version", "to", "options", "data", "message"),
    [
        (1, "timm", {}, {}, r"model.version 1 \(valid: 2\).*formats that can: "),
        (2, "huggingface", {}, {}, r"model.embed_norm_eps 1e-05 \(valid: 1e-06\).*allow embed_norm_eps"),
        (2, "huggingface", {"embed_norm_eps": 1e-6, "mlp_ratios": (2, 2.5)}, {}, "mlp_ratios .*valid: whole numbers"),
        (1, "huggingface", {"embed_norm_eps": 1e-6}, {"image_size": (32, 64)}, "data.image_size .*valid: a square"),
        (1, "huggingface", {"embed_norm_eps": 1e-6, "strides": (2, 2)}, {}, r"model.strides \(2, 2\)"),
        (2, "timm", {"activation": "relu"}, {}, r"model.activation 'relu' \(valid: exact\)"),
        (2, "timm", {"patch_sizes": (5, 3)}, {}, r"model.patch_sizes \(5, 3\) \(valid: \(7, 3\)\)"),
        (2, "google", {}, {}, "model 'pvt' is not written in the format google; valid: huggingface, timm, workdir"),
    ],
)
def test_what_a_format_cannot_express_is_refused(version, to, options, data, message, tmp_path):
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.save(random_model(version, data, **options), tmp_path / "out.npz", to=to)
    assert not (tmp_path / "out.npz").exists()
