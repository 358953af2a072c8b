"""Writing checkpoints for Hugging Face transformers: PVT and PVT v2.

Source: transformers 5's models/pvt and models/pvt_v2.
"""

import pathlib
from typing import Any

from vit_jax.pretrained import files
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside
from vit_jax.pretrained.pvt.huggingface import ARCHITECTURES, HIDDEN_ACT, NAMES, position_grids
from vit_jax.pretrained.pvt.names import expand_stages
from vit_jax.pretrained.vit.huggingface import HEAD
from vit_jax.pretrained.vit.to_huggingface import labels, processor, side_or_sides, unheld_data

_HIDDEN_ACT = {ours: theirs for theirs, ours in reversed(HIDDEN_ACT.items())}


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    encoder, size = model.encoder, model.preprocessing.image_size
    found = outside("model", encoder, {"embed_norm_eps": (encoder.norm_eps,)})
    if any(ratio != int(ratio) for ratio in encoder.mlp_ratios):
        found.append(Unheld("model.mlp_ratios", encoder.mlp_ratios, "whole numbers"))
    if encoder.version == 1:
        if size[0] != size[1]:
            found.append(Unheld("data.image_size", size, "a square"))
        elif encoder.grids(size) != position_grids(size, encoder.strides):
            valid = f"what makes maps of {position_grids(size, encoder.strides)}"
            found.append(Unheld("model.strides", encoder.strides, valid))
    return found + unheld_data(model.preprocessing)


def write(model: Outgoing, folder: pathlib.Path) -> str:
    """Writes config.json, model.safetensors and preprocessor_config.json; gives the architecture's name."""
    encoder, has_head = model.encoder, model.task is not None
    family = "pvt" if encoder.version == 1 else "pvt_v2"
    architecture = ARCHITECTURES[family][-1 if has_head else 0]
    rows = expand_stages(NAMES[encoder.version], encoder.depths, f"{family}." if has_head else "")
    config = {"architectures": [architecture], "model_type": family} | _config(model)
    files.write_json(folder / "config.json", config)
    files.write_json(folder / "preprocessor_config.json", processor(model.preprocessing))
    files.write_safetensors(folder / files.WEIGHTS, names.write([*rows, *(HEAD if has_head else ())], model.params))
    return architecture


def _config(model: Outgoing) -> dict[str, Any]:
    encoder, is_first = model.encoder, model.encoder.version == 1
    config: dict[str, Any] = {
        "image_size": side_or_sides(model.preprocessing.image_size),
        "num_channels": model.preprocessing.channels,
        "num_encoder_blocks": len(encoder.depths),
        "depths": list(encoder.depths),
        "sequence_reduction_ratios" if is_first else "sr_ratios": list(encoder.reductions),
        "hidden_sizes": list(encoder.hidden_dims),
        # The first version's code takes each for the other.
        "patch_sizes": list(encoder.strides if is_first else encoder.patch_sizes),
        "strides": list(encoder.patch_sizes if is_first else encoder.strides),
        "num_attention_heads": list(encoder.num_heads),
        "mlp_ratios": [int(ratio) for ratio in encoder.mlp_ratios],
        "hidden_act": _HIDDEN_ACT[encoder.activation],
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "drop_path_rate": encoder.drop_path,
        "layer_norm_eps": encoder.norm_eps,
        "qkv_bias": encoder.qkv_bias,
        "dtype": "float32",
    }
    if not is_first:
        config["linear_attention"] = encoder.linear_attention
    return config | labels(model)
