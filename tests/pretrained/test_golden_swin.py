"""Swin and Swin V2 of transformers and timm answer as there, go back out as they came, and are refused by name."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import vit_jax
from vit_jax.layers.roles import Role
from vit_jax.ops import windows
from vit_jax.pretrained.report import Found, fit

FOLDERS = {"hf_swin": "huggingface", "hf_swinv2": "huggingface", "timm_swin": "timm", "timm_swinv2": "timm"}


def last_map(expected, prefix=""):
    """`[B, h, w, C]`: what comes out of the last stage, normalised in timm's `forward_features`."""
    if "forward_features" in expected:
        return expected["forward_features"]
    return expected[f"{prefix}hidden_2"].transpose(0, 2, 3, 1)


def check(classifier, expected, prefix=""):
    pixels = expected[f"{prefix}pixel_values"].transpose(0, 2, 3, 1)
    features = classifier.features(pixels)
    ours = features.maps[-1]
    if "forward_features" in expected:
        ours = features.tokens.reshape(ours.shape)
    np.testing.assert_allclose(classifier.apply(pixels), expected[f"{prefix}logits"], atol=2e-5)
    np.testing.assert_allclose(ours, last_map(expected, prefix), atol=5e-5)
    return features


@pytest.mark.parametrize("name", FOLDERS)
def test_it_answers_as_its_own_library(golden, name):
    classifier = vit_jax.load(golden / name)
    expected = np.load(golden / name / "expected.npz")
    features = check(classifier, expected)
    if name.startswith("hf"):  # whose first stage is given out after the merging
        merging = classifier.model.encoder.bind({"params": classifier.params["encoder"]}).mergings[0]
        stages = {"hidden_1": merging(features.maps[0])}
    else:
        stages = {f"map_{i}": features.maps[i] for i in range(2) if f"map_{i}" in expected}
    for key, ours in stages.items():
        theirs = expected[key] if key.startswith("map") else expected[key].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours, theirs, atol=5e-5)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_leaf_is_loaded_and_none_is_left(golden, name):
    classifier = vit_jax.load(golden / name)
    report = classifier.report
    assert len(report.loaded) == len(jax.tree.leaves(classifier.params))
    assert (report.resized, report.adapted, report.initialised, report.unused) == ({}, {}, (), ())


def test_a_wide_image_that_windows_do_not_divide(golden, changed):
    """11 x 19 patches in windows of 4 or 8, and 6 x 10 after the merging; the libraries pad differently."""
    for name in ("hf_swin", "hf_swinv2"):
        file, prefix = ("expected_wide.npz", "") if name == "hf_swin" else ("expected.npz", "wide_")
        check(vit_jax.load(golden / name), np.load(golden / name / file), prefix)
    copy = changed("timm_swin")
    copy.config["model_args"]["img_size"] = [44, 76]
    check(vit_jax.load(copy.save()), np.load(golden / "timm_swin" / "expected_wide.npz"))


def test_timms_patches_leave_out_what_they_do_not_divide(golden, changed, tmp_path):
    """Its convolution pads nothing, unlike transformers'."""
    copy = changed("timm_swin")
    copy.config["model_args"]["img_size"] = [46, 79]
    classifier, expected = vit_jax.load(copy.save()), np.load(golden / "timm_swin" / "expected_wide.npz")
    pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
    larger = np.pad(pixels, ((0, 0), (0, 2), (0, 3), (0, 0)), constant_values=9.0)
    np.testing.assert_allclose(classifier.apply(larger), expected["logits"], atol=2e-5)
    with pytest.raises(vit_jax.InputError, match=r"data.image_size \(46, 79\) \(valid: multiples of \(4, 4\)"):
        vit_jax.save(classifier, tmp_path / "out", to="huggingface", allow=("crop_offset", "resize"))


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_written_is_what_was_read(golden, name, tmp_path):
    classifier = vit_jax.load(golden / name)
    vit_jax.save(classifier, tmp_path / "out", to=FOLDERS[name])
    before, after = (load_file(folder / "model.safetensors") for folder in (golden / name, tmp_path / "out"))
    assert before.keys() == after.keys()
    for tensor, array in before.items():
        assert array.shape == after[tensor].shape
        assert array.tobytes() == after[tensor].tobytes(), tensor
    again = vit_jax.load(tmp_path / "out")
    assert again.model == classifier.model
    if FOLDERS[name] == "huggingface":
        old, new = (json.loads((folder / "config.json").read_text()) for folder in (golden / name, tmp_path / "out"))
        derived = {"hidden_size", "num_layers", "out_features", "out_indices", "stage_names", "transformers_version"}
        kept = old.keys() - derived - {"encoder_stride", "initializer_range"}
        assert {key: old[key] for key in kept} == {key: new[key] for key in kept}


