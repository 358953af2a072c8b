"""Files that are damaged, or made to do harm: one line that says so, in little time and memory."""

import json
import os
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

import vit_jax
from vit_jax.pretrained.load import open_checkpoint

NESTED = "[" * 100_000 + "]" * 100_000


def refused(source, message):
    with pytest.raises(vit_jax.InputError, match=message) as error:
        vit_jax.load(source)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (NESTED, "config.json is not valid JSON: it is nested too deeply"),
        ('{"a": ' + NESTED + "}", "config.json is not valid JSON: it is nested too deeply"),
        ("{}".encode("utf-16"), "config.json is not valid JSON: 'utf-8' codec"),
        ('{"a": ' + "1" * 5000 + "}", "config.json is not valid JSON: Exceeds the limit"),
        (b"\0" * 100, "config.json is not valid JSON"),
        (b" " * (2**24 + 1), "config.json has 16,777,217 bytes; valid: a config of up to 16,777,216"),
    ],
    ids=["nested", "nested in a key", "utf-16", "digits", "zeros", "large"],
)
def test_json_that_is_none(changed, content, message):
    folder = changed("hf_vit").folder
    (folder / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    refused(folder, message)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "link to a file that does not exist"])
def test_what_is_no_file(changed, file, kind):
    path = changed("hf_vit").folder / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nothing")
    refused(path.parent, f"{file} is a {kind}")


def test_a_pipe_by_another_name(changed):
    folder = changed("hf_vit").folder
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "weights.safetensors")
    refused(folder, "weights.safetensors is a pipe")
    os.mkfifo(folder / "S_16.npz")
    refused(folder / "S_16.npz", "S_16.npz is a pipe")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x" * 5000, r"xxx\.\.\. cannot be read: File name too long"),
        ("~nobody_of_this_name/x", "is no work directory, folder or file that exists"),
    ],
)
def test_a_path_that_cannot_be_looked_up(source, message):
    refused(source, message)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "index.json is not a JSON object"),
        ({}, "index.json has no weight_map"),
        ({"weight_map": ["a"]}, "index.json has no weight_map"),
        (
            {"weight_map": {"a": 5, "b": "x.safetensors"}},
            "has no 5, which model.safetensors.index.json names; valid",
        ),
        ({"weight_map": {"a": "x.safetensors", "b": None}}, "has no None, which"),
        ({"weight_map": {"a": "../../x.safetensors"}}, "has no ../../x.safetensors, which"),
        ({"weight_map": {"a": "/etc/passwd"}}, "has no /etc/passwd, which"),
        ({"weight_map": {"a": "config.json"}}, "has no config.json, which"),
        ({"weight_map": {"a": ".."}}, "has no .., which"),
        ({"weight_map": {"a": "a\0\n.safetensors"}}, r"has no 'a\\x00\\n.safetensors', which"),
        ({"weight_map": {"a": f"{'x' * 5000}.safetensors"}}, "cannot be read: File name too long"),
        ({"weight_map": {}}, "has no tensors"),
    ],
    ids=str,
)
def test_an_index_that_names_no_shards(changed, index, message):
    folder = changed("hf_vit").folder
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, message)


def safetensors_with(copy, **entries):
    """The file of a folder, with entries of its header replaced or added."""
    data = (copy.folder / "model.safetensors").read_bytes()
    [length] = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]) | entries).encode()
    end = len(data) - 8 - length
    header = header.replace(b'"END"', str(end).encode())
    (copy.folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    return copy.folder


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [0, 2**62], "data_offsets": ["END", "END"]},
        {"dtype": "F32", "shape": [0, 2**31, 2**31], "data_offsets": ["END", "END"]},
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": ["END", "END"]},
        {"dtype": "F32", "shape": [-1], "data_offsets": ["END", "END"]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
        {"dtype": "F32", "shape": "x", "data_offsets": None},
    ],
    ids=lambda entry: str(entry["shape"]),
)
def test_a_safetensors_header_that_claims_what_cannot_be(changed, entry):
    refused(safetensors_with(changed("hf_vit"), x=entry), "model.safetensors cannot be read as safetensors")


def test_a_safetensors_header_of_ten_gigabytes(changed):
    folder = changed("hf_vit").folder
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10 * 2**30) + b"{}")
    refused(folder, "model.safetensors cannot be read as safetensors: .*header too large")


def test_tensors_without_real_numbers(changed):
    copy = changed("hf_vit")
    save_file(copy.tensors | {"x": np.zeros(2, np.complex64)}, copy.folder / "model.safetensors")
    refused(copy.folder, "model.safetensors: 'x' holds complex64; valid: real numbers|cannot be read as safetensors")


def npy(shape, data=b"", dtype="<f4"):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            npy("(1099511627776,)"),
            r"member 'a.npy' claims the shape \[1099511627776\] of float32, 4,398,046,511,",
        ),
        (npy("(0, 4611686018427387904)"), "cannot be read as .npz"),
        (npy("(-1,)"), r"member 'a.npy' claims the shape \[-1\]"),
        (npy("(1,)", b"0000" * 2), r"claims the shape \[1\] of float32, 4 bytes, and has 8"),
        (npy("(1,)", b"0" * 8, "<c8"), "'a' holds complex64; valid: real numbers"),
        (npy("(1,)", b"0" * 8, "<U2"), "'a' holds <U2; valid: real numbers"),
        (npy("(1,)", b"\x80\4.", "|O"), "it holds pickled objects, which can run any code"),
        (npy("(" * 200 + ")" * 200), "member 'a.npy' is no array"),
        (b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1), "member 'a.npy' is no array"),
        (b"\x80\4.", "member 'a.npy' is no array"),
        (b"hello", "member 'a.npy' is no array"),
        (b"", "member 'a.npy' is no array"),
    ],
)
def test_an_npz_whose_members_are_no_arrays(tmp_path, member, message):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", member)
    refused(tmp_path / "a.npz", message)


