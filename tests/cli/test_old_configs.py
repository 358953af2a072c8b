"""Configs of work directories that earlier versions wrote, in today's layout."""

import json

import pytest

import vit_jax
from vit_jax.build.old_configs import upgraded
from vit_jax.cli.old_configs import read_saved_config

OLD = {
    "seed": 3,
    "model": {"name": "vit", "variant": "Ti/4", "depth": 2, "gelu": None, "scan": True},
    "task": {
        "name": "distillation",
        "label_smoothing": 0.1,
        "teacher": "runs/teacher",
        "teacher_step": "last",
        "teacher_revision": None,
        "kind": "hard",
        "weight": 0.3,
    },
    "data": {
        "name": "digits",
        "image_size": [8, 8],
        "crop": "random",
        "crop_min_area": 0.2,
        "flip": True,
        "shift_px": 2,
        "augment": "randaugment",
        "randaugment_variant": "timm",
        "randaugment_num_ops": 2,
        "randaugment_magnitude": 9.0,
        "randaugment_magnitude_std": 0.5,
        "color_jitter": [0.3, 0.0, 0.0, 0.0],
        "erase_probability": 0.25,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 0.0,
        "mix_probability": 1.0,
        "mix_switch_probability": 0.5,
    },
    "evaluation": {"splits": {"test": "test"}, "metrics": ["knn", "confusion"], "knn": {"k": 5}, "probe": {"l2": 1.0}},
}


def test_options_move_to_their_owners():
    config = upgraded(OLD)
    assert config["model"] == {"name": "vit", "variant": "Ti/4", "options": {"depth": 2, "scan": True}}
    options = {"label_smoothing": 0.1, "teacher": "runs/teacher", "teacher_step": "last", "kind": "hard"}
    assert config["task"] == {"name": "distillation", "options": {**options, "teacher_weight": 0.3}}
    assert config["data"] == {
        "name": "digits",
        "image_size": [8, 8],
        "augment": {
            "random_crop": {"min_area": 0.2},
            "flip": {},
            "shift": {"pixels": 2},
            "randaugment": {"variant": "timm", "num_ops": 2, "magnitude": 9.0, "magnitude_std": 0.5},
            "color_jitter": {"brightness": 0.3, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
            "erase": {"probability": 0.25},
            "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 0.0, "probability": 1.0, "switch_probability": 0.5},
        },
    }
    assert config["evaluation"] == {"splits": {"test": "test"}, "metrics": {"knn": {"k": 5}, "confusion": {}}}
    assert upgraded(config) == config and "options" not in OLD["model"]


def test_what_was_off_is_left_out():
    data = {"crop": "none", "flip": False, "shift_px": 0, "augment": "none", "color_jitter": [0, 0, 0, 0]}
    config = upgraded({"task": {"name": "classification", "teacher": None, "teacher_step": "last"}, "data": data})
    assert config == {"task": {"name": "classification", "options": {}}, "data": {"augment": {}}}


def test_a_config_is_filled_up_with_todays_defaults(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**OLD, "parallel": {"strategy": "mesh"}}))
    config = read_saved_config(file)
    assert config["parallel"]["fsdp"] == 1 and config["evaluation"]["batch_size"] == 512
    assert config["seed"] == 3 and config["evaluation"]["splits"] == {"test": "test"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"data": {}, "evaluation": {}}'])
def test_what_is_no_config_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(vit_jax.InputError, match=r"config.json (is not valid JSON|lacks)"):
        read_saved_config(tmp_path / "config.json")
