"""What wrapping a model puts before all names is taken off and said; what only looks so stays."""

import chex
import numpy as np
import pytest

import vit_jax

TAKEN_OFF = pytest.mark.filterwarnings("ignore:.* was taken off")


def prefixed(copy, prefix):
    copy.tensors = {f"{prefix}{name}": array for name, array in copy.tensors.items()}
    return copy.save()


def assert_equal(left, right):
    assert left.report.loaded == right.report.loaded and left.report.initialised == left.report.unused == ()
    chex.assert_trees_all_equal(left.params, right.params)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("timm_vit", "module."),
        ("timm_vit", "state_dict.model."),
        ("hf_vit", "module._orig_mod."),
        ("hf_vit", "vit."),  # which the format itself has before some names
        ("timm_swin", "backbone."),
        ("timm_vit_gap", "encoder."),
        ("hf_vit", "some.trainer's.name."),
    ],
)
def test_a_prefix_of_all_names_is_taken_off_and_said(changed, golden, name, prefix):
    folder = prefixed(changed(name), prefix)
    with pytest.warns(UserWarning, match=f"'?{prefix}.* was taken off the names of all its tensors"):
        loaded = vit_jax.load(folder)
    assert loaded.report.prefix == prefix and "was taken off the names of all tensors" in str(loaded.report)
    assert_equal(loaded, vit_jax.load(golden / name))


@pytest.mark.parametrize(("name", "start"), [("hf_vit", "vit."), ("hf_pvt_v2", "pvt_v2."), ("hf_swin", "swin.")])
@pytest.mark.parametrize("prefix", ["", "whole"])
@pytest.mark.filterwarnings("error")
def test_names_that_begin_alike_in_the_format_itself_stay(changed, name, start, prefix):
    """Those of a bare model, saved with or without its own prefix; all of `PvtV2Model` begin with `encoder.`."""
    copy = changed(name)
    bare = {key.removeprefix(start): array for key, array in copy.tensors.items() if key.startswith(start)}
    copy.tensors = {f"{start if prefix else ''}{key}": np.ascontiguousarray(array) for key, array in bare.items()}
    copy.config["architectures"] = [copy.config["architectures"][0].replace("ForImageClassification", "Model")]
    report = vit_jax.load(copy.save()).report
    assert (report.prefix, report.initialised, report.unused) == ("", (), ()) and report.loaded


@TAKEN_OFF
def test_names_to_allow_may_have_the_prefix(changed):
    copy = changed("timm_vit")
    copy.tensors["extra.bias"] = np.zeros(2, np.float32)
    folder = prefixed(copy, "module.")
    for allow in ("module.extra", "extra.bias"):
        assert vit_jax.load(folder, allow=(allow,)).report.unused == ("extra.bias",)


def test_names_of_which_the_format_has_none_are_refused_whatever_is_allowed(changed):
    """Nothing of them would be loaded."""
    copy = changed("timm_vit")
    copy.tensors = {f"model.{name}": array for name, array in copy.tensors.items()} | {"step": np.zeros(1)}
    with pytest.raises(vit_jax.InputError, match=r"has no tensor 'patch_embed.proj.weight'"):
        vit_jax.load(copy.save(), allow=("*",))
    copy = changed("hf_swin")
    copy.tensors = {f"a{i}": array for i, array in enumerate(copy.tensors.values())}
    copy.config["depths"] = [0, 0]
    with pytest.raises(vit_jax.InputError, match=r"has no tensor of the model: its names are 'a0', 'a1', \.\.\."):
        vit_jax.load(copy.save(), allow=("*",))


@TAKEN_OFF
def test_arrays_of_an_npz_may_have_one_too(golden, tmp_path):
    file = golden / "google_hybrid" / "R_S_8-tiny.npz"
    arrays = {f"target/{name}": array for name, array in np.load(file).items()}
    np.savez(tmp_path / file.name, **arrays)
    loaded = vit_jax.load(tmp_path / file.name)
    assert loaded.report.prefix == "target/" and loaded.report.unused == loaded.report.initialised == ()
