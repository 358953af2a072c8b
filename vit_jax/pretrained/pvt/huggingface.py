"""Checkpoints of Hugging Face transformers: PVT and PVT v2.

Source: transformers' models/pvt/modeling_pvt.py and models/pvt_v2/modeling_pvt_v2.py, their configurations, and the
tensors' names in the files that they write.
"""

import pathlib
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import huggingface_config, huggingface_processors, mapping
from vit_jax.pretrained.description import Description, claimed_channels, claimed_depth, pair
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.huggingface_config import GELU, HEAD
from vit_jax.pretrained.mapping import Grid, Name
from vit_jax.pretrained.pvt.names import expand_stages, pvt

KINDS = ("pvt", "pvt_v2")

_BLOCK = "encoder/block_{i}"
_PATCHES_1, _LAYER_1 = "{prefix}encoder.patch_embeddings.{s}", "{prefix}encoder.block.{s}.{j}"
NAMES_1 = (
    Name("encoder/class_token", "{prefix}encoder.patch_embeddings.{last}.cls_token"),
    Name("encoder/{patch_embed}/kernel", f"{_PATCHES_1}.projection.weight", "conv"),
    Name("encoder/{patch_embed}/bias", f"{_PATCHES_1}.projection.bias"),
    Name("encoder/patch_norm_{s}/scale", f"{_PATCHES_1}.layer_norm.weight"),
    Name("encoder/patch_norm_{s}/bias", f"{_PATCHES_1}.layer_norm.bias"),
    Name("encoder/pos_embedding_{s}/prefix", f"{_PATCHES_1}.position_embeddings", "prefix"),
    Name("encoder/pos_embedding_{s}/grid", f"{_PATCHES_1}.position_embeddings", "grid"),
    Name(f"{_BLOCK}/norm1/scale", f"{_LAYER_1}.layer_norm_1.weight"),
    Name(f"{_BLOCK}/norm1/bias", f"{_LAYER_1}.layer_norm_1.bias"),
    Name(f"{_BLOCK}/reduction/conv/kernel", f"{_LAYER_1}.attention.self.sequence_reduction.weight", "conv"),
    Name(f"{_BLOCK}/reduction/conv/bias", f"{_LAYER_1}.attention.self.sequence_reduction.bias"),
    Name(f"{_BLOCK}/reduction/norm/scale", f"{_LAYER_1}.attention.self.layer_norm.weight"),
    Name(f"{_BLOCK}/reduction/norm/bias", f"{_LAYER_1}.attention.self.layer_norm.bias"),
    Name(f"{_BLOCK}/attention/query/kernel", f"{_LAYER_1}.attention.self.query.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/query/bias", f"{_LAYER_1}.attention.self.query.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/key/kernel", f"{_LAYER_1}.attention.self.key.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/key/bias", f"{_LAYER_1}.attention.self.key.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/value/kernel", f"{_LAYER_1}.attention.self.value.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/value/bias", f"{_LAYER_1}.attention.self.value.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/out/kernel", f"{_LAYER_1}.attention.output.dense.weight", "heads_out"),
    Name(f"{_BLOCK}/attention/out/bias", f"{_LAYER_1}.attention.output.dense.bias"),
    Name(f"{_BLOCK}/norm2/scale", f"{_LAYER_1}.layer_norm_2.weight"),
    Name(f"{_BLOCK}/norm2/bias", f"{_LAYER_1}.layer_norm_2.bias"),
    Name(f"{_BLOCK}/mlp/fc1/kernel", f"{_LAYER_1}.mlp.dense1.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc1/bias", f"{_LAYER_1}.mlp.dense1.bias"),
    Name(f"{_BLOCK}/mlp/fc2/kernel", f"{_LAYER_1}.mlp.dense2.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc2/bias", f"{_LAYER_1}.mlp.dense2.bias"),
    Name("encoder/norm/scale", "{prefix}encoder.layer_norm.weight"),
    Name("encoder/norm/bias", "{prefix}encoder.layer_norm.bias"),
)
_STAGE = "{prefix}encoder.layers.{s}"
_LAYER_2 = f"{_STAGE}.blocks.{{j}}"
NAMES_2 = (
    Name("encoder/{patch_embed}/kernel", f"{_STAGE}.patch_embedding.proj.weight", "conv"),
    Name("encoder/{patch_embed}/bias", f"{_STAGE}.patch_embedding.proj.bias"),
    Name("encoder/patch_norm_{s}/scale", f"{_STAGE}.patch_embedding.layer_norm.weight"),
    Name("encoder/patch_norm_{s}/bias", f"{_STAGE}.patch_embedding.layer_norm.bias"),
    Name(f"{_BLOCK}/norm1/scale", f"{_LAYER_2}.layer_norm_1.weight"),
    Name(f"{_BLOCK}/norm1/bias", f"{_LAYER_2}.layer_norm_1.bias"),
    Name(f"{_BLOCK}/reduction/conv/kernel", f"{_LAYER_2}.attention.spatial_reduction.weight", "conv"),
    Name(f"{_BLOCK}/reduction/conv/bias", f"{_LAYER_2}.attention.spatial_reduction.bias"),
    Name(f"{_BLOCK}/reduction/norm/scale", f"{_LAYER_2}.attention.layer_norm.weight"),
    Name(f"{_BLOCK}/reduction/norm/bias", f"{_LAYER_2}.attention.layer_norm.bias"),
    Name(f"{_BLOCK}/attention/query/kernel", f"{_LAYER_2}.attention.query.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/query/bias", f"{_LAYER_2}.attention.query.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/key/kernel", f"{_LAYER_2}.attention.key.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/key/bias", f"{_LAYER_2}.attention.key.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/value/kernel", f"{_LAYER_2}.attention.value.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/value/bias", f"{_LAYER_2}.attention.value.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/out/kernel", f"{_LAYER_2}.attention.proj.weight", "heads_out"),
    Name(f"{_BLOCK}/attention/out/bias", f"{_LAYER_2}.attention.proj.bias"),
    Name(f"{_BLOCK}/norm2/scale", f"{_LAYER_2}.layer_norm_2.weight"),
    Name(f"{_BLOCK}/norm2/bias", f"{_LAYER_2}.layer_norm_2.bias"),
    Name(f"{_BLOCK}/mlp/fc1/kernel", f"{_LAYER_2}.mlp.dense1.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc1/bias", f"{_LAYER_2}.mlp.dense1.bias"),
    Name(f"{_BLOCK}/mlp/dwconv/kernel", f"{_LAYER_2}.mlp.dwconv.dwconv.weight", "conv"),
    Name(f"{_BLOCK}/mlp/dwconv/bias", f"{_LAYER_2}.mlp.dwconv.dwconv.bias"),
    Name(f"{_BLOCK}/mlp/fc2/kernel", f"{_LAYER_2}.mlp.dense2.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc2/bias", f"{_LAYER_2}.mlp.dense2.bias"),
    Name("encoder/{norm}/scale", f"{_STAGE}.layer_norm.weight"),
    Name("encoder/{norm}/bias", f"{_STAGE}.layer_norm.bias"),
)
NAMES = {1: NAMES_1, 2: NAMES_2}
"""By version of PVT."""
ARCHITECTURES = {
    "pvt": ("PvtModel", "PvtForImageClassification"),
    "pvt_v2": ("PvtV2Model", "PvtV2Backbone", "PvtV2ForImageClassification"),
}
"""model_type -> its models; the last has a head."""
_ACTIVATION = GELU | {"relu": "relu", "silu": "silu", "swish": "silu"}
"""hidden_act -> ours; the first of each kind is the one that is written."""

