"""Checkpoints of Hugging Face transformers: Swin and Swin V2.

Source: transformers' models/swin/modeling_swin.py and models/swinv2/modeling_swinv2.py, their configurations, and the
tensors' names in the files that they write.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.swin import Swin
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import huggingface_config, huggingface_processors, mapping
from vit_jax.pretrained.description import Description, claimed_channels, claimed_depth, pair
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.huggingface_config import GELU, HEAD, HIDDEN_ACT, side_or_sides
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.swin.names import BUFFERS, MASK_VALUE, block_names, model_info, table_grids, version_of

KINDS = ("swin", "swinv2")

MODEL_TYPES = {1: "swin", 2: "swinv2"}
"""Version -> model_type, which is also what the tensors of a model with a head begin with."""
ARCHITECTURES = {
    1: ("SwinModel", "SwinForImageClassification"),
    2: ("Swinv2Model", "Swinv2ForImageClassification"),
}
"""Version -> its models, without a head and with one."""
EMBED_NORM_EPS = 1e-5
"""Epsilon of the LayerNorms in the patch embedding and the mergings, which layer_norm_eps does not reach."""

_BLOCKS = (
    ("norm1/scale", "layernorm_before.weight", "same"),
    ("norm1/bias", "layernorm_before.bias", "same"),
    ("attention/query/kernel", "attention.self.query.weight", "heads_in"),
    ("attention/query/bias", "attention.self.query.bias", "heads_bias"),
    ("attention/key/kernel", "attention.self.key.weight", "heads_in"),
    ("attention/key/bias", "attention.self.key.bias", "heads_bias"),
    ("attention/value/kernel", "attention.self.value.weight", "heads_in"),
    ("attention/value/bias", "attention.self.value.bias", "heads_bias"),
    ("attention/bias_table", "attention.self.relative_position_bias_table", "table"),
    ("attention/logit_scale", "attention.self.logit_scale", "column"),
    ("attention/offset_hidden", "attention.self.continuous_position_bias_mlp.0.weight", "linear"),
    ("attention/offset_hidden_bias", "attention.self.continuous_position_bias_mlp.0.bias", "same"),
    ("attention/offset_out", "attention.self.continuous_position_bias_mlp.2.weight", "linear"),
    ("attention/out/kernel", "attention.output.dense.weight", "heads_out"),
    ("attention/out/bias", "attention.output.dense.bias", "same"),
    ("norm2/scale", "layernorm_after.weight", "same"),
    ("norm2/bias", "layernorm_after.bias", "same"),
    ("mlp/fc1/kernel", "intermediate.dense.weight", "linear"),
    ("mlp/fc1/bias", "intermediate.dense.bias", "same"),
    ("mlp/fc2/kernel", "output.dense.weight", "linear"),
    ("mlp/fc2/bias", "output.dense.bias", "same"),
)
"""Parameter and tensor within a block, and the layout."""

# What a config.json leaves out has the value of transformers' SwinConfig and Swinv2Config.
_CONFIG = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": 7,
    "pretrained_window_sizes": (),
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.1,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
# Those of the published checkpoints; transformers has no processor of its own for them, and takes ViT's.
_PUBLISHED = {"resample": 3}
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


def describe(files: Files) -> Description:
    """Read config.json and preprocessor_config.json.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    config = _CONFIG | {key: value for key, value in files.config.items() if value is not None}
    version = version_of(config["model_type"])
    start = f"{MODEL_TYPES[version]}."
    prefix = start if any(name.startswith(start) for name in files.tensors) else ""
    head = HEAD if _has_head(files, version) else ()
    image_size = pair(config["image_size"], f"{files.name}: image_size")
    channels = claimed_channels(files, config)
    options = _options(files.name, config, version, image_size)
    for stage, depth in enumerate(options["depths"]):
        claimed_depth(files, "depths", depth, f"{prefix}encoder.layers.{stage}.blocks.")
    patch = options["patch_size"]
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    published = _PUBLISHED | (_IMAGENET if channels == 3 else {})
    return Description(
        model=model_info(options),
        preprocessing=huggingface_processors.read_preprocessing(
            files, "ViTImageProcessor", image_size, channels, without_file=published
        ),
        names=names_of(options["depths"], options["window_size"], prefix, grid) + list(head),
        **huggingface_config.read_head(files, head),
        antialias=False,
        buffers=BUFFERS,
    )


