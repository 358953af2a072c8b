"""Checkpoints of timm: `vit_*` and `deit*`, as its `save_for_hf` and the hub's `timm/...` hold them.

Their config.json names an architecture and, on the hub, little else: most of the geometry is in the tensors'
shapes, and what is not (heads, GELU, LayerNorm's epsilon) follows from the architecture's name.

Source: timm 1.0's models/_hub.py, models/vision_transformer.py and models/deit.py.
"""

import pathlib
import re
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import mapping, timm_config
from vit_jax.pretrained.description import Description, block_count, claimed_depth, mlp_ratio, pair, plain_vit, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.timm_config import ACT_LAYER, GELU
from vit_jax.pretrained.vit.names import TIMM
from vit_jax.pretrained.vit.positions import with_table

KINDS = ("vit_*", "deit*")


OTHER_MODELS = re.compile(
    r"rpn|_xp_|18x2|relpos|rope|dinov3|sapiens|lingbot|_pe_|_r\d+_|_r_s16|resnet|_mci_|d?pwee|radio|naflex"
)
"""What in a name says that the model is built otherwise than this library's; some of it no tensor's name tells."""

DEFAULTS = (
    (r"vit_base_patch16_gap_", {"num_heads": 16}),
    (r"_clip_", {"norm_eps": 1e-5}),
    (r"_clip_quickgelu", {"gelu": "quick"}),
    (r"vit_(so400m_patch16|base_patch32|giantopt_patch16)_siglip", {"gelu": "tanh"}),
    (r"vit_large_patch16_siglip(_gap)?_512", {"gelu": "tanh"}),
    (r"_gap_", {"pooling": "avg"}),
    (r"_siglip_(?!gap)|_map_", {"pooling": "map"}),
)
"""(part of an architecture's name, what it implies); later rows count more, model_args and the config most."""

