"""Writing checkpoints for Hugging Face transformers: ViT and DeiT.

Source: transformers 5's models/vit, models/deit and image_processing_backends.py.
"""

import pathlib
from typing import Any

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.pretrained import files
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.outgoing import Outgoing, Unheld, outside, outside_cut
from vit_jax.pretrained.vit.huggingface import GELU, HEADS, NAMES, RESAMPLE
from vit_jax.pretrained.vit.positions import with_table

_VALID = {
    "pooling": ("token",),
    "register_tokens": (0,),
    "pre_norm": (False,),
    "final_norm": ("tokens",),
    "layer_scale": (None,),
    "patch_bias": (True,),
    "qk_norm": (False,),
}
_INTERPOLATION = ("bilinear", "bicubic", "lanczos")
"""What transformers 5, whose processors resize tensors, does as Pillow does; it has no box and hamming."""
HIDDEN_ACT = {ours: theirs for theirs, ours in reversed(GELU.items())}


def unheld(model: Outgoing) -> list[Unheld]:
    """What the format cannot express of this model."""
    encoder = model.encoder
    found = outside("model", encoder, _VALID)
    if model.task is not None and encoder.representation_size is not None:
        found.append(Unheld("model.representation_size", encoder.representation_size, "None, where there is a head"))
    return found + unheld_data(model.preprocessing)


def unheld_data(preprocessing: Preprocessing) -> list[Unheld]:
    """What the image processors cannot express of the preprocessing."""
    found = outside("data", preprocessing, {"interpolation": _INTERPOLATION})
    rows, columns = preprocessing.resize_target
    if preprocessing.resize == "shortest_edge" and rows != columns:
        found.append(Unheld("data.resize", "shortest_edge", f"exact, for {rows}x{columns} px"))
    return found + outside_cut(preprocessing, "floor")


def write(model: Outgoing, folder: pathlib.Path) -> str:
    """Writes config.json, model.safetensors and preprocessor_config.json; gives the architecture's name."""
    model = with_table(model)
    architecture = _architecture(model)
    family = "deit" if model.encoder.distillation_token else "vit"
    prefix = f"{family}." if HEADS[architecture] else ""
    rows = names.expand(NAMES, model.encoder.depth, prefix) + list(HEADS[architecture])
    files.write_json(folder / "config.json", {"architectures": [architecture], "model_type": family} | _config(model))
    files.write_json(folder / "preprocessor_config.json", processor(model.preprocessing))
    files.write_safetensors(folder / files.WEIGHTS, names.write(rows, model.params))
    return architecture


def _architecture(model: Outgoing) -> str:
    family = "DeiT" if model.encoder.distillation_token else "ViT"
    if model.task is None:
        return f"{family}Model"
    return f"{family}ForImageClassification{'WithTeacher' if model.task.distillation_head else ''}"


def _config(model: Outgoing) -> dict[str, Any]:
    encoder = model.encoder
    config: dict[str, Any] = {
        "hidden_size": encoder.hidden_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.mlp_dim,
        "hidden_act": HIDDEN_ACT[encoder.gelu],
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "layer_norm_eps": encoder.norm_eps,
        "image_size": side_or_sides(model.preprocessing.image_size),
        "patch_size": side_or_sides(encoder.patch_size),
        "num_channels": model.preprocessing.channels,
        "qkv_bias": encoder.qkv_bias,
        "dtype": "float32",
    }
    if encoder.representation_size is not None:
        config |= {"pooler_output_size": encoder.representation_size, "pooler_act": "tanh"}
    return config | labels(model)


def labels(model: Outgoing) -> dict[str, Any]:
    """What config.json says of the head."""
    if model.task is None:
        return {}
    config: dict[str, Any] = {
        "id2label": {str(label): name for label, name in enumerate(model.class_names)},
        "label2id": {name: label for label, name in enumerate(model.class_names)},
    }
    return config | ({"problem_type": "multi_label_classification"} if model.task.loss_type == "sigmoid" else {})


def processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json, for the image processor that both transformers 4 and 5 have for this kind of cut."""
    rows, columns = preprocessing.resize_target
    by_edge = preprocessing.resize == "shortest_edge" and rows == columns
    cut = by_edge or (rows, columns) != preprocessing.image_size
    processor = {
        "image_processor_type": f"{'CLIP' if by_edge else 'DeiT' if cut else 'ViT'}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": rows} if by_edge else {"height": rows, "width": columns},
        "resample": RESAMPLE.index(preprocessing.interpolation),
        "do_center_crop": cut,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "do_convert_rgb": preprocessing.channels == 3,
    }
    if cut:
        height, width = preprocessing.image_size
        processor["crop_size"] = {"height": height, "width": width}
    return processor


def side_or_sides(size: tuple[int, int]) -> int | list[int]:
    """One number for a square."""
    return size[0] if size[0] == size[1] else list(size)
