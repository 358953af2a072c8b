"""Checkpoints of Hugging Face transformers: ViT and DeiT.

Source: transformers' models/vit/modeling_vit.py and models/deit/modeling_deit.py, and the tensors' names in the
files that they write.
"""

import math
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.pretrained.description import Description, in_proportion, pair, plain_vit
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name, expand

_BLOCK, _LAYER = "encoder/block_{i}", "{prefix}encoder.layer.{i}"
NAMES = (
    Name("encoder/class_token", "{prefix}embeddings.cls_token"),
    Name("encoder/distillation_token", "{prefix}embeddings.distillation_token"),
    Name("encoder/patch_embed/kernel", "{prefix}embeddings.patch_embeddings.projection.weight", "conv"),
    Name("encoder/patch_embed/bias", "{prefix}embeddings.patch_embeddings.projection.bias"),
    Name("encoder/pos_embedding/prefix", "{prefix}embeddings.position_embeddings", "prefix"),
    Name("encoder/pos_embedding/grid", "{prefix}embeddings.position_embeddings", "grid"),
    Name(f"{_BLOCK}/norm1/scale", f"{_LAYER}.layernorm_before.weight"),
    Name(f"{_BLOCK}/norm1/bias", f"{_LAYER}.layernorm_before.bias"),
    Name(f"{_BLOCK}/attention/query/kernel", f"{_LAYER}.attention.attention.query.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/query/bias", f"{_LAYER}.attention.attention.query.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/key/kernel", f"{_LAYER}.attention.attention.key.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/key/bias", f"{_LAYER}.attention.attention.key.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/value/kernel", f"{_LAYER}.attention.attention.value.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/value/bias", f"{_LAYER}.attention.attention.value.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/out/kernel", f"{_LAYER}.attention.output.dense.weight", "heads_out"),
    Name(f"{_BLOCK}/attention/out/bias", f"{_LAYER}.attention.output.dense.bias"),
    Name(f"{_BLOCK}/norm2/scale", f"{_LAYER}.layernorm_after.weight"),
    Name(f"{_BLOCK}/norm2/bias", f"{_LAYER}.layernorm_after.bias"),
    Name(f"{_BLOCK}/mlp/fc1/kernel", f"{_LAYER}.intermediate.dense.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc1/bias", f"{_LAYER}.intermediate.dense.bias"),
    Name(f"{_BLOCK}/mlp/fc2/kernel", f"{_LAYER}.output.dense.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc2/bias", f"{_LAYER}.output.dense.bias"),
    Name("encoder/norm/scale", "{prefix}layernorm.weight"),
    Name("encoder/norm/bias", "{prefix}layernorm.bias"),
    Name("encoder/pre_logits/kernel", "{prefix}pooler.dense.weight", "linear"),
    Name("encoder/pre_logits/bias", "{prefix}pooler.dense.bias"),
)
HEAD = (Name("head/kernel", "classifier.weight", "linear"), Name("head/bias", "classifier.bias"))
TEACHER_HEADS = (
    Name("head/kernel", "cls_classifier.weight", "linear"),
    Name("head/bias", "cls_classifier.bias"),
    Name("head_distillation/kernel", "distillation_classifier.weight", "linear"),
    Name("head_distillation/bias", "distillation_classifier.bias"),
)
HEADS = {
    "ViTModel": (),
    "ViTForImageClassification": HEAD,
    "DeiTModel": (),
    "DeiTForImageClassification": HEAD,
    "DeiTForImageClassificationWithTeacher": TEACHER_HEADS,
}
"""Architecture -> the names of its heads."""

# What a config.json leaves out has the value of transformers' ViTConfig, DeiTConfig and image processors.
_CONFIG = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "pooler_act": "tanh",
}
_PROCESSOR = {
    "vit": {"size": 224, "resample": 2, "do_center_crop": False},
    "deit": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
}
GELU = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}
"""hidden_act -> ours; the first of each kind is the one that is written."""
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers."""


def describe(files: Files) -> Description:
    """Reads config.json and preprocessor_config.json.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    config = _CONFIG | {key: value for key, value in files.config.items() if value is not None}
    family = config["model_type"]
    prefix = f"{family}." if any(name.startswith(f"{family}.") for name in files.tensors) else ""
    architecture = _architecture(files, family)
    has_pooler = architecture.endswith("Model") and f"{prefix}pooler.dense.weight" in files.tensors
    image_size = pair(config["image_size"], f"{files.name}: image_size")
    options = _options(files.name, config) | {"distillation_token": family == "deit"}
    if has_pooler:
        options["representation_size"] = files.tensors[f"{prefix}pooler.dense.weight"].shape[0]
        if config["pooler_act"] != "tanh":
            raise InputError(f"{files.name}: pooler_act {config['pooler_act']!r} is not supported; valid: tanh")
    patch = options["patch_size"]
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    task = None
    if HEADS[architecture]:
        several = config.get("problem_type") == "multi_label_classification"
        task = {"loss_type": "sigmoid"} if several else {}
        task |= {"distillation_head": True} if HEADS[architecture] is TEACHER_HEADS else {}
    return Description(
        model=plain_vit(options),
        task=task,
        class_names=class_names(files, HEADS[architecture]),
        preprocessing=preprocessing_of(files, _PROCESSOR[family], image_size, config["num_channels"]),
        names=expand(NAMES, config["num_hidden_layers"], prefix, grid) + list(HEADS[architecture]),
        antialias=False,
    )


