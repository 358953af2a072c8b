"""Checkpoints of timm: `swin_*` and `swinv2_*`.

Source: timm 1.0's models/_hub.py, models/swin_transformer.py and models/swin_transformer_v2.py, and the tensors' names
in the files that it and the authors wrote.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.swin import Swin
from vit_jax.ops import windows as windows_
from vit_jax.ops.patches import patch_grid
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import mapping, timm_config
from vit_jax.pretrained.description import Description, block_count, mlp_ratio, pair, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.swin.names import BUFFERS, MASK_VALUE, block_names, model_info, table_grids, version_of
from vit_jax.pretrained.timm_config import ACT_LAYER, GELU

KINDS = ("swin_*", "swinv2_*")

OTHER_MODELS = re.compile(r"^swinv2_cr_")
WINDOWS = {"swin_s3_tiny_224": (7, 7, 14, 7), "swin_s3_small_224": (14, 14, 14, 7), "swin_s3_base_224": (7, 7, 14, 7)}
"""Each stage's window, of the architectures whose name does not tell it."""

_BLOCK = "layers.{s}.blocks.{i}"
_BLOCKS = (
    ("norm1/scale", "norm1.weight", "same"),
    ("norm1/bias", "norm1.bias", "same"),
    ("attention/query/kernel", "attn.qkv.weight", "heads_in"),
    ("attention/key/kernel", "attn.qkv.weight", "heads_in"),
    ("attention/value/kernel", "attn.qkv.weight", "heads_in"),
    ("attention/bias_table", "attn.relative_position_bias_table", "table"),
    ("attention/logit_scale", "attn.logit_scale", "column"),
    ("attention/offset_hidden", "attn.cpb_mlp.0.weight", "linear"),
    ("attention/offset_hidden_bias", "attn.cpb_mlp.0.bias", "same"),
    ("attention/offset_out", "attn.cpb_mlp.2.weight", "linear"),
    ("attention/out/kernel", "attn.proj.weight", "heads_out"),
    ("attention/out/bias", "attn.proj.bias", "same"),
    ("norm2/scale", "norm2.weight", "same"),
    ("norm2/bias", "norm2.bias", "same"),
    ("mlp/fc1/kernel", "mlp.fc1.weight", "linear"),
    ("mlp/fc1/bias", "mlp.fc1.bias", "same"),
    ("mlp/fc2/kernel", "mlp.fc2.weight", "linear"),
    ("mlp/fc2/bias", "mlp.fc2.bias", "same"),
)
"""Parameter and tensor within a block, and the layout."""
_BIASES = {
    1: dict.fromkeys(("query", "key", "value"), "attn.qkv.bias"),
    2: {"query": "attn.q_bias", "value": "attn.v_bias"},
}
"""Version -> the tensors that hold the biases of query, key and value."""

_FIXED = {"global_pool": "avg"}
_UNNEEDED = ("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init")
_READ = ("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depths", "num_heads", "head_dim")
_READ += ("window_size", "always_partition", "strict_img_size", "dynamic_img_size", "mlp_ratio", "qkv_bias")
_READ += ("act_layer", "norm_layer", "pretrained_window_sizes")
_VALID = {*_FIXED, *_UNNEEDED, *_READ}


