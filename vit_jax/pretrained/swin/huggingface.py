"""Checkpoints of Hugging Face transformers: Swin and Swin V2.

Source: transformers' models/swin/modeling_swin.py and models/swinv2/modeling_swinv2.py, their configurations, and the
tensors' names in the files that they write.
"""

from collections.abc import Sequence
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained.description import Description, pair
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.swin.names import BUFFERS, block_names, model_info, table_grids, version_of
from vit_jax.pretrained.vit.huggingface import GELU, HEAD, class_names, preprocessing_of

MODEL_TYPES = {1: "swin", 2: "swinv2"}
"""Version -> model_type, which is also what the tensors of a model with a head begin with."""
ARCHITECTURES = {
    1: ("SwinModel", "SwinForImageClassification"),
    2: ("Swinv2Model", "Swinv2ForImageClassification"),
}
"""Version -> the models there are, without a head and with one."""
EMBED_NORM_EPS = 1e-5
"""Epsilon of the LayerNorms in the patch embedding and the mergings, which layer_norm_eps does not reach."""
MASK_VALUE = {1: -100.0, 2: -200.0}
"""What tells tokens apart that a shift brought together: V2's attention adds the mask of -100 twice."""

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
# Transformers has no processor of its own for them; these are the settings of the published checkpoints.
_PROCESSOR = {"size": 224, "resample": 3, "do_center_crop": False}
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


def describe(files: Files) -> Description:
    """Reads config.json and preprocessor_config.json.

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
    channels = config["num_channels"]
    options = _options(files.name, config, version, image_size)
    patch = options["patch_size"]
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    several = config.get("problem_type") == "multi_label_classification"
    return Description(
        model=model_info(options),
        task=({"loss_type": "sigmoid"} if several else {}) if head else None,
        class_names=class_names(files, head),
        preprocessing=preprocessing_of(files, _PROCESSOR | (_IMAGENET if channels == 3 else {}), image_size, channels),
        names=names_of(options["depths"], options["window_size"], prefix, grid) + list(head),
        antialias=False,
        buffers=BUFFERS,
    )


def names_of(
    depths: Sequence[int], windows: Sequence[tuple[int, int]], prefix: str, grid: tuple[int, int]
) -> list[Name]:
    """The expanded table, but for the head.

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
    """`window_size` and `shift_size` of V2, which go by the rows of the config's image size for images of any size.

    Args:
        window: config.json's.
        grid: rows and columns of patches of the config's image size.
        stages: how many.
    """
    rows = [grid[0] // 2**stage for stage in range(stages)]
    windows = [min(window, side) for side in rows]
    shifts = [0 if side <= window else window // 2 for side in rows]
    return {
        "window_size": tuple((side, side) for side in windows),
        "shift_size": tuple((side, side) for side in shifts),
    }


def _has_head(files: Files, version: int) -> bool:
    """Whether the architecture has one; where config.json names none, whether the tensors do."""
    assert files.config is not None, files.name
    named, valid = files.config.get("architectures"), ARCHITECTURES[version]
    if named and named[0] not in valid:
        raise InputError(f"{files.name}: architecture {named[0]!r} is not supported; valid: {', '.join(valid)}")
    return named[0] == valid[1] if named else HEAD[0].tensor in files.tensors
