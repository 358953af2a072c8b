"""vit-jax convert: what it writes and prints, and what it refuses."""

import numpy as np
import pytest
from conftest import small_config
from safetensors.numpy import load_file
from test_commands import status

import train
import vit_jax


def test_it_prints_what_it_wrote(golden, tmp_path, capsys):
    dest = tmp_path / "out"
    assert status("convert", golden / "hf_vit", dest, "--to", "huggingface") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    count = sum(tensor.size for tensor in load_file(golden / "hf_vit" / "model.safetensors").values())
    assert lines[0] == f"{dest}: ViTForImageClassification, {count:,} parameters"
    assert [line.split()[-1] for line in lines[1:]] == [
        "out/config.json",
        "out/model.safetensors",
        "out/preprocessor_config.json",
    ]
    size = (dest / "model.safetensors").stat().st_size
    assert lines[2].split()[:2] == [f"{size:,}", "bytes"]
    assert err == ""
    assert vit_jax.load(dest).class_names[0] == "tench"


def test_a_step_of_a_work_directory(trained, tmp_path, capsys):
    assert status("convert", trained, tmp_path / "six", "--to", "timm", "--step", "6") == 0
    assert status("convert", trained, tmp_path / "last", "--to", "timm") == 0
    kernels = [vit_jax.load(tmp_path / name).params["head"]["kernel"] for name in ("six", "last")]
    np.testing.assert_array_equal(kernels[0], vit_jax.load(trained, step=6).params["head"]["kernel"])
    assert not np.array_equal(*kernels)


def test_another_size_is_written(golden, tmp_path):
    assert status("convert", golden / "timm_vit", tmp_path / "x", "--to", "timm", "--image-size", "32,64") == 0
    after = vit_jax.load(tmp_path / "x")
    assert after.preprocessing.image_size == (32, 64) and after.report.resized == {}
    expected = vit_jax.load(golden / "timm_vit", image_size=(32, 64))
    pixels = np.ones((1, 32, 64, 3), np.float32)
    np.testing.assert_array_equal(after.apply(pixels), expected.apply(pixels))


def test_notes_are_on_standard_error(golden, tmp_path, capsys):
    dest = tmp_path / "x.npz"
    allow = ("--allow", "gelu", "--allow", "norm_eps")
    assert status("convert", golden / "hf_vit", dest, "--to", "google", *allow) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "vit-jax convert: an .npz holds no class names: loaded, its classes are called '0' to '6'"
    ]
    assert out.splitlines()[1].split() == [f"{dest.stat().st_size:,}", "bytes", "x.npz"]


def test_a_zero_head_goes_out_if_it_is_named(changed, tmp_path, capsys):
    copy = changed("hf_vit")
    copy.tensors["classifier.weight"] = np.zeros_like(copy.tensors["classifier.weight"])
    copy.save()
    arguments = ("convert", copy.folder, tmp_path / "out", "--to", "huggingface")
    assert status(*arguments) == 2
    assert "classifier.weight is zero throughout" in capsys.readouterr().err
    assert status(*arguments, "--allow", "classifier.weight") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onnx"], "unknown format 'onnx'; valid: google, huggingface, t2t, timm, workdir"),
        (["--to", "google"], "valid: a file that ends in .npz"),
        (["--to", "timm"], "timm cannot express model.norm_eps 1e-12 (valid: 1e-06, 1e-05); formats that can: hugging"),
        (["--to", "timm", "--image-size", "32x"], "--image-size is '32x'; valid: one number, or height and width"),
        (["--to", "huggingface", "--num-heads", "3"], "num_heads is for a Google .npz"),
        ([], "--to"),
    ],
)
def test_bad_input_is_one_line_and_status_2(golden, tmp_path, capsys, arguments, message):
    assert status("convert", golden / "hf_vit", tmp_path / "out", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and message in err, err
    assert list(tmp_path.iterdir()) == []


def test_a_family_that_a_format_lacks_is_told_before_the_name_of_the_file(golden, tmp_path, capsys):
    assert status("convert", golden / "hf_swin", tmp_path / "out", "--to", "google") == 2
    assert "model 'swin' is not written in the format google; valid: huggingface, timm, workdir" in (
        capsys.readouterr().err
    )


def test_a_taken_destination_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert status("convert", "/nowhere", tmp_path / "file", "--to", "timm") == 2
    assert "exists already and is no empty folder; choose another" in capsys.readouterr().err


def test_training_does_not_continue_from_a_converted_work_directory(trained, tmp_path):
    assert status("convert", trained, tmp_path / "run", "--to", "workdir") == 0
    before = vit_jax.load(tmp_path / "run")
    with pytest.raises(vit_jax.InputError, match="the parameters of a converted model, but no training to continue"):
        train.train(small_config(), tmp_path / "run")
    after = vit_jax.load(tmp_path / "run")
    np.testing.assert_array_equal(after.params["head"]["kernel"], before.params["head"]["kernel"])