def describe(files: Files) -> Description:
    """Read config.json and the tensors' shapes.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    config, tensors = files.config, files.tensors
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if value is not None}
    pretrained = config.get("pretrained_cfg") or config
    architecture = str(config["architecture"]).partition(".")[0]
    if OTHER_MODELS.search(architecture):
        raise InputError(f"{files.name}: architecture {architecture!r} is not supported; valid: swin_*, swinv2_*")
    _check_arguments(files.name, {**_pooling(config), **arguments})
    version = version_of(architecture)
    options = _sizes(files, version, arguments)
    channels = shape_of(files, "patch_embed.proj.weight", 4)[1]
    size = pretrained.get("input_size") or (channels, 224, 224)
    image_size = pair(arguments.get("img_size") or list(size)[1:], f"{files.name}: img_size")
    wanted = _window(files.name, architecture, arguments, len(options["depths"]))
    options |= _windows(image_size, options["patch_size"], wanted, arguments)
    if version == 1:
        _check_tables(files, options["window_size"])
    else:
        options["pretrained_window_size"] = _pretrained_windows(architecture, arguments, options["window_size"])
    at_end = "layers.0.downsample.reduction.weight" in tensors
    head = "head.fc" if "head.fc.weight" in tensors else "head"
    return Description(
        model=model_info(options),
        preprocessing=timm_config.read_preprocessing(files.name, pretrained, image_size, channels),
        names=names_of(options["depths"], options["window_size"], version, head=head, merging_at_end=at_end),
        **timm_config.read_head(files, head),
        buffers=BUFFERS,
    )


def names_of(
    depths: Sequence[int],
    windows: Sequence[tuple[int, int]],
    version: int,
    *,
    head: str = "head.fc",
    merging_at_end: bool = False,
) -> list[Name]:
    """Make the expanded table.

    Args:
        depths: blocks of each stage.
        windows: rows and columns of each stage's window.
        version: 1 or 2.
        head: what the head is called; `head` in the authors' files.
        merging_at_end: whether a merging belongs to the stage before it, as in the authors' files and timm's until 0.8,
            or to the one after it.
    """
    rows = [
        Name("encoder/patch_embed/kernel", "patch_embed.proj.weight", "conv"),
        Name("encoder/patch_embed/bias", "patch_embed.proj.bias"),
        Name("encoder/embed_norm/scale", "patch_embed.norm.weight"),
        Name("encoder/embed_norm/bias", "patch_embed.norm.bias"),
        Name("encoder/norm/scale", "norm.weight"),
        Name("encoder/norm/bias", "norm.bias"),
        Name("head/kernel", f"{head}.weight", "linear"),
        Name("head/bias", f"{head}.bias"),
    ]
    for parameter, tensor, layout in _BLOCKS:
        grids = table_grids(windows) if layout == "table" else None
        rows += block_names(depths, parameter, f"{_BLOCK}.{tensor}", layout, grids)
    for name, tensor in _BIASES[version].items():
        rows += block_names(depths, f"attention/{name}/bias", f"{_BLOCK}.{tensor}", "heads_bias")
    for stage in range(len(depths) - 1):
        ours = f"encoder/merge_{stage}"
        theirs = f"layers.{stage if merging_at_end else stage + 1}.downsample"
        rows.append(Name(f"{ours}/norm/scale", f"{theirs}.norm.weight"))
        rows.append(Name(f"{ours}/norm/bias", f"{theirs}.norm.bias"))
        rows.append(Name(f"{ours}/reduction/kernel", f"{theirs}.reduction.weight", "linear"))
    return rows


def _pooling(config: dict[str, Any]) -> dict[str, Any]:
    return {"global_pool": config["global_pool"]} if config.get("global_pool") else {}


def _check_arguments(name: str, arguments: dict[str, Any]) -> None:
    for key, value in arguments.items():
        if key not in _VALID:
            raise InputError(f"{name}: model_args.{key} is not supported; valid: {', '.join(sorted(_VALID))}")
        if key in _FIXED and value != _FIXED[key]:
            raise InputError(f"{name}: model_args.{key} {value!r} is not supported; valid: {_FIXED[key]!r}")
    if arguments.get("act_layer", "gelu") not in GELU:
        raise InputError(f"{name}: act_layer {arguments['act_layer']!r} is not supported; valid: {', '.join(GELU)}")
    if str(arguments.get("norm_layer", "layernorm")).lower() != "layernorm":
        raise InputError(f"{name}: norm_layer {arguments['norm_layer']!r} is not supported; valid: layernorm")


def _sizes(files: Files, version: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Read the options that show in the tensors' shapes, and in arguments that shapes do not show."""
    embed_dim, _, *patch = shape_of(files, "patch_embed.proj.weight", 4)
    stages = block_count(files, "layers.")
    depths = tuple(block_count(files, f"layers.{stage}.blocks.") for stage in range(stages))
    if not depths or 0 in depths:
        raise InputError(
            f"{files.name} has no blocks in layers.{len(depths) and depths.index(0)}, which its format has"
        )
    first = [_BLOCK.format(s=stage, i=0) for stage in range(stages)]
    table, axis = ("relative_position_bias_table", 1) if version == 1 else ("logit_scale", 0)
    num_heads = tuple(shape_of(files, f"{block}.attn.{table}", 2 if version == 1 else 3)[axis] for block in first)
    hidden = [shape_of(files, f"{block}.mlp.fc1.weight", 2)[0] for block in first]
    ratios = arguments.get("mlp_ratio", mlp_ratio(hidden[0], embed_dim))
    ratios = list(ratios) if isinstance(ratios, list | tuple) else [ratios] * stages
    dims = [embed_dim * 2**stage for stage in range(stages)]
    if len(set(ratios)) > 1 or [int(dim * ratio) for dim, ratio in zip(dims, ratios, strict=True)] != hidden:
        raise InputError(f"{files.name}: MLPs of {hidden} hidden units are not supported; valid: one mlp_ratio for all")
    inner = shape_of(files, f"{first[0]}.attn.qkv.weight", 2)[0] // 3
    return {
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": num_heads,
        "version": version,
        "patch_size": (patch[0], patch[1]),
        "head_dim": None if inner == embed_dim else inner // num_heads[0],
        "mlp_ratio": ratios[0],
        "qkv_bias": f"{first[0]}.{_BIASES[version]['query']}" in files.tensors,
        "gelu": GELU[arguments.get("act_layer", "gelu")],
        "norm_eps": 1e-5,
        "window_fit": "timm",
    }


