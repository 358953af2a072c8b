"""Formats are found by the names of their files, and every file keeps the contract."""

import importlib
import inspect

import numpy as np
import pytest

import vit_jax
from vit_jax.build.plugins import names
from vit_jax.pretrained import libraries
from vit_jax.pretrained.description import pair
from vit_jax.pretrained.files import Files

FOUND = libraries.library_files()


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.module.removeprefix("vit_jax.pretrained."))
def test_a_file_keeps_the_contract(file):
    assert file.family in names("model")
    library = file.library
    assert isinstance(library.KINDS, tuple) and all(isinstance(kind, str) for kind in library.KINDS)
    if library.KINDS:
        assert next(iter(inspect.signature(library.describe).parameters)) == "files"
    for name in ("unsupported", "write"):
        assert next(iter(inspect.signature(getattr(library, name)).parameters)) == "model"


def test_a_pattern_stands_in_one_file_alone():
    kinds = [(file.format, kind) for file in FOUND for kind in file.library.KINDS]
    assert len(kinds) == len(set(kinds))


def test_formats_and_writers():
    assert libraries.formats() == ("google", "huggingface", "t2t", "timm")
    assert list(libraries.writers("swin", "classification")) == ["huggingface", "timm"]
    assert list(libraries.writers("vit", "masked_autoencoder")) == ["huggingface"]
    assert libraries.writers("deit", None).keys() == libraries.writers("vit", None).keys()
    assert libraries.writers("swin", "detection") == {}


def test_tables_and_shared_files_are_no_formats():
    modules = {file.module for file in FOUND}
    for name in ("vit.names", "vit.positions", "swin.names"):
        module = importlib.import_module(f"vit_jax.pretrained.{name}")
        assert not hasattr(module, "KINDS") and module.__name__ not in modules


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "vitt"}, "there: model_type 'vitt' is not supported; valid: .*vit, deit"),
        ({"architecture": "resnet50.a1"}, "there: architecture 'resnet50' is not supported; valid: .*vit_"),
        ({"name": "x"}, "there: its config.json has neither model_type .* nor architecture"),
        (
            {"model_type": "vit", "num_hidden_layers": "x"},
            "there: num_hidden_layers is 'x', but there are tensors of 0",
        ),
    ],
)
def test_what_no_file_reads_is_refused(config, message):
    with pytest.raises(vit_jax.InputError, match=message):
        libraries.describe(Files("there", {}, config))


@pytest.mark.parametrize("size", [np.int64(8), np.array([8, 8]), [np.int32(8), 8], (8,), np.array(8)])
def test_a_size_may_be_of_numpy(size):
    sides = pair(size, "image_size")
    assert sides == (8, 8) and all(type(side) is int for side in sides)


@pytest.mark.parametrize("size", [True, 0, 8.0, (8, 8, 8), "8", np.array([8.5, 8])])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(vit_jax.InputError, match=r"image_size is .*; valid: one number, or height and width"):
        pair(size, "image_size")


def test_numbers_of_numpy_load(golden):
    loaded = vit_jax.load(golden / "hf_vit", image_size=np.array([32, 64]), in_channels=np.int64(1))
    assert loaded.preprocessing.image_size == (32, 64) and loaded.preprocessing.channels == 1
    with pytest.raises(vit_jax.InputError, match="in_channels is 0; valid: 1 or more"):
        vit_jax.load(golden / "hf_vit", in_channels=0)
