"""Configs of earlier versions, in today's layout."""

import copy
import json
import tarfile

import pytest
from conftest import GOLDEN
from ml_collections import ConfigDict

from vit_jax.build import plugins
from vit_jax.build.old_configs import upgraded

AUGMENTED = {
    "augment": "randaugment",
    "color_jitter": [0.3, 0.2, 0.1, 0.0],
    "crop": "random",
    "crop_min_area": 0.05,
    "cutmix_alpha": 1.0,
    "erase_probability": 0.25,
    "flip": True,
    "mix_probability": 0.9,
    "mix_switch_probability": 0.5,
    "mixup_alpha": 0.8,
    "randaugment_magnitude": 9.0,
    "randaugment_magnitude_std": 0.5,
    "randaugment_num_ops": 2,
    "randaugment_variant": "timm_increasing",
    "shift_px": 2,
}
PLAIN = AUGMENTED | {
    "augment": "none",
    "color_jitter": [0.0, 0.0, 0.0, 0.0],
    "crop": "none",
    "cutmix_alpha": 0.0,
    "erase_probability": 0.0,
    "flip": False,
    "mixup_alpha": 0.0,
    "shift_px": 0,
}


@pytest.fixture(params=["plain", "distilled"])
def saved(request, tmp_path):
    """The config.json of a real run."""
    with tarfile.open(GOLDEN / "workdir_format1" / "runs.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    return json.loads((tmp_path / request.param / "config.json").read_text())


def test_augmentations_have_their_options():
    assert upgraded({"data": dict(AUGMENTED)})["data"]["augment"] == {
        "random_crop": {"min_area": 0.05},
        "randaugment": {"variant": "timm_increasing", "num_ops": 2, "magnitude": 9.0, "magnitude_std": 0.5},
        "color_jitter": {"brightness": 0.3, "contrast": 0.2, "saturation": 0.1, "hue": 0.0},
        "shift": {"pixels": 2},
        "flip": {},
        "erase": {"probability": 0.25},
        "mix": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 0.9, "switch_probability": 0.5},
    }


@pytest.mark.parametrize(
    ("policy", "augment"),
    [
        ("none", {}),
        ("autoaugment_cifar", {"autoaugment": {"learned_on": "cifar"}}),
        ("autoaugment_imagenet", {"autoaugment": {"learned_on": "imagenet"}}),
        ("trivialaugment", {"trivialaugment": {}}),
        ("three_augment", {"three_augment": {}}),
    ],
)
def test_a_policy_is_an_augmentation(policy, augment):
    data = upgraded({"data": PLAIN | {"augment": policy}})["data"]
    assert data["augment"] == augment
    assert not set(PLAIN) & set(data) - {"augment"}


@pytest.mark.parametrize("policy", ["none", "randaugment", "autoaugment_cifar", "trivialaugment", "three_augment"])
def test_every_augmentation_that_comes_out_can_be_created(policy):
    for name, options in upgraded({"data": AUGMENTED | {"augment": policy}})["data"]["augment"].items():
        plugins.create("augmentation", name, options=options)


def test_an_open_preprocessing_stays_open():
    for interpolation, width_first in ((None, None), ("bicubic", False)):
        assert upgraded({"data": {"interpolation": interpolation}})["data"]["width_first"] is width_first


def test_keys_that_came_later_have_their_defaults():
    assert upgraded({"data": {"name": "digits"}})["data"]["max_boxes"] == 100
    assert upgraded({"data": {"name": "digits", "max_image_pixels": 7}})["data"]["max_image_pixels"] == 7


def test_evaluators_have_their_options():
    old = {"splits": {"test": "test"}, "metrics": ["confusion", "knn"], "knn": {"k": 3, "temperature": 0.1}}
    assert upgraded({"evaluation": old | {"probe": {"l2": 1.0}, "calibration": {}}})["evaluation"] == {
        "splits": {"test": "test"},
        "metrics": {"confusion": {}, "knn": {"k": 3, "temperature": 0.1}},
        "reference_split": None,
        "reference_examples": 0,
    }


def test_options_of_model_and_task_are_theirs_alone():
    model = {"name": "vit", "variant": "Ti/4", "dtype": "float32", "hidden_dim": 64, "depths": None}
    task = {"name": "distillation", "weight": 0.7, "teacher": "t", "temperature": None, "loss_type": "softmax"}
    new = upgraded({"model": model, "task": task})
    assert new["model"] == {"name": "vit", "variant": "Ti/4", "options": {"dtype": "float32", "hidden_dim": 64}}
    options = {"teacher_weight": 0.7, "teacher": "t", "loss_type": "softmax"}
    assert new["task"] == {"name": "distillation", "options": options}
    assert upgraded({"task": task | {"name": "classification"}})["task"]["options"] == {"loss_type": "softmax"}


def test_a_real_config_has_todays_sections_and_valid_options(saved):
    before = copy.deepcopy(saved)
    new = upgraded(saved)
    assert saved == before
    from configs import common

    for section in ("data", "evaluation"):
        assert set(new[section]) == set(common.get_config()[section])
    plugins.create_encoder(new["model"]["name"], new["model"]["variant"], **new["model"]["options"])
    for option in new["task"]["options"]:
        plugins.check_option("task", new["task"]["name"], option)
    ConfigDict(new)


def test_todays_layout_stays_as_it_is(saved):
    new = upgraded(saved)
    assert upgraded(new) == new
    from configs import imagenet_deit_s16

    today = imagenet_deit_s16.get_config().to_dict()
    assert upgraded(today) == today
