"""Writing checkpoints for timm, as its `save_for_hf` does: PVT v2.

Source: timm 1.0's models/_hub.py and models/pvt_v2.py.
"""

import pathlib
from typing import Any

from vit_jax.pretrained import files
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside
from vit_jax.pretrained.pvt.names import expand_stages
from vit_jax.pretrained.pvt.timm import EMBED_NORM_EPS, NAMES, NORM_EPS, patch_sizes, strides
from vit_jax.pretrained.vit.to_timm import data_of, unheld_data

_VALID = {
    "version": (2,),
    "activation": ("exact",),
    "norm_eps": (NORM_EPS,),
    "embed_norm_eps": (EMBED_NORM_EPS,),
}
_ARCHITECTURE = "pvt_v2_b0"  # whose values model_args all replace


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    encoder, stages = model.encoder, len(model.encoder.depths)
    valid = _VALID | {"patch_sizes": (patch_sizes(stages),), "strides": (strides(stages),)}
    found = outside("model", encoder, valid)
    if model.task is not None:
        found += outside("task", model.task, {"loss_type": ("softmax",)})
    return found + unheld_data(model.preprocessing)


def write(model: Outgoing, folder: pathlib.Path) -> str:
    """Writes config.json and model.safetensors; gives the architecture's name."""
    encoder = model.encoder
    num_classes = 0 if model.task is None else model.task.num_classes
    config: dict[str, Any] = {
        "architecture": _ARCHITECTURE,
        "num_classes": num_classes,
        "num_features": encoder.hidden_dim,
        "global_pool": "avg",
        "model_args": {
            "in_chans": model.preprocessing.channels,
            "num_classes": num_classes,
            "depths": list(encoder.depths),
            "embed_dims": list(encoder.hidden_dims),
            "num_heads": list(encoder.num_heads),
            "sr_ratios": list(encoder.reductions),
            "mlp_ratios": list(encoder.mlp_ratios),
            "qkv_bias": encoder.qkv_bias,
            "linear": encoder.linear_attention,
        },
        "pretrained_cfg": {
            **data_of(model.preprocessing),
            "fixed_input_size": False,
            "num_classes": num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if model.task is not None:
        config["label_names"] = list(model.class_names)
    files.write_json(folder / "config.json", config)
    rows = expand_stages(NAMES, encoder.depths)
    files.write_safetensors(folder / files.WEIGHTS, names.write(rows, model.params))
    return _ARCHITECTURE