def _window(name: str, architecture: str, arguments: dict[str, Any], stages: int) -> list[tuple[int, int]]:
    """Return the rows and columns of each stage's window, before it is fitted to the image."""
    window = arguments.get("window_size") or WINDOWS.get(architecture)
    if window is None:
        match = re.search(r"window(?:\d+to)?(\d+)", architecture)
        if match is None:
            raise InputError(f"{name}: neither architecture {architecture!r} nor model_args tells the window_size")
        window = int(match[1])
    if isinstance(window, int) or (len(window) == 2 and all(isinstance(side, int) for side in window)):
        window = [window] * stages  # timm takes two numbers for rows and columns, whatever the number of stages
    if len(window) != stages:
        raise InputError(
            f"{name}: window_size {window!r} is not supported; valid: one, or one for each of {stages} stages"
        )
    return [pair(each, f"{name}: window_size") for each in window]


def _windows(
    image_size: tuple[int, int], patch: tuple[int, int], wanted: list[tuple[int, int]], arguments: dict[str, Any]
) -> dict[str, Any]:
    """Return `window_size` and `shift_size`, fitted to the image that the model is made for, and to no other."""
    size = patch_grid(image_size, patch)
    whole = bool(arguments.get("always_partition"))
    fits = []
    for rows, columns in wanted:
        fits.append(windows_.fit(size, (rows, columns), (rows // 2, columns // 2), how="timm", fixed=whole))
        size = (-(-size[0] // 2), -(-size[1] // 2))
    fixed = whole or arguments.get("dynamic_img_size") or not arguments.get("strict_img_size", True)
    return {
        "window_size": tuple(fit.window for fit in fits),
        "shift_size": tuple(fit.shift for fit in fits) if fixed else None,
    }


def _check_tables(files: Files, windows: Sequence[tuple[int, int]]) -> None:
    for stage, (rows, columns) in enumerate(windows):
        tensor = f"{_BLOCK.format(s=stage, i=0)}.attn.relative_position_bias_table"
        length = files.tensors[tensor].shape[0]
        if length != math.prod(table_grids([(rows, columns)])[0]):
            raise InputError(
                f"{files.name}: {tensor} has {length} offsets, but the image size and window_size give windows of "
                f"{rows}x{columns}, which have {(2 * rows - 1) * (2 * columns - 1)}"
            )


def _pretrained_windows(
    architecture: str, arguments: dict[str, Any], windows: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], ...] | None:
    given = arguments.get("pretrained_window_sizes")
    if given is None and re.search(r"window12to\d", architecture):
        given = (12, 12, 12, 6)
    pairs = [tuple(side) if isinstance(side, list | tuple) else (side, side) for side in given or ()]
    if not any(map(any, pairs)):
        return None
    return tuple(before if all(before) else own for before, own in zip(pairs, windows, strict=False))


_SUPPORTED = {"posemb": ("none",), "norm_eps": (1e-5,), "embed_norm_eps": (1e-5,)}
_SUPPORTED_V1 = {"gelu": ("exact",), "mask_value": (MASK_VALUE[1],)}
_SUPPORTED_V2 = {"head_dim": (None,), "mask_value": (MASK_VALUE[1], MASK_VALUE[2])}

# model_args replace all that they choose.
_ARCHITECTURE = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    encoder, size = model.encoder, model.preprocessing.image_size
    found = unsupported_settings(
        "model", encoder, _SUPPORTED | (_SUPPORTED_V1 if encoder.version == 1 else _SUPPORTED_V2)
    )
    if _always_partition(encoder, size) is None:
        found.append(Unsupported("model.window_size", encoder.window_size, f"windows as timm places them at {size} px"))
    if encoder.window_fit != "timm" and encoder.extent_of(size) != size:
        found.append(Unsupported("data.image_size", size, f"multiples of {encoder.patch_size}"))
    if model.task is not None:
        found += unsupported_settings("task", model.task, {"loss_type": ("softmax",)})
    return found + timm_config.unsupported_preprocessing(model.preprocessing)


warnings = timm_config.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json and model.safetensors; gives the architecture's name."""
    encoder, size = model.encoder, model.preprocessing.image_size
    architecture = _ARCHITECTURE[encoder.version]
    config = timm_config.config(
        model,
        architecture,
        num_features=encoder.dims(len(encoder.depths) - 1),
        global_pool="avg",
        model_args=_model_args(model),
        fixed_input_size=True,
        classifier="head.fc",
    )
    windows = [placed.window for placed in encoder.fits(size)]
    rows = names_of(encoder.depths, windows, encoder.version)
    files_.write_json(folder / "config.json", config)
    files_.write_safetensors(folder / files_.WEIGHTS, mapping.write(rows, _cropped(model).params))
    return architecture


def _model_args(model: ExportModel) -> dict[str, Any]:
    encoder = model.encoder
    arguments: dict[str, Any] = {
        "img_size": list(model.preprocessing.image_size),
        "patch_size": encoder.patch_size[0] if len(set(encoder.patch_size)) == 1 else list(encoder.patch_size),
        "in_chans": model.preprocessing.channels,
        "embed_dim": encoder.embed_dim,
        "depths": list(encoder.depths),
        "num_heads": list(encoder.num_heads),
        "window_size": [list(window) for window in encoder.window_size],
        "always_partition": bool(_always_partition(encoder, model.preprocessing.image_size)),
        "strict_img_size": encoder.shift_size is None,  # if not, the windows stay as they are for images of any size
        "mlp_ratio": encoder.mlp_ratio,
        "qkv_bias": encoder.qkv_bias,
    }
    if encoder.version == 1:
        return arguments | {"head_dim": encoder.head_dim}
    before = encoder.pretrained_window_size or ((0, 0),) * len(encoder.depths)
    return arguments | {
        "act_layer": ACT_LAYER[encoder.gelu],
        "pretrained_window_sizes": [list(window) for window in before],
    }


def _always_partition(encoder: Swin, image_size: tuple[int, int]) -> bool | None:
    """Return the value of timm's option that places the windows as this model does; None if neither does."""
    halves = tuple((rows // 2, columns // 2) for rows, columns in encoder.window_size)
    for value, shift in ((False, None), (True, halves)):
        if encoder.clone(window_fit="timm", shift_size=shift).fits(image_size) == encoder.fits(image_size):
            return value
    return None


def _cropped(model: ExportModel) -> ExportModel:
    """Crop the bias tables to the offsets that occur, as timm has them where a window spans a map."""
    encoder, params = model.encoder, dict(model.params)
    fits = encoder.fits(model.preprocessing.image_size)
    stages = [stage for stage, depth in enumerate(encoder.depths) for _ in range(depth)]
    for path, table in model.params.items():
        if path.endswith("attention/bias_table"):
            stage = stages[encoder.layer_number(path.removeprefix("encoder/")) - 1]
            rows, columns = (
                slice(whole - used, whole + used - 1)
                for whole, used in zip(encoder.window_size[stage], fits[stage].window, strict=True)
            )
            params[path] = np.asarray(table)[rows, columns]
    return dataclasses.replace(model, params=params)
