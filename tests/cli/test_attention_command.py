"""vit-jax attention: one picture an image, no file overwritten, bad files named."""

import re

import numpy as np
import pytest
from PIL import Image
from test_commands import status

import vit_jax


@pytest.fixture
def colours(tmp_path):
    """Three image files of which two have the same stem."""
    files = [tmp_path / "a" / "cat.png", tmp_path / "b" / "cat.jpg", tmp_path / "b" / "dog.png"]
    for file, colour in zip(files, ("red", "green", "blue"), strict=True):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), colour).save(file)
    return files


def test_each_image_becomes_a_picture(golden, colours, tmp_path, capsys):
    out = tmp_path / "new" / "maps"
    assert status("attention", "--model", golden / "hf_vit", *colours, "--out", out) == 0
    files = [out / name for name in ("cat_attention.png", "cat_attention_2.png", "dog_attention.png")]
    assert sorted(out.iterdir()) == files
    assert capsys.readouterr().out.splitlines() == [f"{a}: {b}" for a, b in zip(colours, files, strict=True)]
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    for array, channel in zip(pixels, range(3), strict=True):
        height, width = array.shape[:2]
        assert 2000 < width < 3000 and 2 < width / height < 4
        # The middle of the input's panel, at the left.
        assert array[height // 2, width // 8].argmax() == channel


def test_families_of_tokens_have_pictures_too(golden, colours, tmp_path):
    assert status("attention", "--model", golden / "t2t_transformer", colours[0], "--out", tmp_path / "maps") == 0
    assert [file.name for file in (tmp_path / "maps").iterdir()] == ["cat_attention.png"]


def test_options_change_the_picture(golden, tmp_path):
    pictures = set()
    for i, options in enumerate(([], ["--layer", 1], ["--head-fusion", "max", "--residual", 0.9])):
        out = tmp_path / str(i)
        assert status("attention", "--model", golden / "hf_deit", golden / "image.png", "--out", out, *options) == 0
        pictures.add((out / "image_attention.png").read_bytes())
    assert len(pictures) == 3


def test_a_model_without_class_token_and_grey_images(trained, digit_files, tmp_path):
    assert status("attention", "--model", trained, digit_files[0][0], "--out", tmp_path) == 0
    assert Image.open(tmp_path / "0_attention.png").width > 1000


def test_a_bare_encoder_is_drawn_without_a_class(changed, golden, tmp_path):
    copy = changed("hf_vit")
    copy.config["architectures"] = ["ViTModel"]
    copy.tensors = {n.removeprefix("vit."): x for n, x in copy.tensors.items() if n.startswith("vit.")}
    folder = copy.save()
    assert vit_jax.load(folder).class_names == ()
    assert status("attention", "--model", folder, golden / "image.png", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "image_attention.png").exists()


def test_no_image_is_overwritten(golden, colours):
    before = colours[2].read_bytes()
    assert status("attention", "--model", golden / "hf_vit", colours[2], "--out", colours[2].parent) == 0
    assert colours[2].read_bytes() == before
    assert Image.open(colours[2].with_name("dog_attention.png")).width > 1000


def test_the_others_are_drawn_when_a_file_is_bad(golden, colours, tmp_path, capsys):
    text = tmp_path / "text.png"
    text.write_text("hello")
    out = tmp_path / "out"
    arguments = ["attention", "--model", golden / "hf_vit", text, colours[0], tmp_path / "none.png", "--out", out]
    assert status(*arguments) == 2
    assert [file.name for file in out.iterdir()] == ["cat_attention.png"]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "text.png" in errors[0] and "none.png" in errors[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "0"], "--layer is 0; valid: 1 to 3, or from the end -1 to -3"),
        (["--layer", "4"], "--layer is 4"),
        (["--layer", "-4"], "--layer is -4"),
        (["--head-fusion", "sum"], "head_fusion is 'sum'; valid: mean, max, min"),
        (["--residual", "2"], "residual is 2.0; valid: 0 to 1"),
        (["--out", "FILE"], "FILE exists already and is no folder"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(golden, tmp_path, capsys, options, message):
    file = tmp_path / "FILE"
    file.write_text("")
    out = tmp_path / "out"
    options = [str(file) if option == "FILE" else option for option in options]
    given = ["--out", out, *options]
    assert status("attention", "--model", golden / "hf_vit", golden / "image.png", *given) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and re.search(message, errors[0]), errors
    assert not out.exists() or not list(out.iterdir())