def names_of(
    depths: Sequence[int], windows: Sequence[tuple[int, int]], prefix: str, grid: tuple[int, int]
) -> list[Name]:
    """Make the expanded table, but for the head.

    Args:
        depths: blocks of each stage.
        windows: rows and columns of each stage's window.
        prefix: what tensors begin with where there is a head.
        grid: rows and columns of patches.
    """
    rows = [
        Name("encoder/patch_embed/kernel", f"{prefix}embeddings.patch_embeddings.projection.weight", "conv"),
        Name("encoder/patch_embed/bias", f"{prefix}embeddings.patch_embeddings.projection.bias"),
        Name("encoder/embed_norm/scale", f"{prefix}embeddings.norm.weight"),
        Name("encoder/embed_norm/bias", f"{prefix}embeddings.norm.bias"),
        Name("encoder/pos_embedding/grid", f"{prefix}embeddings.position_embeddings", "grid", grid),
        Name("encoder/norm/scale", f"{prefix}layernorm.weight"),
        Name("encoder/norm/bias", f"{prefix}layernorm.bias"),
    ]
    for parameter, tensor, layout in _BLOCKS:
        full = f"{prefix}encoder.layers.{{s}}.blocks.{{i}}.{tensor}"
        rows += block_names(depths, parameter, full, layout, table_grids(windows) if layout == "table" else None)
    for stage in range(len(depths) - 1):
        ours, theirs = f"encoder/merge_{stage}", f"{prefix}encoder.layers.{stage}.downsample"
        rows.append(Name(f"{ours}/norm/scale", f"{theirs}.norm.weight"))
        rows.append(Name(f"{ours}/norm/bias", f"{theirs}.norm.bias"))
        rows.append(Name(f"{ours}/reduction/kernel", f"{theirs}.reduction.weight", "linear"))
    return rows


def _options(name: str, config: dict[str, Any], version: int, image_size: tuple[int, int]) -> dict[str, Any]:
    if config["hidden_act"] not in GELU:
        raise InputError(f"{name}: hidden_act {config['hidden_act']!r} is not supported; valid: {', '.join(GELU)}")
    if version == 2 and config["use_absolute_embeddings"]:
        # Theirs has a position more than there are patches, so that transformers itself cannot run it.
        raise InputError(f"{name}: use_absolute_embeddings is not supported in swinv2; valid: false")
    stages = len(config["depths"])
    options = {
        "embed_dim": config["embed_dim"],
        "depths": tuple(config["depths"]),
        "num_heads": tuple(config["num_heads"]),
        "version": version,
        "patch_size": pair(config["patch_size"], f"{name}: patch_size"),
        "mlp_ratio": config["mlp_ratio"],
        "posemb": "learned" if config["use_absolute_embeddings"] else "none",
        "qkv_bias": config["qkv_bias"],
        "gelu": GELU[config["hidden_act"]],
        "norm_eps": config["layer_norm_eps"],
        "embed_norm_eps": EMBED_NORM_EPS,
        "mask_value": MASK_VALUE[version],
    }
    window, columns = pair(config["window_size"], f"{name}: window_size")
    if window != columns:
        raise InputError(f"{name}: window_size {config['window_size']!r} is not supported; valid: one number")
    if version == 1:
        options["window_size"] = ((window, window),) * stages
    else:
        grid = image_size[0] // options["patch_size"][0], image_size[1] // options["patch_size"][1]
        options |= fixed_windows(window, grid, stages)
        pretrained = tuple(config["pretrained_window_sizes"])[:stages]
        options["pretrained_window_size"] = None
        if any(pretrained):
            pairs = zip(pretrained, options["window_size"], strict=True)
            options["pretrained_window_size"] = tuple((side, side) if side else own for side, own in pairs)
    rates = {
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "drop_path": "drop_path_rate",
    }
    return options | {ours: config[theirs] for ours, theirs in rates.items() if config[theirs]}


