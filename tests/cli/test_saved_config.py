"""Configs of work directories that earlier versions wrote, in today's layout."""

import json

import pytest

import vit_jax
from vit_jax.cli.saved_config import read_saved_config

OLD = {
    "seed": 3,
    "model": {"name": "vit", "variant": "Ti/4", "depth": 2, "gelu": None},
    "data": {"name": "digits", "image_size": [8, 8], "shift_px": 2, "augment": "none"},
    "evaluation": {"splits": {"test": "test"}, "metrics": ["knn"], "knn": {"k": 5}},
}


def test_a_config_is_filled_up_with_todays_defaults(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**OLD, "parallel": {"strategy": "mesh"}}))
    config = read_saved_config(file)
    assert config["parallel"]["fsdp"] == 1 and config["evaluation"]["batch_size"] == 512
    assert config["model"]["options"] == {"depth": 2} and config["evaluation"]["metrics"] == {"knn": {"k": 5}}
    assert config["seed"] == 3 and config["evaluation"]["splits"] == {"test": "test"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"data": {}, "evaluation": {}}'])
def test_what_is_no_config_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(vit_jax.InputError, match=r"config.json (is not valid JSON|lacks)"):
        read_saved_config(tmp_path / "config.json")
