"""Writing checkpoints for timm: `swin_*` and `swinv2_*`, as its `save_for_hf` does.

Source: timm 1.0's models/_hub.py, models/swin_transformer.py and models/swin_transformer_v2.py.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from vit_jax.models.swin import Swin
from vit_jax.pretrained import files
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside
from vit_jax.pretrained.swin.huggingface import MASK_VALUE
from vit_jax.pretrained.swin.timm import names_of
from vit_jax.pretrained.vit.timm import GELU
from vit_jax.pretrained.vit.to_timm import data_of, unheld_data

_VALID = {"posemb": ("none",), "norm_eps": (1e-5,), "embed_norm_eps": (1e-5,)}
_VALID_V1 = {"gelu": ("exact",), "mask_value": (MASK_VALUE[1],)}
_VALID_V2 = {"head_dim": (None,), "mask_value": (MASK_VALUE[1], MASK_VALUE[2])}
_ACT_LAYER = {ours: theirs for theirs, ours in GELU.items()}

# model_args replace all that they choose.
_ARCHITECTURE = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    encoder, size = model.encoder, model.preprocessing.image_size
    found = outside("model", encoder, _VALID | (_VALID_V1 if encoder.version == 1 else _VALID_V2))
    if _always_partition(encoder, size) is None:
        found.append(Unheld("model.window_size", encoder.window_size, f"windows as timm places them at {size} px"))
    if any(side % patch for side, patch in zip(size, encoder.patch_size, strict=True)):
        found.append(Unheld("data.image_size", size, f"multiples of {encoder.patch_size}"))
    if model.task is not None:
        found += outside("task", model.task, {"loss_type": ("softmax",)})
    return found + unheld_data(model.preprocessing)


def write(model: Outgoing, folder: pathlib.Path) -> str:
    """Writes config.json and model.safetensors; gives the architecture's name."""
    encoder, size = model.encoder, model.preprocessing.image_size
    architecture = _ARCHITECTURE[encoder.version]
    num_classes = 0 if model.task is None else model.task.num_classes
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": num_classes,
        "num_features": encoder.dims(len(encoder.depths) - 1),
        "global_pool": "avg",
        "model_args": _model_args(model) | {"num_classes": num_classes},
        "pretrained_cfg": {
            **data_of(model.preprocessing),
            "fixed_input_size": True,
            "num_classes": num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        },
    }
    if model.task is not None:
        config["label_names"] = list(model.class_names)
    windows = [placed.window for placed in encoder.fits(size)]
    rows = names_of(encoder.depths, windows, encoder.version)
    files.write_json(folder / "config.json", config)
    files.write_safetensors(folder / files.WEIGHTS, names.write(rows, _cropped(model).params))
    return architecture


def _model_args(model: Outgoing) -> dict[str, Any]:
    encoder = model.encoder
    arguments: dict[str, Any] = {
        "img_size": list(model.preprocessing.image_size),
        "patch_size": encoder.patch_size[0] if len(set(encoder.patch_size)) == 1 else list(encoder.patch_size),
        "in_chans": model.preprocessing.channels,
        "embed_dim": encoder.embed_dim,
        "depths": list(encoder.depths),
        "num_heads": list(encoder.num_heads),
        "window_size": [list(window) for window in encoder.window_size],
        "always_partition": bool(_always_partition(encoder, model.preprocessing.image_size)),
        "strict_img_size": encoder.shift_size is None,  # if not, the windows stay as they are for images of any size
        "mlp_ratio": encoder.mlp_ratio,
        "qkv_bias": encoder.qkv_bias,
    }
    if encoder.version == 1:
        return arguments | {"head_dim": encoder.head_dim}
    before = encoder.pretrained_window_size or ((0, 0),) * len(encoder.depths)
    return arguments | {
        "act_layer": _ACT_LAYER[encoder.gelu],
        "pretrained_window_sizes": [list(window) for window in before],
    }


def _always_partition(encoder: Swin, image_size: tuple[int, int]) -> bool | None:
    """Which value of timm's option places the windows as this model does; None if neither does."""
    halves = tuple((rows // 2, columns // 2) for rows, columns in encoder.window_size)
    for value, shift in ((False, None), (True, halves)):
        if encoder.clone(window_fit="timm", shift_size=shift).fits(image_size) == encoder.fits(image_size):
            return value
    return None


def _cropped(model: Outgoing) -> Outgoing:
    """With tables of the offsets alone that occur, which is what timm has where a window spans a map."""
    encoder, params = model.encoder, dict(model.params)
    fits = encoder.fits(model.preprocessing.image_size)
    stages = [stage for stage, depth in enumerate(encoder.depths) for _ in range(depth)]
    for path, table in model.params.items():
        if path.endswith("attention/bias_table"):
            stage = stages[encoder.layer_number(path.removeprefix("encoder/")) - 1]
            rows, columns = (
                slice(whole - used, whole + used - 1)
                for whole, used in zip(encoder.window_size[stage], fits[stage].window, strict=True)
            )
            params[path] = np.asarray(table)[rows, columns]
    return dataclasses.replace(model, params=params)