def test_an_npz_that_unpacks_to_gigabytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy("(268435456,)"))
        archive.filelist[0].file_size = 2**30 + 100  # as the directory at its end has it
    refused(tmp_path / "a.npz", "a.npz would unpack from .* to 1,073,741,924 bytes")


@pytest.mark.parametrize(
    ("name", "start"), [("hf_vit", "vit.encoder.layer."), ("timm_vit", "blocks."), ("timm_swin", "layers.")]
)
def test_a_block_numbered_a_million(changed, name, start):
    copy = changed(name)
    copy.tensors[f"{start}1000000.x"] = np.zeros(1, np.float32)
    refused(copy.save(), rf"has tensors of {start}1000000, but none of {start}\d$")


def test_more_blocks_than_any_model_has(changed):
    copy = changed("timm_vit")
    copy.tensors |= {f"blocks.{i}.x": np.zeros(1, np.float32) for i in range(3, 1100)}
    refused(copy.save(), "has 1100 blocks blocks.<number>; valid: up to 1000")


CLAIMS = [
    (
        "hf_vit",
        {"num_hidden_layers": 1_000_000},
        "num_hidden_layers is 1000000, but there are tensors of 3 blocks",
    ),
    ("hf_vit", {"num_hidden_layers": True}, "num_hidden_layers is True, but"),
    ("hf_vit", {"hidden_size": 2**62}, "hidden_dim of 4611686018427387904, which its tensors do not have"),
    ("hf_vit", {"image_size": 10**6}, "image size of 1000000x1000000 px; valid: up to"),
    ("hf_vit", {"image_size": 4}, "hf_vit: image size 4x4 px is smaller than the patch size 8x8 px"),
    ("hf_vit", {"image_size": 10**30, "patch_size": 10**30}, "patch_size of 1000000.*, which its tensors do not have"),
    ("hf_vit", {"num_channels": 10**9}, "num_channels is 1000000000; valid: the channels of its patch embedding"),
    ("hf_vit", {"layer_norm_eps": float("nan")}, "norm_eps"),
    ("hf_vit", {"hidden_size": "x" * 10**5}, "hidden_dim is 'xxxx"),
    (
        "hf_vit_mae",
        {"decoder_num_hidden_layers": 10**6},
        "decoder_num_hidden_layers is 1000000, but there",
    ),
    ("hf_vit_mae", {"decoder_hidden_size": {"a": 1}}, "decoder_dim is {'a': 1}; valid: 1 or more"),
    ("hf_vit_mae", {"decoder_hidden_size": 10**9}, "decoder_dim of 1000000000, which its tensors do not have"),
    ("hf_vit_mae", {"mask_ratio": [1]}, r"mask_ratio is \[1\]; valid: above 0 and below 1"),
    (
        "hf_swin",
        {"depths": [10**6, 2]},
        "depths is 1000000, but there are tensors of 2 blocks",
    ),
    ("hf_swin", {"window_size": 2**31}, "window_size of 2147483648, which its tensors do not have"),
    ("hf_pvt", {"depths": [10**9, 1, 1, 1]}, "depths is 1000000000, but there are tensors of"),
    ("hf_pvt", {"patch_sizes": [0, 2, 2, 2]}, "ZeroDivisionError"),
    (
        "timm_vit",
        {"model_args": {"depth": 10**6}},
        "model_args.depth is 1000000, but there are tensors of 3 blocks",
    ),
    ("timm_vit", {"model_args": {"num_heads": 10**30}}, "num_heads"),
    ("timm_vit", {"pretrained_cfg": {"crop_pct": 1e-9}}, "crop_pct 1e-09 is not supported"),
    ("timm_vit", {"pretrained_cfg": {"crop_pct": float("nan")}}, "crop_pct nan is not supported; valid: a number"),
    ("timm_vit", {"pretrained_cfg": {"crop_pct": True}}, "crop_pct True is not supported; valid: a number"),
    ("timm_vit", {"pretrained_cfg": {"mean": [1e999] * 3}}, r"timm_vit: mean is \[inf, inf, inf\]; valid: 3 numbers"),
    ("t2t_performer", {"model_args": {"depth": 10**6}}, "model_args.depth is 1000000, but there are tensors of"),
]


@pytest.mark.parametrize(("name", "changes", "message"), CLAIMS, ids=[f"{name} {str(x)[:40]}" for name, x, _ in CLAIMS])
def test_what_a_config_claims_is_checked_before_anything_is_built(changed, name, changes, message):
    copy = changed(name)
    for key, value in changes.items():
        whole = isinstance(value, dict) and key in ("model_args", "pretrained_cfg")
        copy.config[key] = (copy.config.get(key) or {}) | value if whole else value
    refused(copy.save(), message)


HOSTILE = [None, True, 0, -1, 2**62, 10**400, 1e-9, 1e300, float("nan"), "", "x", [], [0], [-1, "x"], {}, {"a": [1]}]


@pytest.mark.parametrize("name", ["hf_deit", "timm_swinv2"])
def test_a_hostile_value_of_any_key_is_read_or_refused(changed, name):
    copy = changed(name)
    before = copy.config
    for number, key in enumerate(before):
        for value in HOSTILE[number % 8 :: 8]:
            copy.config = before | {key: value}
            try:
                open_checkpoint(copy.save())
            except vit_jax.InputError as error:
                assert "\n" not in str(error)
