"""Writing T2T-ViT checkpoints by the authors' names; see `t2t` for what the folder holds."""

import pathlib
from typing import Any

import numpy as np

from vit_jax.layers.tokens_to_token import split_grids
from vit_jax.models.t2t import VARIANTS, sinusoid
from vit_jax.pretrained import files
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.description import mlp_ratio
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside
from vit_jax.pretrained.t2t.t2t import ARCHITECTURES, NAMES
from vit_jax.pretrained.vit.to_timm import data_of, unheld_data

_VALID = {"gelu": ("exact",), "norm_eps": (1e-5,)}
_STRIDE = 16


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    found = outside("model", model.encoder, _VALID)
    if model.task is not None:
        found += outside("task", model.task, {"loss_type": ("softmax",)})
    size = model.preprocessing.image_size
    side = size[0] // _STRIDE
    if size[0] != size[1] or split_grids(size)[-1] != (side, side):
        found.append(Unheld("data.image_size", size, f"as high as wide, and a multiple of {_STRIDE}"))
    return found + unheld_data(model.preprocessing)


def write(model: Outgoing, folder: pathlib.Path) -> str:
    """Writes config.json and model.safetensors; gives the architecture's name."""
    encoder = model.encoder
    architecture = _architecture(encoder)
    num_classes = 0 if model.task is None else model.task.num_classes
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": num_classes,
        "model_args": {
            "img_size": model.preprocessing.image_size[0],
            "in_chans": model.preprocessing.channels,
            "num_classes": num_classes,
            "tokens_type": encoder.tokens_type,
            "token_dim": encoder.token_dim,
            "embed_dim": encoder.hidden_dim,
            "depth": encoder.depth,
            "num_heads": encoder.num_heads,
            "mlp_ratio": mlp_ratio(encoder.mlp_dim, encoder.hidden_dim),
            "qkv_bias": encoder.qkv_bias,
            "qk_scale": encoder.qk_scale,
        },
        "pretrained_cfg": data_of(model.preprocessing) | {"num_classes": num_classes, "classifier": "head"},
    }
    if model.task is not None:
        config["label_names"] = list(model.class_names)
    rows = names.expand(NAMES[encoder.tokens_type], encoder.depth)
    tensors = names.write(rows, model.params)
    if encoder.posemb != "learned":
        grid = split_grids(model.preprocessing.image_size)[-1]
        tensors["pos_embed"] = np.asarray(sinusoid(encoder.posemb_grid or grid, grid, encoder.hidden_dim))[None]
    files.write_json(folder / "config.json", config)
    files.write_safetensors(folder / files.WEIGHTS, tensors)
    return architecture


def _architecture(encoder: Any) -> str:
    """The authors' function for this size, or else one whose other values model_args all replace."""
    for architecture, name in ARCHITECTURES.items():
        row = VARIANTS[name]
        if all(getattr(row, size) == getattr(encoder, size) for size in ("tokens_type", "hidden_dim", "depth")):
            return architecture
    return "t2t_vit_14" if encoder.tokens_type == "performer" else "t2t_vit_t_14"