def _options(name: str, config: dict[str, Any]) -> dict[str, Any]:
    if config["hidden_act"] not in GELU:
        raise InputError(f"{name}: hidden_act {config['hidden_act']!r} is not supported; valid: {', '.join(GELU)}")
    options = {
        "hidden_dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "mlp_dim": config["intermediate_size"],
        "num_heads": config["num_attention_heads"],
        "patch_size": pair(config["patch_size"], f"{name}: patch_size"),
        "gelu": GELU[config["hidden_act"]],
        "norm_eps": config["layer_norm_eps"],
        "qkv_bias": config["qkv_bias"],
    }
    rates = {"dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
    return options | {ours: config[theirs] for ours, theirs in rates.items() if config[theirs]}


def _architecture(files: Files, family: str) -> str:
    """The config's, or, if it names none, the one whose head the tensors have."""
    assert files.config is not None, files.name
    valid = [name for name in HEADS if _family(name) == family]
    named = files.config.get("architectures")
    if named:
        if named[0] not in valid:
            raise InputError(f"{files.name}: architecture {named[0]!r} is not supported; valid: {', '.join(valid)}")
        return named[0]
    return next((name for name in reversed(valid) if any(row.tensor in files.tensors for row in HEADS[name])), valid[0])


def _family(architecture: str) -> str:
    return "deit" if architecture.startswith("DeiT") else "vit"


def class_names(files: Files, head: tuple[Name, ...]) -> tuple[str, ...]:
    """The names in config.json, or transformers' own for numbers; as many as the head has, none without one.

    Args:
        files: the checkpoint.
        head: the rows of the head's parameters, its kernel first; empty without a head.
    """
    if not head:
        return ()
    assert files.config is not None, files.name
    labels = {int(number): str(label) for number, label in (files.config.get("id2label") or {}).items()}
    weight = files.tensors.get(head[0].tensor)
    count = len(labels) if weight is None else len(weight)
    if labels and sorted(labels) != list(range(count)):
        raise InputError(f"{files.name}: id2label has {len(labels)} names, but {head[0].tensor} has {count} classes")
    return tuple(labels.get(number, f"LABEL_{number}") for number in range(count))


def preprocessing_of(
    files: Files, processor: dict[str, Any], image_size: tuple[int, int], channels: int
) -> Preprocessing:
    """What the image processor does, with its last size the model's.

    Args:
        files: the checkpoint, with its preprocessor_config.json or without.
        processor: the default settings of the family's image processor, at 224 px.
        image_size: the model's height and width in pixels.
        channels: of the images.
    """
    given = {key: value for key, value in (files.preprocessor or {}).items() if value is not None}
    options = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    options |= processor
    if files.preprocessor is None:  # the processor's own sizes, in the model's proportion
        for key in {"size", "crop_size"} & options.keys():
            options[key] = {"height": 0, "width": 0} | {
                side: round(options[key] * length / 224)
                for side, length in zip(("height", "width"), image_size, strict=True)
            }
    options: dict[str, Any] = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels} | options | given
    resize, before = _resize(files.name, options["size"]) if options["do_resize"] else ("exact", None)
    if resize == "exact" and not options["do_center_crop"]:
        before = None
    elif before is not None:
        crop = (
            _resize(files.name, options.get("crop_size", options["size"]))[1] if options["do_center_crop"] else before
        )
        # The crop is the model's input; a processor for another size is scaled along.
        before = in_proportion(before, crop, image_size)
    mean, std = (np.resize(np.asarray(options[key], float), channels) for key in ("image_mean", "image_std"))
    if not options["do_normalize"]:
        mean, std = np.zeros(channels), np.ones(channels)
    # Ours divides by 255 first: (p f - mean) / std = (p / 255 - mean / 255 f) / (std / 255 f).
    scale = 255 * (options["rescale_factor"] if options["do_rescale"] else 1.0)
    scale = 1.0 if math.isclose(scale, 1.0) else scale
    resample = options["resample"]
    if resample not in range(len(RESAMPLE)):
        raise InputError(f"{files.name}: resample {resample!r} is not supported; valid: 0 to {len(RESAMPLE) - 1}")
    return Preprocessing(
        image_size=image_size,
        channels=channels,
        resize=resize,
        resize_to=before,
        interpolation=RESAMPLE[resample],
        mean=tuple(float(m) for m in mean / scale),
        std=tuple(float(s) for s in std / scale),
    )


def _resize(name: str, size: Any) -> tuple[str, tuple[int, int]]:
    """How a `size` of a processor resizes, and to which height and width."""
    if isinstance(size, dict) and "shortest_edge" in size and "longest_edge" not in size:
        return "shortest_edge", pair(size["shortest_edge"], f"{name}: size")
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return "exact", pair([size["height"], size["width"]], f"{name}: size")
    if isinstance(size, int | list | tuple):
        return "exact", pair(size, f"{name}: size")
    raise InputError(f"{name}: size {size!r} is not supported; valid: height and width, or shortest_edge")