@pytest.mark.parametrize("name", ["timm_swin", "timm_swinv2"])
def test_windows_that_stay_for_images_of_any_size_are_written_so(changed, name, tmp_path):
    copy = changed(name)
    copy.config["model_args"]["strict_img_size"] = False
    classifier = vit_jax.load(copy.save())
    assert classifier.model.encoder.shift_size is not None
    vit_jax.save(classifier, tmp_path / "out", to="timm")
    assert vit_jax.load(tmp_path / "out").model == classifier.model


@pytest.mark.parametrize("name", ["hf_swin", "timm_swin"])
def test_one_librarys_model_in_the_others_format_answers_alike(golden, name, tmp_path):
    """Where both place the windows alike, which they do at the image size of these."""
    to = "timm" if name == "hf_swin" else "huggingface"
    classifier = vit_jax.load(golden / name)
    vit_jax.save(classifier, tmp_path / "out", to=to, allow=("crop_offset", "resize"))
    expected = np.load(golden / name / "expected.npz")
    pixels = expected["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(vit_jax.load(tmp_path / "out").apply(pixels), expected["logits"], atol=2e-5)


def test_windows_that_the_other_library_places_elsewhere_are_refused(golden, changed, tmp_path):
    copy = changed("hf_swin")
    copy.config["image_size"] = [44, 76]
    with pytest.raises(vit_jax.InputError, match=r"timm cannot express model.window_size .* at \(44, 76\) px"):
        vit_jax.save(vit_jax.load(copy.save()), tmp_path / "out", to="timm", allow=("crop_offset", "resize"))
    assert not (tmp_path / "out").exists()


def test_a_window_that_spans_the_map_has_a_smaller_table_in_timm(changed, golden, tmp_path):
    """It is cut out of the whole table, whose other offsets do not occur."""
    copy = changed("hf_swin")
    copy.config["image_size"] = 16  # maps of 4 x 4 and 2 x 2
    classifier = vit_jax.load(copy.save())
    vit_jax.save(classifier, tmp_path / "out", to="timm", allow=("crop_offset", "resize"))
    table = load_file(tmp_path / "out" / "model.safetensors")["layers.1.blocks.0.attn.relative_position_bias_table"]
    whole = copy.tensors["swin.encoder.layers.1.blocks.0.attention.self.relative_position_bias_table"]
    np.testing.assert_array_equal(table, whole.reshape(7, 7, 4)[2:-2, 2:-2].reshape(9, 4))
    pixels = np.load(golden / "hf_swin" / "expected.npz")["pixel_values"].transpose(0, 2, 3, 1)[:, :16, :16]
    again = vit_jax.load(tmp_path / "out")
    assert again.model.encoder.window_size == ((4, 4), (2, 2))
    np.testing.assert_allclose(again.apply(pixels), classifier.apply(pixels), atol=2e-5)


def test_the_authors_names_and_buffers(changed, golden):
    """A merging belongs to the stage before it, the head is `head`, and there are buffers."""
    copy = changed("timm_swin")
    for tensor in list(copy.tensors):
        name = tensor.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc.", "head.")
        copy.tensors[name] = copy.tensors.pop(tensor)
    copy.tensors["layers.0.blocks.1.attn_mask"] = np.zeros((16, 16, 16), np.float32)
    copy.tensors["layers.0.blocks.0.attn.relative_position_index"] = np.zeros((16, 16), np.int64)
    classifier = vit_jax.load(copy.save())
    check(classifier, np.load(golden / "timm_swin" / "expected.npz"))
    assert len(classifier.report.buffers) == 2 and "2 buffers" in str(classifier.report)


def test_a_bare_model_gives_features(changed, golden):
    copy = changed("hf_swin")
    copy.config["architectures"] = ["SwinModel"]
    copy.tensors = {name.removeprefix("swin."): x for name, x in copy.tensors.items() if name.startswith("swin.")}
    classifier = vit_jax.load(copy.save())
    expected = np.load(golden / "hf_swin" / "expected.npz")
    features = classifier.features(expected["pixel_values"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(features.maps[1], expected["hidden_2"].transpose(0, 2, 3, 1), atol=5e-5)
    assert classifier.task is None


def test_a_published_size_goes_by_its_name(changed):
    copy = changed("hf_swin")
    copy.config |= {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
    blocks = [f"layers.{stage}.blocks.{i}" for stage, depth in enumerate((2, 2, 6, 2)) for i in range(depth)]
    copy.tensors |= {f"swin.encoder.{block}.x": np.zeros(1) for block in blocks}
    from vit_jax.pretrained.files import Files
    from vit_jax.pretrained.swin import huggingface as huggingface_swin

    info = huggingface_swin.describe(Files("there", copy.tensors, copy.config)).model
    assert (info["name"], info["variant"]) == ("swin", "T/7")
    assert not info["options"].keys() & {"embed_dim", "depths", "num_heads", "window_size"}


def test_a_table_of_biases_for_another_window_is_resized_and_reported():
    path, rng = "encoder/block_0/attention/bias_table", np.random.default_rng(0)
    table = rng.normal(size=(13, 13, 3)).astype(np.float32)
    found = Found({path: table}, {path: "theirs"}, ["theirs"])
    template = {path: np.zeros((23, 15, 3))}
    params, report = fit(found, template, roles={path: Role("bias_table")}, source="there", antialias=True)
    np.testing.assert_array_equal(params[path], windows.resize_table(table, (23, 15)))
    assert report.resized == {path: ((13, 13), (23, 15))}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("hf_swin", {"hidden_act": "relu"}, "hidden_act 'relu' is not supported; valid: gelu"),
        ("hf_swin", {"architectures": ["SwinBackbone"]}, "'SwinBackbone' is not supported; valid: SwinModel, Swin"),
        ("hf_swinv2", {"use_absolute_embeddings": True}, "use_absolute_embeddings is not supported in swinv2"),
        ("hf_swin", {"window_size": [4, 2]}, r"window_size \[4, 2\] is not supported; valid: one number"),
        ("hf_swinv2", {"window_size": "4"}, "window_size is '4'; valid: one number"),
        ("hf_swin", {"window_size": 5}, "does not fit the model's encoder/block_0/attention/bias_table"),
        ("timm_swin", {"global_pool": "max"}, "global_pool 'max' is not supported; valid: 'avg'"),
        ("timm_swin", {"architecture": "swinv2_cr_tiny_224"}, "architecture 'swinv2_cr_tiny_224' is not supported"),
        ("timm_swin", {"model_args": {"img_size": 64, "window_size": 5}}, "has 49 offsets, .* windows of 5x5"),
        ("timm_swin", {"model_args": {"img_size": 64, "window_size": [4, 4, 4]}}, "one for each of 2 stages"),
        (
            "timm_swin",
            {"model_args": {"embed_layer": "x"}},
            "model_args.embed_layer is not supported; valid: act_layer",
        ),
        ("timm_swin", {"model_args": {"norm_layer": "rmsnorm"}}, "norm_layer 'rmsnorm' is not supported"),
    ],
)
def test_what_is_not_supported_is_named(changed, name, change, message):
    copy = changed(name)
    copy.config |= change
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(copy.save())
