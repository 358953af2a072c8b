"""Writing checkpoints for timm, as its `save_for_hf` does.

Source: timm 1.0's models/_hub.py, models/vision_transformer.py, models/deit.py and data/transforms_factory.py.
"""

import math
import pathlib
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.pretrained import files
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.description import mlp_ratio
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside, outside_cut
from vit_jax.pretrained.vit.positions import with_table
from vit_jax.pretrained.vit.timm import GELU, NAMES, OPTIONS, POOLING

_VALID = {"representation_size": (None,)}
_DISTILLED_VALID = {"pooling": ("token",), "register_tokens": (0,), "final_norm": ("tokens", "none")}
_GLOBAL_POOL = {ours: theirs for theirs, ours in POOLING.items()}
_ACT_LAYER = {ours: theirs for theirs, ours in GELU.items()}

# model_args cannot say LayerNorm's epsilon; it follows from the architecture, whose other values they all replace.
_ARCHITECTURE = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_DISTILLED = {1e-6: "deit_base_distilled_patch16_224"}


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    encoder, task, preprocessing = model.encoder, model.task, model.preprocessing
    found = outside("model", encoder, _VALID | {"norm_eps": tuple(_architectures(model))})
    if encoder.patch_bias == encoder.pre_norm:
        found.append(Unheld("model.patch_bias", encoder.patch_bias, f"{not encoder.pre_norm}, with this pre_norm"))
    if encoder.pooling == "map" and encoder.num_prefix_tokens:
        found.append(Unheld("model.pooling", "map", "token, gap; map only without class token and registers"))
    if encoder.distillation_token:
        found += outside("model", encoder, _DISTILLED_VALID)
        if task is None or not task.distillation_head:
            found.append(Unheld("model.distillation_token", True, "False, without task.distillation_head"))
    if task is not None:
        found += outside("task", task, {"loss_type": ("softmax",)})
    return found + unheld_data(preprocessing)


def unheld_data(preprocessing: Preprocessing) -> list[Unheld]:
    """What `pretrained_cfg` cannot express of the preprocessing."""
    found = outside_cut(preprocessing, "nearest")
    if crop_pct(preprocessing) is None:
        valid = f"in proportion to data.image_size {preprocessing.image_size}"
        found.insert(0, Unheld("data.resize_to", preprocessing.resize_target, valid))
    return found


def write(model: Outgoing, folder: pathlib.Path) -> str:
    """Writes config.json and model.safetensors; gives the architecture's name."""
    if model.encoder.posemb != "learned" or model.encoder.distillation_token:
        model = with_table(model)
    encoder, task = model.encoder, model.task
    architectures = _architectures(model)
    architecture = architectures.get(encoder.norm_eps, architectures[1e-6])
    num_classes = 0 if task is None else task.num_classes
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": encoder.hidden_dim,
        "global_pool": _GLOBAL_POOL[encoder.pooling],
        "model_args": _model_args(model) | {"num_classes": num_classes},
        "pretrained_cfg": {
            **data_of(model.preprocessing),
            "fixed_input_size": True,
            "num_classes": num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if encoder.distillation_token else "head",
        },
    }
    if task is not None:
        config["label_names"] = list(model.class_names)
    rows = names.expand(NAMES, encoder.depth)
    files.write_json(folder / "config.json", config)
    files.write_safetensors(folder / files.WEIGHTS, names.write(rows, model.params))
    return architecture


def _architectures(model: Outgoing) -> dict[float, str]:
    """LayerNorm's epsilon -> an architecture that has it."""
    return _DISTILLED if model.encoder.distillation_token else _ARCHITECTURE


def _model_args(model: Outgoing) -> dict[str, Any]:
    """All that the architecture's function would otherwise choose."""
    encoder = model.encoder
    arguments = {theirs: getattr(encoder, ours) for theirs, ours in OPTIONS.items()}
    return arguments | {
        "img_size": list(model.preprocessing.image_size),
        "patch_size": list(encoder.patch_size),
        "in_chans": model.preprocessing.channels,
        "global_pool": _GLOBAL_POOL[encoder.pooling],
        "mlp_ratio": mlp_ratio(encoder.mlp_dim, encoder.hidden_dim),
        "class_token": encoder.has_class_token,
        "no_embed_class": not encoder.prefix_posemb,
        "final_norm": encoder.final_norm != "none",
        "fc_norm": encoder.final_norm == "pooled",
        "act_layer": _ACT_LAYER[encoder.gelu],
    }


def data_of(preprocessing: Preprocessing) -> dict[str, Any]:
    """The preprocessing as `pretrained_cfg` has it."""
    height, width = preprocessing.image_size
    return {
        "input_size": [preprocessing.channels, height, width],
        "interpolation": preprocessing.interpolation,
        "crop_pct": crop_pct(preprocessing) or height / preprocessing.resize_target[0],
        "crop_mode": "squash" if preprocessing.resize == "exact" else "center",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def crop_pct(preprocessing: Preprocessing) -> float | None:
    """The share that gives `resize_target` if both sides are divided by it and rounded down, as timm does."""
    target, size = preprocessing.resize_target, preprocessing.image_size
    shares = [after / before for after, before in zip(size, target, strict=True)]
    for share in (preprocessing.crop_fraction, *shares, *np.nextafter(shares, 0).tolist()):
        if tuple(math.floor(side / share) for side in size) == target:
            return share
    return None