POOLING = {"token": "token", "avg": "gap", "map": "map"}
_NORMS = ("layernorm",)
OPTIONS = {
    "embed_dim": "hidden_dim",
    "num_heads": "num_heads",
    "class_token": "class_token",
    "reg_tokens": "register_tokens",
    "qkv_bias": "qkv_bias",
    "qk_norm": "qk_norm",
    "pre_norm": "pre_norm",
    "init_values": "layer_scale",
}
"""model_args -> our option; they say what tensors there must be."""
_FIXED = {
    "pos_embed": "learn",
    "pool_include_prefix": False,
    "proj_bias": True,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
}
"""model_args that have one valid value."""
_READ = ("depth", "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "mlp_ratio", "no_embed_class")
_READ += ("final_norm", "fc_norm", "act_layer", "norm_layer")
_UNNEEDED = ("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "weight_init", "fix_init", "distilled_training")
_UNNEEDED += ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
_VALID = {*OPTIONS, *_FIXED, *_READ, *_UNNEEDED}


def describe(files: Files) -> Description:
    """Read config.json and the tensors' shapes.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    config, tensors = files.config, files.tensors
    arguments = dict(config.get("model_args") or {})
    pretrained = config.get("pretrained_cfg") or config
    architecture = str(config["architecture"]).partition(".")[0]
    defaults = _defaults(files.name, architecture)
    _check_arguments(files.name, arguments)
    hidden_dim, channels, *patch = shape_of(files, "patch_embed.proj.weight", 4)
    mlp_dim = shape_of(files, "blocks.0.mlp.fc1.weight", 2)[0]
    if shape_of(files, "blocks.0.mlp.fc2.weight", 2)[1] != mlp_dim:
        raise InputError(f"{files.name}: an MLP with gates is not supported; valid: the plain one")
    pooling = arguments.get("global_pool") or config.get("global_pool") or defaults.get("pooling", "token")
    if pooling not in POOLING:
        raise InputError(f"{files.name}: global_pool {pooling!r} is not supported; valid: {', '.join(POOLING)}")
    counts = {
        name: shape_of(files, name, 3)[1] if name in tensors else 0 for name in ("cls_token", "dist_token", "reg_token")
    }
    if pooling == "map" and any(counts.values()):
        raise InputError(
            f"{files.name}: global_pool 'map' with class token or registers, which timm leaves out there, is not "
            "supported; valid: without them"
        )
    image_size = _image_size(files.name, arguments, pretrained, channels)
    if arguments.get("dynamic_img_pad") and any(side % each for side, each in zip(image_size, patch, strict=True)):
        raise InputError(
            f"{files.name}: model_args.dynamic_img_pad, which pads images of {image_size[0]}x{image_size[1]} px to "
            f"whole patches of {patch[0]}x{patch[1]} px, is not supported; valid: false, or a multiple of the patch"
        )
    grid, prefix_positions = _positions(files, image_size, (patch[0], patch[1]), sum(counts.values()))
    depth = block_count(files, "blocks.")
    if arguments.get("depth") is not None:
        depth = claimed_depth(files, "model_args.depth", arguments["depth"], "blocks.")
    options = {
        "hidden_dim": hidden_dim,
        "depth": depth,
        "mlp_dim": mlp_dim,
        "num_heads": defaults.get("num_heads") or _num_heads(hidden_dim),
        "patch_size": (patch[0], patch[1]),
        "gelu": GELU[arguments["act_layer"]] if arguments.get("act_layer") else defaults.get("gelu", "exact"),
        "norm_eps": defaults.get("norm_eps", 1e-6),
        "pooling": POOLING[pooling],
        "class_token": counts["cls_token"] > 0,
        "distillation_token": counts["dist_token"] > 0,
        "register_tokens": counts["reg_token"],
    }
    options |= _told_by_tensors(files) | {"prefix_posemb": prefix_positions > 0 or not any(counts.values())}
    options |= {ours: arguments[theirs] for theirs, ours in OPTIONS.items() if arguments.get(theirs) is not None}
    options["layer_scale"] = options.get("layer_scale") or None  # 0 is none in timm
    two_heads = {"distillation_head": True} if "head_dist.weight" in tensors else {}
    return Description(
        model=plain_vit(options),
        preprocessing=timm_config.read_preprocessing(files.name, pretrained, image_size, channels),
        names=mapping.expand(TIMM, options["depth"], grid=grid),
        **timm_config.read_head(files, "head", **two_heads),
    )


def _defaults(name: str, architecture: str) -> dict[str, Any]:
    if OTHER_MODELS.search(architecture):
        raise InputError(
            f"{name}: architecture {architecture!r} is not supported; valid: plain vit_* and deit* of timm"
        )
    found = {}
    for pattern, values in DEFAULTS:
        if re.search(pattern, architecture):
            found |= values
    return found


def _num_heads(hidden_dim: int) -> int:
    """Return the number of heads: 64 channels each in the models up to Large, 16 heads in those above."""
    return hidden_dim // 64 if hidden_dim <= 1024 else 16


def _check_arguments(name: str, arguments: dict[str, Any]) -> None:
    for key, value in arguments.items():
        if key not in _VALID:
            raise InputError(f"{name}: model_args.{key} is not supported; valid: {', '.join(sorted(_VALID))}")
        if key in _FIXED and value not in (_FIXED[key], None):
            raise InputError(f"{name}: model_args.{key} {value!r} is not supported; valid: {_FIXED[key]!r}")
    if arguments.get("act_layer") and arguments["act_layer"] not in GELU:
        raise InputError(f"{name}: act_layer {arguments['act_layer']!r} is not supported; valid: {', '.join(GELU)}")
    if str(arguments.get("norm_layer") or "layernorm").lower() not in _NORMS:
        raise InputError(f"{name}: norm_layer {arguments['norm_layer']!r} is not supported; valid: layernorm")


def _told_by_tensors(files: Files) -> dict[str, Any]:
    """Read the options that show in the tensors' names."""
    tensors = files.tensors
    final_norm = "tokens" if "norm.weight" in tensors else "pooled" if "fc_norm.weight" in tensors else "none"
    options: dict[str, Any] = {
        "posemb": "learned" if "pos_embed" in tensors else "none",
        "final_norm": final_norm,
        "pre_norm": "norm_pre.weight" in tensors,
        "patch_bias": "patch_embed.proj.bias" in tensors,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
    }
    if "blocks.0.ls1.gamma" in tensors:
        options["layer_scale"] = 1e-5
    if "pre_logits.fc.weight" in tensors:
        options["representation_size"] = shape_of(files, "pre_logits.fc.weight", 2)[0]
    return options


def _image_size(name: str, arguments: dict[str, Any], pretrained: dict[str, Any], channels: int) -> tuple[int, int]:
    """Read the size that the model, and so its position embedding, was made for."""
    if arguments.get("img_size"):
        return pair(arguments["img_size"], f"{name}: model_args.img_size")
    size = pretrained.get("input_size") or (channels, 224, 224)
    return pair(list(size)[1:], f"{name}: input_size {size}")


def _positions(
    files: Files, image_size: tuple[int, int], patch: tuple[int, int], num_prefix: int
) -> tuple[tuple[int, int], int]:
    """Return the position embedding's grid, and the number of prefix tokens that it covers, all or none."""
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    if "pos_embed" not in files.tensors:
        return grid, 0
    length = shape_of(files, "pos_embed", 3)[1]
    covered = length - grid[0] * grid[1]
    if covered not in (0, num_prefix):
        raise InputError(
            f"{files.name}: pos_embed has {length} positions, but images of {image_size[0]}x{image_size[1]} px make "
            f"{grid[0]}x{grid[1]} patches after {num_prefix} prefix tokens"
        )
    return grid, covered


_SUPPORTED = {"representation_size": (None,)}
_DISTILLED_SUPPORTED = {"pooling": ("token",), "register_tokens": (0,), "final_norm": ("tokens", "none")}
_GLOBAL_POOL = {ours: theirs for theirs, ours in POOLING.items()}

# model_args cannot say LayerNorm's epsilon; it follows from the architecture, whose other values they all replace.
_ARCHITECTURE = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_DISTILLED = {1e-6: "deit_base_distilled_patch16_224"}


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    encoder, task, preprocessing = model.encoder, model.task, model.preprocessing
    found = unsupported_settings("model", encoder, _SUPPORTED | {"norm_eps": tuple(_architectures(model))})
    if encoder.patch_bias == encoder.pre_norm:
        found.append(Unsupported("model.patch_bias", encoder.patch_bias, f"{not encoder.pre_norm}, with this pre_norm"))
    if encoder.pooling == "map" and encoder.num_prefix_tokens:
        found.append(Unsupported("model.pooling", "map", "token, gap; map only without class token and registers"))
    if encoder.distillation_token:
        found += unsupported_settings("model", encoder, _DISTILLED_SUPPORTED)
        if task is None or not task.distillation_head:
            found.append(Unsupported("model.distillation_token", True, "False, without task.distillation_head"))
    if task is not None:
        found += unsupported_settings("task", task, {"loss_type": ("softmax",)})
    return found + timm_config.unsupported_preprocessing(preprocessing)


warnings = timm_config.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json and model.safetensors; gives the architecture's name."""
    if model.encoder.posemb != "learned" or model.encoder.distillation_token:
        model = with_table(model)
    encoder = model.encoder
    architectures = _architectures(model)
    architecture = architectures.get(encoder.norm_eps, architectures[1e-6])
    config = timm_config.config(
        model,
        architecture,
        num_features=encoder.hidden_dim,
        global_pool=_GLOBAL_POOL[encoder.pooling],
        model_args=_model_args(model),
        fixed_input_size=True,
        classifier=["head", "head_dist"] if encoder.distillation_token else "head",
    )
    files_.write_json(folder / "config.json", config)
    rows = mapping.expand(TIMM, encoder.depth)
    files_.write_safetensors(folder / files_.WEIGHTS, mapping.write(rows, model.params))
    return architecture


def _architectures(model: ExportModel) -> dict[float, str]:
    """Return LayerNorm's epsilon -> an architecture that has it."""
    return _DISTILLED if model.encoder.distillation_token else _ARCHITECTURE


def _model_args(model: ExportModel) -> dict[str, Any]:
    """Return all that the architecture's function would otherwise choose."""
    encoder = model.encoder
    arguments = {theirs: getattr(encoder, ours) for theirs, ours in OPTIONS.items()}
    return arguments | {
        "depth": encoder.depth,
        "img_size": list(model.preprocessing.image_size),
        "patch_size": list(encoder.patch_size),
        "in_chans": model.preprocessing.channels,
        "global_pool": _GLOBAL_POOL[encoder.pooling],
        "mlp_ratio": mlp_ratio(encoder.mlp_dim, encoder.hidden_dim),
        "class_token": encoder.has_class_token,
        "no_embed_class": not encoder.prefix_posemb,
        "final_norm": encoder.final_norm != "none",
        "fc_norm": encoder.final_norm == "pooled",
        "act_layer": ACT_LAYER[encoder.gelu],
    }
