"""What timm's config.json says for every family.

Source: timm 1.0's models/_hub.py and data/transforms_factory.py.
"""

import math
from typing import Any

import numpy as np

from vit_jax.data.images.resizing import INTERPOLATION
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.options import is_number, short
from vit_jax.pretrained.description import classification, numbered_classes, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported, order_warnings, unsupported_cut
from vit_jax.pretrained.files import Files

GELU = {"gelu": "exact", "gelu_tanh": "tanh", "quick_gelu": "quick"}
ACT_LAYER = {ours: theirs for theirs, ours in GELU.items()}
MAX_SIDE = 65_536
"""The longest side in pixels that an image may be resized to."""
_NOT_COMPUTED = ("crop_border_pixels", "naflex", "patchify")
"""Arguments of timm's `transforms_imagenet_eval` that change pixels, besides those that are read."""


def read_head(files: Files, head: str, **options: Any) -> dict[str, Any]:
    """Return `task` and `fields` of a `Description`; nothing without a head.

    Args:
        files: the checkpoint.
        head: name of the head, `head.fc`.
        **options: of the classification.
    """
    assert files.config is not None, files.name
    if f"{head}.weight" not in files.tensors and not files.config.get("num_classes", 0):
        return {}
    return classification(_class_names(files, f"{head}.weight"), **options)


def _class_names(files: Files, head_name: str) -> tuple[str, ...]:
    """Read the names in config.json, or else numbers; as many as the head has."""
    assert files.config is not None, files.name
    pretrained = files.config.get("pretrained_cfg") or files.config
    names = files.config.get("label_names") or pretrained.get("label_names")
    count = shape_of(files, head_name, 2)[0] if head_name in files.tensors else files.config.get("num_classes", 0)
    if names and len(names) != count:
        raise InputError(f"{files.name}: label_names has {len(names)} names, but {head_name} has {count} classes")
    about = (files.name, *(pretrained.get(key) or "" for key in ("tag", "hf_hub_id", "url", "file")))
    return tuple(map(str, names)) if names else numbered_classes(count, about=" ".join(map(str, about)))


def read_preprocessing(
    name: str, pretrained: dict[str, Any], image_size: tuple[int, int], channels: int
) -> Preprocessing:
    """Read what timm's evaluation transform does.

    Args:
        name: of the checkpoint, for messages.
        pretrained: `pretrained_cfg` of config.json.
        image_size: height and width in pixels.
        channels: of the images.
    """
    interpolation = pretrained.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATION:
        raise InputError(f"{name}: interpolation {interpolation!r} is not supported; valid: {', '.join(INTERPOLATION)}")
    crop_mode = pretrained.get("crop_mode") or "center"
    if crop_mode not in ("center", "squash"):
        raise InputError(f"{name}: crop_mode {crop_mode!r} is not supported; valid: center, squash")
    fraction = pretrained.get("crop_pct") or 0.875
    if not is_number(fraction) or not max(image_size) / MAX_SIDE < fraction <= 1:
        raise InputError(f"{name}: crop_pct {short(fraction)} is not supported; valid: a number above 0, at most 1")
    for key in _NOT_COMPUTED:
        if pretrained.get(key):
            raise InputError(f"{name}: {key} {short(pretrained[key])} is not supported; valid: without it")
    height, width = (math.floor(side / fraction) for side in image_size)
    mean = _per_channel(name, pretrained, "mean", (0.485, 0.456, 0.406), channels)
    std = _per_channel(name, pretrained, "std", (0.229, 0.224, 0.225), channels)
    return Preprocessing(
        image_size=image_size,
        channels=channels,
        resize="exact" if crop_mode == "squash" else _by_edge((height, width)),
        crop_fraction=fraction if crop_mode == "center" else 1.0,
        resize_to=(height, width) if crop_mode == "squash" else None,
        crop_offset="nearest",
        interpolation=interpolation,
        mean=mean,
        std=std,
    )


def _by_edge(target: tuple[int, int]) -> str:
    """Return how timm rounds the longer side: torchvision resizes to a square, and timm itself to a rectangle."""
    return "shortest_edge" if target[0] == target[1] else "shortest_edge_nearest"


def _per_channel(
    name: str, pretrained: dict[str, Any], key: str, default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    """Read a number for each channel; for another number of channels than three they are repeated or left out."""
    values = pretrained.get(key) or default
    values = values if isinstance(values, list | tuple) else [values]
    if not all(map(is_number, values)) or (channels == 3 and len(values) not in (1, 3)):
        raise InputError(f"{name}: {key} is {short(pretrained[key])}; valid: {channels} numbers")
    return tuple(map(float, np.resize(np.asarray(values, float), channels)))


def config(
    model: ExportModel,
    architecture: str,
    *,
    num_features: int,
    global_pool: str,
    model_args: dict[str, Any],
    fixed_input_size: bool,
    classifier: str | list[str],
) -> dict[str, Any]:
    """Return config.json, as `save_for_hf` writes it.

    Args:
        model: what is written.
        architecture: a function of timm.
        num_features: dimension of the pooled vector.
        global_pool: how the model pools.
        model_args: all arguments of the function but the number of classes.
        fixed_input_size: whether the model takes images of its size alone.
        classifier: names of the heads.
    """
    num_classes = len(model.class_names)
    there = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": num_features,
        "global_pool": global_pool,
        "model_args": model_args | {"num_classes": num_classes},
        "pretrained_cfg": {
            **data_config(model.preprocessing),
            "fixed_input_size": fixed_input_size,
            "num_classes": num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": classifier,
        },
    }
    return there if model.task is None else there | {"label_names": list(model.class_names)}


def data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing as `pretrained_cfg` has it."""
    height, width = preprocessing.image_size
    return {
        "input_size": [preprocessing.channels, height, width],
        "interpolation": preprocessing.interpolation,
        "crop_pct": _crop_pct(preprocessing) or height / preprocessing.resize_target[0],
        "crop_mode": "squash" if preprocessing.resize == "exact" else "center",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _crop_pct(preprocessing: Preprocessing) -> float | None:
    """Find the share that gives `resize_target` if both sides are divided by it and rounded down, as timm does."""
    target, size = preprocessing.resize_target, preprocessing.image_size
    shares = [after / before for after, before in zip(size, target, strict=True)]
    for share in (preprocessing.crop_fraction, *shares, *np.nextafter(shares, 0).tolist()):
        if tuple(math.floor(side / share) for side in size) == target:
            return share
    return None


def unsupported_preprocessing(preprocessing: Preprocessing) -> list[Unsupported]:
    """List what `pretrained_cfg` cannot express of the preprocessing."""
    found = unsupported_cut(preprocessing, "nearest")
    rows, columns = preprocessing.resize_target
    if preprocessing.resize not in ("exact", _by_edge((rows, columns))):
        valid = f"{_by_edge((rows, columns))}, for {rows}x{columns} px"
        found.append(Unsupported("data.resize", preprocessing.resize, valid))
    if _crop_pct(preprocessing) is None:
        valid = f"in proportion to data.image_size {preprocessing.image_size}"
        found.insert(0, Unsupported("data.resize_to", preprocessing.resize_target, valid))
    return found


def warnings(model: ExportModel) -> list[str]:
    """List what timm does in another way than the model, though not by a setting."""
    return order_warnings(model.preprocessing, width_first=False)
