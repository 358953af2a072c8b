"""Reads configs of earlier versions: options were keys of the run then, and now belong to their owners."""

from typing import Any

from vit_jax.build import plugins

_DATA_DEFAULTS = {
    "folder": None,
    "labels": None,
    "image_column": None,
    "label_columns": (),
    "label_separator": None,
    "several_labels": False,
    "sampler": "shuffled",
    "split_column": "split",
    "fields": (),
    "eval_fraction": 0.2,
    "split_seed": 0,
    "skip_corrupt": False,
    "max_image_pixels": 178_956_970,
    "reduced_decoding": True,
    "antialias": True,
    "repeats": 1,
    "max_boxes": 100,
}
"""Keys of the section `data` that some earlier version did not have."""
_RENAMED = {"weight": "teacher_weight"}
"""Options of tasks, earlier name -> name."""
_MIX = {
    "mixup_alpha": "mixup_alpha",
    "cutmix_alpha": "cutmix_alpha",
    "mix_probability": "probability",
    "mix_switch_probability": "switch_probability",
}
_RANDAUGMENT = ("variant", "num_ops", "magnitude", "magnitude_std")
_JITTER = ("brightness", "contrast", "saturation", "hue")
_AUGMENT_KEYS = (
    *("crop", "crop_min_area", "flip", "shift_px", "color_jitter", "erase_probability"),
    *(f"randaugment_{option}" for option in _RANDAUGMENT),
    *_MIX,
)
_EVALUATOR_SECTIONS = ("calibration", "knn", "probe")


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config in today's layout, of one that any version wrote to config.json.

    Options that are None are left out, as are those of what the run did not use. A config in today's layout comes back
    as it is.

    Args:
        config: nested dicts; it is not changed.

    Example:
        >>> old = {"task": {"name": "classification", "label_smoothing": 0.1, "teacher": None}}
        >>> upgraded(old)["task"]
        {'name': 'classification', 'options': {'label_smoothing': 0.1}}
    """
    upgrades = {"model": _model, "task": _task, "data": _data, "evaluation": _evaluation}
    return {name: upgrades[name](dict(section)) if name in upgrades else section for name, section in config.items()}


def _model(section: dict[str, Any]) -> dict[str, Any]:
    if "options" in section:
        return section
    name, variant = section.pop("name", None), section.pop("variant", None)
    return {"name": name, "variant": variant, "options": _without_none(section)}


def _task(section: dict[str, Any]) -> dict[str, Any]:
    if "options" in section:
        return section
    name = section.pop("name", "classification")
    valid = plugins.option_types("task", name)
    options = {_RENAMED.get(key, key): value for key, value in _without_none(section).items()}
    return {"name": name, "options": {key: value for key, value in options.items() if key in valid}}


def _data(section: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(section.get("augment"), dict):
        old = {key: section.pop(key) for key in _AUGMENT_KEYS if key in section}
        section["augment"] = _augmentations(section.pop("augment", "none"), old)
    inherits = section.get("interpolation", "") is None
    return _DATA_DEFAULTS | {"width_first": None if inherits else False} | section


def _augmentations(policy: str, old: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name -> options of the augmentations that were on.

    Args:
        policy: the earlier key `augment`.
        old: the other keys.
    """
    augment: dict[str, dict[str, Any]] = {}
    if old.get("crop", "none") == "random":
        augment["random_crop"] = {"min_area": old.get("crop_min_area", 0.08)}
    if policy == "randaugment":
        options = {option: old.get(f"randaugment_{option}") for option in _RANDAUGMENT}
        augment["randaugment"] = _without_none(options)
    elif policy.startswith("autoaugment_"):
        augment["autoaugment"] = {"learned_on": policy.removeprefix("autoaugment_")}
    elif policy != "none":
        augment[policy] = {}
    if any(old.get("color_jitter", ())):
        augment["color_jitter"] = dict(zip(_JITTER, old["color_jitter"], strict=True))
    if old.get("shift_px", 0):
        augment["shift"] = {"pixels": old["shift_px"]}
    if old.get("flip", False):
        augment["flip"] = {}
    if old.get("erase_probability", 0):
        augment["erase"] = {"probability": old["erase_probability"]}
    if old.get("mixup_alpha", 0) or old.get("cutmix_alpha", 0):
        augment["mix"] = {option: old[key] for key, option in _MIX.items() if key in old}
    return augment


def _evaluation(section: dict[str, Any]) -> dict[str, Any]:
    metrics = section.get("metrics", ())
    if isinstance(metrics, dict):
        return section
    options = {name: section.pop(name) for name in _EVALUATOR_SECTIONS if name in section}
    section["metrics"] = {name: options.get(name, {}) for name in metrics}
    return {"reference_split": None, "reference_examples": 0} | section


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
