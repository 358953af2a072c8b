"""vit-jax benchmark: its figures fit together, and bad input is one line."""

import json

import pytest

from vit_jax.build import plugins
from vit_jax.cli.main import main
from vit_jax.models import vit
from vit_jax.planning import hardware


@pytest.mark.parametrize("mode", ["--train", "--infer"])
def test_figures_fit_together(capsys, mode):
    arguments = ["--variant", "Ti/16", "--batch-size", "8", "--image-size", "16", "--steps", "1", "--windows", "2"]
    assert main(["benchmark", *arguments, mode, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert "compiling the step" in err
    assert result["slowest"] <= result["images_per_second"] <= result["fastest"]
    assert result["images_per_second"] == pytest.approx(8 / result["step_seconds"])
    assert result["mfu"] == pytest.approx(result["formula_flops"] / result["step_seconds"] / result["peak_flops"])
    # XLA counts norms, softmax and optimizer as well.
    assert 0.9 < result["xla_flops"] / result["formula_flops"] < 3
    assert "measured just now" in result["peak_origin"] and result["peak_memory_bytes"] > 1e6


def test_a_family_in_stages_has_figures_too(capsys):
    arguments = ["--model", "swin", "--variant", "T/2", "--batch-size", "8", "--image-size", "32", "--steps", "1"]
    assert main(["benchmark", *arguments, "--windows", "1", "--infer", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # The head's kernel is as wide as the last stage, 96 x 8.
    expected = 8 * (plugins.create_encoder("swin", "T/2").flops((32, 32)) + 2 * 768 * 1000)
    assert result["formula_flops"] == expected and result["attention"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size is 0; valid: 1 or more"),
        (["--batch-size", "9"], "batch_size 9 is not a multiple of the 8 devices"),
        (["--batch-size", "8", "--image-size", "x"], "--image-size is 'x'"),
        (["--batch-size", "8", "--variant", "Q/16"], "vit has no variant 'Q/16'"),
        (["--batch-size", "8", "--attention", "flash"], "model.options.attention is 'flash'; valid: auto, xla, cudnn"),
        (
            ["--batch-size", "8", "--attention", "cudnn"],
            "model.options.attention is 'cudnn', which needs an NVIDIA GPU",
        ),
        (["--batch-size", "8", "--train", "--infer"], "not allowed with argument"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--variant", "Ti/16", *arguments])
    err = [line for line in capsys.readouterr().err.splitlines() if line != "making the parameters"]
    assert end.value.code == 2 and len(err) == 1 and message in err[0]


def test_flops_by_hand_and_against_the_paper():
    model = vit.create("B/16", hidden_dim=4, depth=1, mlp_dim=8, num_heads=2, patch_size=(2, 3))
    # Two patches and a class token. Stem 2 x 18 x 4; q, k, v, out 4 x 3 x 16; MLP 2 x 3 x 32; weights, mix 2 x 9 x 4.
    assert model.flops((4, 3)) == 2 * (144 + 192 + 192 + 72)
    # With the class token alone behind the block: k and v of three tokens, all else of one.
    assert model.flops((4, 3), patch_tokens=False) == 2 * (144 + 2 * 3 * 16 + 2 * 16 + 64 + 2 * 3 * 4)
    # Touvron et al. 2022 (DeiT III, arXiv:2204.07118) print 17.5 billion for ViT-B, counting a multiply-add as one.
    assert vit.create("B/16").flops((224, 224)) / 2e9 == pytest.approx(17.5, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", None),
        ("Radeon", None),
    ],
)
def test_chips_by_their_kind(kind, name):
    found = hardware.chip_of(kind)
    assert (found and found[0]) == name
