"""Writing checkpoints for Hugging Face transformers: Swin and Swin V2.

Source: transformers 5's models/swin and models/swinv2.
"""

import pathlib
from typing import Any

from vit_jax.models.swin import Swin
from vit_jax.pretrained import files
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside
from vit_jax.pretrained.swin.huggingface import (
    ARCHITECTURES,
    EMBED_NORM_EPS,
    MASK_VALUE,
    MODEL_TYPES,
    fixed_windows,
    names_of,
)
from vit_jax.pretrained.vit.huggingface import HEAD
from vit_jax.pretrained.vit.to_huggingface import HIDDEN_ACT, labels, processor, side_or_sides, unheld_data

_VALID = {"head_dim": (None,), "embed_norm_eps": (EMBED_NORM_EPS,)}
_VALID_V1 = {"mask_value": (MASK_VALUE[1],)}
# Its -200 and our -100 differ by less than float32 resolves, unless a cosine's factor has grown to dozens.
_VALID_V2 = {"mask_value": (MASK_VALUE[2], MASK_VALUE[1]), "posemb": ("none",)}


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    encoder = model.encoder
    found = outside("model", encoder, _VALID | (_VALID_V1 if encoder.version == 1 else _VALID_V2))
    size = model.preprocessing.image_size
    if encoder.fits(size) != _as_there(encoder, size).fits(size):
        found.append(
            Unheld("model.window_size", encoder.window_size, f"windows as transformers places them at {size} px")
        )
    for name in ("window_size", "pretrained_window_size"):
        windows = getattr(encoder, name) or ()
        same = encoder.version == 2 or len(set(windows)) == 1
        if any(rows != columns for rows, columns in windows) or (windows and not same):
            found.append(Unheld(f"model.{name}", windows, "square windows, in V1 the same in all stages"))
    return found + unheld_data(model.preprocessing)


def write(model: Outgoing, folder: pathlib.Path) -> str:
    """Writes config.json, model.safetensors and preprocessor_config.json; gives the architecture's name."""
    encoder = model.encoder
    has_head = model.task is not None
    architecture = ARCHITECTURES[encoder.version][int(has_head)]
    prefix = f"{MODEL_TYPES[encoder.version]}." if has_head else ""
    rows = names_of(encoder.depths, encoder.window_size, prefix, (0, 0)) + list(HEAD)
    kind = {"architectures": [architecture], "model_type": MODEL_TYPES[encoder.version]}
    files.write_json(folder / "config.json", kind | _config(model))
    files.write_json(folder / "preprocessor_config.json", processor(model.preprocessing))
    files.write_safetensors(folder / files.WEIGHTS, names.write(rows, model.params))
    return architecture


def _config(model: Outgoing) -> dict[str, Any]:
    encoder = model.encoder
    config: dict[str, Any] = {
        "image_size": side_or_sides(model.preprocessing.image_size),
        "patch_size": side_or_sides(encoder.patch_size),
        "num_channels": model.preprocessing.channels,
        "embed_dim": encoder.embed_dim,
        "depths": list(encoder.depths),
        "num_heads": list(encoder.num_heads),
        "window_size": _window(encoder),
        "mlp_ratio": encoder.mlp_ratio,
        "qkv_bias": encoder.qkv_bias,
        "hidden_act": HIDDEN_ACT[encoder.gelu],
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "drop_path_rate": encoder.drop_path,
        "layer_norm_eps": encoder.norm_eps,
        "use_absolute_embeddings": encoder.posemb == "learned",
        "dtype": "float32",
    }
    if encoder.version == 2:
        windows = encoder.pretrained_window_size or ((0, 0),) * len(encoder.depths)
        config["pretrained_window_sizes"] = [rows for rows, _ in windows]
    return config | labels(model)


def _window(encoder: Swin) -> int:
    return max(rows for rows, _ in encoder.window_size)


def _as_there(encoder: Swin, image_size: tuple[int, int]) -> Swin:
    """The model as transformers would place its windows."""
    if encoder.version == 1:
        return encoder.clone(window_fit="authors", shift_size=None)
    grid = (image_size[0] // encoder.patch_size[0], image_size[1] // encoder.patch_size[1])
    return encoder.clone(window_fit="authors", **fixed_windows(_window(encoder), grid, len(encoder.depths)))
