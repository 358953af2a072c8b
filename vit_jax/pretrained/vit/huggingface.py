"""Checkpoints of Hugging Face transformers: ViT and DeiT.

DeiT is read as a ViT with its options.

Source: transformers' models/vit/modeling_vit.py and models/deit/modeling_deit.py, and the tensors' names in the
files that they write.
"""

import pathlib
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import huggingface_config, huggingface_processors, mapping
from vit_jax.pretrained.description import Description, claimed_channels, claimed_depth, pair, plain_vit, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.huggingface_config import GELU, HEAD
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.vit.names import HUGGINGFACE
from vit_jax.pretrained.vit.positions import with_table

KINDS = ("vit", "deit")

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

# What a config.json leaves out has the value of transformers' ViTConfig, DeiTConfig.
CONFIG = {
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
_PROCESSOR = {"vit": "ViTImageProcessor", "deit": "DeiTImageProcessor"}


def describe(files: Files) -> Description:
    """Read config.json and preprocessor_config.json.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    config = CONFIG | {key: value for key, value in files.config.items() if value is not None}
    family = config["model_type"]
    prefix = f"{family}." if any(name.startswith(f"{family}.") for name in files.tensors) else ""
    architecture = _architecture(files, family)
    has_pooler = architecture.endswith("Model") and f"{prefix}pooler.dense.weight" in files.tensors
    image_size = pair(config["image_size"], f"{files.name}: image_size")
    options = read_options(files, config, prefix) | {"distillation_token": family == "deit"}
    if has_pooler:
        options["representation_size"] = shape_of(files, f"{prefix}pooler.dense.weight", 2)[0]
        if config["pooler_act"] != "tanh":
            raise InputError(f"{files.name}: pooler_act {config['pooler_act']!r} is not supported; valid: tanh")
    patch = options["patch_size"]
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    two_heads = {"distillation_head": True} if HEADS[architecture] is TEACHER_HEADS else {}
    return Description(
        model=plain_vit(options),
        preprocessing=huggingface_processors.read_preprocessing(
            files, _PROCESSOR[family], image_size, claimed_channels(files, config)
        ),
        names=mapping.expand(HUGGINGFACE, options["depth"], prefix, grid) + list(HEADS[architecture]),
        **huggingface_config.read_head(files, HEADS[architecture], **two_heads),
        antialias=False,
    )


def read_options(files: Files, config: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Read the fields of `ViT` that the configurations of ViT, DeiT and ViTMAE share.

    Args:
        files: the checkpoint.
        config: of config.json, with a value for every key.
        prefix: what the encoder's tensors begin with.

    Raises:
        InputError: an activation that is not supported, or more blocks than there are tensors of.
    """
    name = files.name
    if config["hidden_act"] not in GELU:
        raise InputError(f"{name}: hidden_act {config['hidden_act']!r} is not supported; valid: {', '.join(GELU)}")
    options = {
        "hidden_dim": config["hidden_size"],
        "depth": claimed_depth(files, "num_hidden_layers", config["num_hidden_layers"], f"{prefix}encoder.layer."),
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
    """Return the architecture in config.json, or if it names none the one whose head the tensors have."""
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


SUPPORTED = {
    "pooling": ("token",),
    "register_tokens": (0,),
    "pre_norm": (False,),
    "final_norm": ("tokens",),
    "layer_scale": (None,),
    "patch_bias": (True,),
    "qk_norm": (False,),
}
"""Options of `ViT` -> the values that transformers' ViT has."""


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    encoder = model.encoder
    found = unsupported_settings("model", encoder, SUPPORTED)
    if model.task is not None and encoder.representation_size is not None:
        found.append(
            Unsupported("model.representation_size", encoder.representation_size, "None, where there is a head")
        )
    return found + huggingface_processors.unsupported_preprocessing(model.preprocessing)


warnings = huggingface_processors.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json, model.safetensors and preprocessor_config.json; gives the architecture's name."""
    model = with_table(model)
    architecture = _architecture_of(model)
    family = "deit" if model.encoder.distillation_token else "vit"
    prefix = f"{family}." if HEADS[architecture] else ""
    rows = mapping.expand(HUGGINGFACE, model.encoder.depth, prefix) + list(HEADS[architecture])
    config = {"architectures": [architecture], "model_type": family, **encoder_config(model)}
    files_.write_json(folder / "config.json", config | huggingface_config.head_config(model))
    files_.write_json(folder / "preprocessor_config.json", huggingface_processors.write_processor(model.preprocessing))
    files_.write_safetensors(folder / files_.WEIGHTS, mapping.write(rows, model.params))
    return architecture


def _architecture_of(model: ExportModel) -> str:
    family = "DeiT" if model.encoder.distillation_token else "ViT"
    if model.task is None:
        return f"{family}Model"
    return f"{family}ForImageClassification{'WithTeacher' if model.task.distillation_head else ''}"


def encoder_config(model: ExportModel) -> dict[str, Any]:
    """Return what config.json says of the encoder and its images."""
    encoder = model.encoder
    config: dict[str, Any] = {
        "hidden_size": encoder.hidden_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": encoder.mlp_dim,
        "hidden_act": huggingface_config.HIDDEN_ACT[encoder.gelu],
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "layer_norm_eps": encoder.norm_eps,
        "image_size": huggingface_config.side_or_sides(model.preprocessing.image_size),
        "patch_size": huggingface_config.side_or_sides(encoder.patch_size),
        "num_channels": model.preprocessing.channels,
        "qkv_bias": encoder.qkv_bias,
        "dtype": "float32",
    }
    if encoder.representation_size is not None:
        config |= {"pooler_output_size": encoder.representation_size, "pooler_act": "tanh"}
    return config
