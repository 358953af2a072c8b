"""Which files are read, which are refused, and what the refusal says."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import vit_jax


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_shards_are_put_together_by_their_index(changed, golden):
    copy = changed("hf_vit")
    names = sorted(copy.tensors)
    shards = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, some in shards.items():
        save_file({name: copy.tensors[name] for name in some}, copy.folder / file)
    (copy.folder / "model.safetensors").unlink()
    with pytest.raises(vit_jax.InputError, match=r"holds 2 \*.safetensors files without model.safetensors.index.json"):
        vit_jax.load(copy.folder)
    index = copy.folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, some in shards.items() for name in some}}))
    equal(vit_jax.load(copy.folder), vit_jax.load(golden / "hf_vit"))
    (copy.folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(vit_jax.InputError, match=r"has no model-00002-of-00002.safetensors, which .*index.json names"):
        vit_jax.load(copy.folder)
    index.write_text(json.dumps({"weight_map": {"x": "../model.safetensors"}}))
    with pytest.raises(vit_jax.InputError, match=r"has no ../model.safetensors"):
        vit_jax.load(copy.folder)


def test_one_file_by_another_name_or_given_itself(changed, golden):
    copy = changed("timm_vit")
    (copy.folder / "model.safetensors").rename(copy.folder / "weights.safetensors")
    for source in (copy.folder, copy.folder / "weights.safetensors"):
        equal(vit_jax.load(source), vit_jax.load(golden / "timm_vit"))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_precisions_become_float32(changed, dtype):
    copy = changed("hf_vit")
    expected = copy.tensors["vit.layernorm.bias"].astype(dtype).astype(np.float32)
    copy.tensors = {name: array.astype(dtype) for name, array in copy.tensors.items()}
    bias = vit_jax.load(copy.save()).params["encoder"]["norm"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, expected)


def test_pickles_are_refused_with_their_conversion(changed):
    copy = changed("hf_vit")
    (copy.folder / "model.safetensors").unlink()
    pickle = copy.folder / "pytorch_model.bin"
    pickle.write_bytes(b"whatever")
    for source in (copy.folder, pickle):
        message = r"pytorch_model.bin: a pickle is not read.*python -c .*torch.load\('pytorch_model.bin'.*save_file"
        with pytest.raises(vit_jax.InputError, match=message):
            vit_jax.load(source)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[]", "config.json is not a JSON object"),
        ("config.json", "{}", "neither model_type .* nor architecture"),
        ("config.json", None, "has no config.json, which says what model"),
        ("model.safetensors", "hello", "model.safetensors cannot be read as safetensors"),
        ("model.safetensors", None, r"neither checkpoints/<step> nor \*.safetensors; valid: a work directory"),
    ],
)
def test_broken_folders_are_refused_by_name(changed, file, content, message):
    folder = changed("hf_vit").folder
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(folder)


def test_a_cut_file_is_refused(changed):
    file = changed("hf_vit").folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(vit_jax.InputError, match=r"model.safetensors cannot be read"):
        vit_jax.load(file.parent)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/at/all", "/nowhere/at/all is no work directory, folder or file that exists; valid: a work"),
        ("https://host/model.safetensors", "is not read; valid as a URL: a Google .npz file"),
        ("nowhere", "nowhere is no work directory"),
        (__file__, "is no checkpoint that is read here"),
    ],
)
def test_other_sources_are_refused(source, message):
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(source)


def test_a_work_directory_takes_no_options_of_other_libraries_checkpoints(trained):
    with pytest.raises(vit_jax.InputError, match=r"num_heads is for another library's checkpoint; .* work directory"):
        vit_jax.load(trained, num_heads=16)
    assert vit_jax.load(trained).report is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hf_vit", {"model_type": "bert"}, "model_type 'bert' is not supported; valid: .*vit, deit"),
        ("hf_vit", {"architectures": ["ViTMAEModel"]}, "'ViTMAEModel' is not supported; valid: ViTModel, ViTForImage"),
        ("hf_vit", {"hidden_act": "relu"}, "hidden_act 'relu' is not supported; valid: gelu"),
        ("hf_vit", {"id2label": {"0": "a", "1": "b"}}, "id2label has 2 names, but classifier.weight has 7 classes"),
        ("hf_vit", {"patch_size": "8"}, "patch_size is '8'; valid: one number, or height and width"),
        ("timm_vit", {"architecture": "resnet50"}, "architecture 'resnet50' is not supported; valid: .*vit_"),
        ("timm_vit", {"architecture": "vit_base_patch16_rpn_224"}, "'vit_base_patch16_rpn_224' is not supported"),
        ("timm_vit", {"model_args": {"block_fn": "x"}}, "model_args.block_fn is not supported; valid: act_layer"),
        ("timm_vit", {"model_args": {"proj_bias": False}}, "model_args.proj_bias False is not supported; valid: True"),
        ("timm_vit", {"global_pool": "max"}, "global_pool 'max' is not supported; valid: token, avg, map"),
        ("timm_vit", {"label_names": ["a"]}, "label_names has 1 names, but head.weight has 7 classes"),
    ],
)
def test_models_that_are_not_supported_are_refused(changed, name, changes, message):
    copy = changed(name)
    copy.config |= changes
    with pytest.raises(vit_jax.InputError, match=message):
        vit_jax.load(copy.save())


def test_num_heads_is_for_npz(golden):
    with pytest.raises(vit_jax.InputError, match=r"num_heads is for a Google .npz"):
        vit_jax.load(golden / "hf_vit", num_heads=4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hf_vit", {"architectures": 3}),
        ("hf_vit", {"hidden_act": ["gelu"]}),
        ("timm_vit", {"model_args": "depth=3"}),
        ("timm_vit", {"pretrained_cfg": "cfg"}),
    ],
)
def test_values_of_another_kind_are_refused_by_the_file(changed, name, changes):
    copy = changed(name)
    copy.config |= changes
    with pytest.raises(
        vit_jax.InputError, match=r"a value in its config.json is not of the kind that (huggingface|timm)"
    ):
        vit_jax.load(copy.save())