def fixed_windows(window: int, grid: tuple[int, int], stages: int) -> dict[str, Any]:
    """Return V2's `window_size` and `shift_size`, which go by the rows of the config's image size for any image.

    Args:
        window: config.json's.
        grid: rows and columns of patches of the config's image size.
        stages: number of stages.
    """
    rows = [grid[0] // 2**stage for stage in range(stages)]
    windows = [min(window, side) for side in rows]
    shifts = [0 if side <= window else window // 2 for side in rows]
    return {
        "window_size": tuple((side, side) for side in windows),
        "shift_size": tuple((side, side) for side in shifts),
    }


def _has_head(files: Files, version: int) -> bool:
    """Tell whether the architecture has a head; where config.json names none, whether the tensors have one."""
    assert files.config is not None, files.name
    named, valid = files.config.get("architectures"), ARCHITECTURES[version]
    if named and named[0] not in valid:
        raise InputError(f"{files.name}: architecture {named[0]!r} is not supported; valid: {', '.join(valid)}")
    return named[0] == valid[1] if named else HEAD[0].tensor in files.tensors


_SUPPORTED = {"head_dim": (None,), "embed_norm_eps": (EMBED_NORM_EPS,)}
_SUPPORTED_V1 = {"mask_value": (MASK_VALUE[1],)}
# Its -200 and our -100 differ by less than float32 resolves, unless a cosine's factor has grown to dozens.
_SUPPORTED_V2 = {"mask_value": (MASK_VALUE[2], MASK_VALUE[1]), "posemb": ("none",)}


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    encoder = model.encoder
    found = unsupported_settings(
        "model", encoder, _SUPPORTED | (_SUPPORTED_V1 if encoder.version == 1 else _SUPPORTED_V2)
    )
    size = model.preprocessing.image_size
    if encoder.fits(size) != _as_there(encoder, size).fits(size):
        found.append(
            Unsupported("model.window_size", encoder.window_size, f"windows as transformers places them at {size} px")
        )
    if encoder.window_fit == "timm" and encoder.extent_of(size) != size:
        found.append(Unsupported("data.image_size", size, f"multiples of {encoder.patch_size}"))
    for name in ("window_size", "pretrained_window_size"):
        windows = getattr(encoder, name) or ()
        same = encoder.version == 2 or len(set(windows)) == 1
        if any(rows != columns for rows, columns in windows) or (windows and not same):
            found.append(Unsupported(f"model.{name}", windows, "square windows, in V1 the same in all stages"))
    return found + huggingface_processors.unsupported_preprocessing(model.preprocessing)


warnings = huggingface_processors.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json, model.safetensors and preprocessor_config.json; gives the architecture's name."""
    encoder = model.encoder
    has_head = model.task is not None
    architecture = ARCHITECTURES[encoder.version][int(has_head)]
    prefix = f"{MODEL_TYPES[encoder.version]}." if has_head else ""
    rows = names_of(encoder.depths, encoder.window_size, prefix, (0, 0)) + list(HEAD)
    kind = {"architectures": [architecture], "model_type": MODEL_TYPES[encoder.version]}
    files_.write_json(folder / "config.json", kind | _config(model))
    files_.write_json(folder / "preprocessor_config.json", huggingface_processors.write_processor(model.preprocessing))
    files_.write_safetensors(folder / files_.WEIGHTS, mapping.write(rows, model.params))
    return architecture


def _config(model: ExportModel) -> dict[str, Any]:
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
    return config | huggingface_config.head_config(model)


def _window(encoder: Swin) -> int:
    return max(rows for rows, _ in encoder.window_size)


def _as_there(encoder: Swin, image_size: tuple[int, int]) -> Swin:
    """Return the model with its windows as transformers would place them."""
    if encoder.version == 1:
        return encoder.clone(window_fit="authors", shift_size=None)
    grid = (image_size[0] // encoder.patch_size[0], image_size[1] // encoder.patch_size[1])
    return encoder.clone(window_fit="authors", **fixed_windows(_window(encoder), grid, len(encoder.depths)))
