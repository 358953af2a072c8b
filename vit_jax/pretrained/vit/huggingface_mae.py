"""Checkpoints of Hugging Face transformers: ViTMAE, a ViT with the decoder that it was pretrained with.

The tables of positions, which transformers keeps as tensors that are not trained, are read as the encoder's learned
embedding and the decoder's table. `ViTMAEModel` is read as a bare ViT, without the masking that it does there.

Source: transformers' models/vit_mae/modeling_vit_mae.py and its configuration, and the tensors' names in the files that
it writes; He et al. 2021 (arXiv:2111.06377).
"""

import pathlib
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import huggingface_processors, mapping
from vit_jax.pretrained.description import Description, claimed_channels, claimed_depth, pair, plain_vit
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.vit import huggingface
from vit_jax.pretrained.vit.names import HUGGINGFACE
from vit_jax.pretrained.vit.positions import with_table

KINDS = ("vit_mae",)
TASKS = ("masked_autoencoder",)

_BLOCK, _LAYER = "decoder/block_{i}", "decoder.{prefix}.{i}"
DECODER = (
    Name("decoder/embed/kernel", "decoder.decoder_embed.weight", "linear"),
    Name("decoder/embed/bias", "decoder.decoder_embed.bias"),
    Name("decoder/mask_token", "decoder.mask_token"),
    Name("decoder/pos_embedding/prefix", "decoder.decoder_pos_embed", "prefix"),
    Name("decoder/pos_embedding/grid", "decoder.decoder_pos_embed", "grid"),
    *(
        Name(
            row.param.replace("encoder/block_{i}", _BLOCK),
            row.tensor.replace("{prefix}encoder.layer.{i}", _LAYER),
            row.layout,
        )
        for row in HUGGINGFACE
        if row.param.startswith("encoder/block_{i}")
    ),
    Name("decoder/norm/scale", "decoder.decoder_norm.weight"),
    Name("decoder/norm/bias", "decoder.decoder_norm.bias"),
    Name("decoder/prediction/kernel", "decoder.decoder_pred.weight", "linear"),
    Name("decoder/prediction/bias", "decoder.decoder_pred.bias"),
)
"""The decoder's rows; `{prefix}` is what its layers are called."""
_LAYERS = ("decoder_encoder.layer", "decoder_layers")
"""Names of the decoder's layers: transformers 5.24's, which are written, and those of the published files."""
ARCHITECTURES = ("ViTMAEModel", "ViTMAEForPreTraining")

_OPTIONS = {
    "decoder_dim": "decoder_hidden_size",
    "decoder_depth": "decoder_num_hidden_layers",
    "decoder_heads": "decoder_num_attention_heads",
    "decoder_mlp_dim": "decoder_intermediate_size",
    "mask_ratio": "mask_ratio",
    "normalise_pixels": "norm_pix_loss",
}
"""Option of the task -> key of config.json."""
_BOTH = ("gelu", "norm_eps")
"""Options of the encoder that the decoder shares."""
_CONFIG = huggingface.CONFIG | {
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
_SUPPORTED = {name: values for name, values in huggingface.SUPPORTED.items() if name != "pooling"}
_SUPPORTED |= {"representation_size": (None,), "distillation_token": (False,), "has_class_token": (True,)}


def describe(files: Files) -> Description:
    """Read config.json and preprocessor_config.json.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    config = _CONFIG | {key: value for key, value in files.config.items() if value is not None}
    named = (config.get("architectures") or [ARCHITECTURES["decoder.mask_token" in files.tensors]])[0]
    if named not in ARCHITECTURES:
        raise InputError(f"{files.name}: architecture {named!r} is not supported; valid: {', '.join(ARCHITECTURES)}")
    prefix = "vit." if any(name.startswith("vit.") for name in files.tensors) else ""
    image_size = pair(config["image_size"], f"{files.name}: image_size")
    options = huggingface.read_options(files, config, prefix)
    patch = options["patch_size"]
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    names, task = mapping.expand(HUGGINGFACE, options["depth"], prefix, grid), None
    if named == "ViTMAEForPreTraining":
        key, layers = "decoder_num_hidden_layers", _layers(files)
        names += mapping.expand(DECODER, claimed_depth(files, key, config[key], f"decoder.{layers}."), layers, grid)
        if not config["qkv_bias"]:
            raise InputError(f"{files.name}: qkv_bias false is not supported in the decoder; valid: true")
        both = {name: options[name] for name in _BOTH}
        decoder = {ours: config[theirs] for ours, theirs in _OPTIONS.items()}
        task = {"name": "masked_autoencoder", "options": decoder | both}
    return Description(
        model=plain_vit(options),
        preprocessing=huggingface_processors.read_preprocessing(
            files, "ViTImageProcessor", image_size, claimed_channels(files, config)
        ),
        names=names,
        task=task,
        antialias=False,
    )


def _layers(files: Files) -> str:
    """Tell what the decoder's layers are called in a file."""
    return next((name for name in _LAYERS if any(f".{name}." in tensor for tensor in files.tensors)), _LAYERS[0])


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    found = unsupported_settings("model", model.encoder, _SUPPORTED | {"qkv_bias": (True,)})
    found += unsupported_settings("task", model.task, {name: (getattr(model.encoder, name),) for name in _BOTH})
    for name, sides in (
        ("model.patch_size", model.encoder.patch_size),
        ("data.image_size", model.preprocessing.image_size),
    ):
        if sides[0] != sides[1]:
            found.append(Unsupported(name, sides, "a square"))
    if model.encoder.extent_of(model.preprocessing.image_size) != model.preprocessing.image_size:
        valid = f"a multiple of the patch of {model.encoder.patch_size[0]} px"
        found.append(Unsupported("data.image_size", model.preprocessing.image_size, valid))
    return found + huggingface_processors.unsupported_preprocessing(model.preprocessing)


warnings = huggingface_processors.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json, model.safetensors and preprocessor_config.json; gives the architecture's name."""
    model = with_table(model)
    task, architecture = model.task, ARCHITECTURES[1]
    rows = mapping.expand(HUGGINGFACE, model.encoder.depth, "vit.")
    rows += mapping.expand(DECODER, task.decoder_depth, _LAYERS[0])
    config: dict[str, Any] = {"architectures": [architecture], "model_type": "vit_mae"}
    config |= huggingface.encoder_config(model)
    config |= {theirs: getattr(task, ours) for ours, theirs in _OPTIONS.items()}
    files_.write_json(folder / "config.json", config)
    files_.write_json(folder / "preprocessor_config.json", huggingface_processors.write_processor(model.preprocessing))
    files_.write_safetensors(folder / files_.WEIGHTS, mapping.write(rows, model.params))
    return architecture