# What a config.json leaves out has the value of transformers' PvtConfig or PvtV2Config.
_CONFIG = {
    "image_size": 224,
    "num_channels": 3,
    "num_encoder_blocks": 4,
    "depths": [2, 2, 2, 2],
    "num_attention_heads": [1, 2, 5, 8],
    "mlp_ratios": [8, 8, 4, 4],
    "strides": [4, 2, 2, 2],
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
}
_CONFIG_1 = {
    "hidden_sizes": [64, 128, 320, 512],
    "sequence_reduction_ratios": [8, 4, 2, 1],
    "patch_sizes": [4, 2, 2, 2],
}
_CONFIG_2 = {
    "hidden_sizes": [32, 64, 160, 256],
    "sr_ratios": [8, 4, 2, 1],
    "patch_sizes": [7, 3, 3, 3],
    "linear_attention": False,
}


def describe(files: Files) -> Description:
    """Read config.json and preprocessor_config.json.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    given = {key: value for key, value in files.config.items() if value is not None}
    model_type = given["model_type"]
    config: dict[str, Any] = _CONFIG | (_CONFIG_1 if model_type == "pvt" else _CONFIG_2) | given
    prefix = f"{model_type}." if any(name.startswith(f"{model_type}.") for name in files.tensors) else ""
    options = _options(files.name, config)
    blocks = "{}encoder.block.{}." if model_type == "pvt" else "{}encoder.layers.{}.blocks."
    for stage, depth in enumerate(options["depths"]):
        claimed_depth(files, "depths", depth, blocks.format(prefix, stage))
    image_size = pair(config["image_size"], f"{files.name}: image_size")
    head = HEAD if _has_head(files, model_type) else ()
    grids = position_grids(image_size, options["strides"])
    return Description(
        model=pvt(options),
        preprocessing=huggingface_processors.read_preprocessing(
            files, "PvtImageProcessor", image_size, claimed_channels(files, config)
        ),
        names=[*expand_stages(NAMES[options["version"]], options["depths"], prefix, grids), *head],
        **huggingface_config.read_head(files, head),
        antialias=False,
    )


def position_grids(image_size: tuple[int, int], strides: tuple[int, ...]) -> list[Grid]:
    """Return the grid of each stage's position embedding in `PvtModel`, which takes its sides from the image's.

    Stage i has those of an image 1 / 2^(i + 1) as high and wide, but for the first, divided by its stride.
    """
    grids = []
    for i, stride in enumerate(strides):
        rows, columns = (side // (2 ** (i + 1) if i else 1) // stride for side in image_size)
        grids.append((rows, columns))
    return grids


def _options(name: str, config: dict[str, Any]) -> dict[str, Any]:
    if config["hidden_act"] not in _ACTIVATION:
        raise InputError(
            f"{name}: hidden_act {config['hidden_act']!r} is not supported; valid: {', '.join(_ACTIVATION)}"
        )
    version = 1 if config["model_type"] == "pvt" else 2
    stages = config["num_encoder_blocks"]

    def by_stage(key: str) -> tuple:
        values = config[key]
        if not isinstance(values, list | tuple) or len(values) < stages:
            raise InputError(f"{name}: {key} is {values!r}; valid: a list with a value for each of {stages} stages")
        return tuple(values[:stages])

    patch_sizes, strides = by_stage("patch_sizes"), by_stage("strides")
    if version == 1:  # where transformers takes each for the other
        patch_sizes, strides = strides, patch_sizes
    return {
        "version": version,
        "hidden_dims": by_stage("hidden_sizes"),
        "depths": by_stage("depths"),
        "num_heads": by_stage("num_attention_heads"),
        "mlp_ratios": by_stage("mlp_ratios"),
        "reductions": by_stage("sequence_reduction_ratios" if version == 1 else "sr_ratios"),
        "patch_sizes": patch_sizes,
        "strides": strides,
        "linear_attention": bool(config.get("linear_attention", False)),
        "activation": _ACTIVATION[config["hidden_act"]],
        "norm_eps": config["layer_norm_eps"],
        "embed_norm_eps": config["layer_norm_eps"],
        "qkv_bias": config["qkv_bias"],
        "dropout": config["hidden_dropout_prob"],
        "attention_dropout": config["attention_probs_dropout_prob"],
        "drop_path": config["drop_path_rate"],
    }


def _has_head(files: Files, model_type: str) -> bool:
    """Tell whether the architecture has a head; where config.json names none, whether the tensors have one."""
    assert files.config is not None, files.name
    named, valid = files.config.get("architectures"), ARCHITECTURES[model_type]
    if named and named[0] not in valid:
        raise InputError(f"{files.name}: architecture {named[0]!r} is not supported; valid: {', '.join(valid)}")
    has_tensor = HEAD[0].tensor in files.tensors
    if has_tensor or not named:
        return has_tensor
    no_classes = files.config.get("num_labels") == 0 or files.config.get("id2label") == {}
    return named[0] == valid[-1] and not no_classes


_HIDDEN_ACT = {ours: theirs for theirs, ours in reversed(_ACTIVATION.items())}


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    encoder, size = model.encoder, model.preprocessing.image_size
    found = unsupported_settings("model", encoder, {"embed_norm_eps": (encoder.norm_eps,)})
    if any(ratio != int(ratio) for ratio in encoder.mlp_ratios):
        found.append(Unsupported("model.mlp_ratios", encoder.mlp_ratios, "whole numbers"))
    if encoder.version == 1:
        if size[0] != size[1]:
            found.append(Unsupported("data.image_size", size, "a square"))
        elif encoder.grids(size) != position_grids(size, encoder.strides):
            valid = f"what makes maps of {position_grids(size, encoder.strides)}"
            found.append(Unsupported("model.strides", encoder.strides, valid))
    return found + huggingface_processors.unsupported_preprocessing(model.preprocessing)


warnings = huggingface_processors.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json, model.safetensors and preprocessor_config.json; gives the architecture's name."""
    encoder, has_head = model.encoder, model.task is not None
    family = "pvt" if encoder.version == 1 else "pvt_v2"
    architecture = ARCHITECTURES[family][-1 if has_head else 0]
    rows = expand_stages(NAMES[encoder.version], encoder.depths, f"{family}." if has_head else "")
    config = {"architectures": [architecture], "model_type": family} | _config(model)
    files_.write_json(folder / "config.json", config)
    files_.write_json(folder / "preprocessor_config.json", huggingface_processors.write_processor(model.preprocessing))
    files_.write_safetensors(folder / files_.WEIGHTS, mapping.write([*rows, *(HEAD if has_head else ())], model.params))
    return architecture


def _config(model: ExportModel) -> dict[str, Any]:
    encoder, is_first = model.encoder, model.encoder.version == 1
    config: dict[str, Any] = {
        "image_size": huggingface_config.side_or_sides(model.preprocessing.image_size),
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
    return config | huggingface_config.head_config(model)
