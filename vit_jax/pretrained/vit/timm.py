"""Checkpoints of timm: `vit_*` and `deit*`, as its `save_for_hf` and the hub's `timm/...` hold them.

Their config.json names an architecture and, on the hub, little else: most of the geometry is in the tensors'
shapes, and what is not (heads, GELU, LayerNorm's epsilon) follows from the architecture's name.

Source: timm 1.0's models/vision_transformer.py, models/deit.py and data/transforms_factory.py.
"""

import math
import re
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import INTERPOLATION, Preprocessing
from vit_jax.errors import InputError
from vit_jax.pretrained.description import Description, block_count, numbered_classes, pair, plain_vit, shape_of
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name, expand

_BLOCK, _LAYER = "encoder/block_{i}", "blocks.{i}"
NAMES = (
    Name("encoder/class_token", "cls_token"),
    Name("encoder/distillation_token", "dist_token"),
    Name("encoder/registers", "reg_token"),
    Name("encoder/patch_embed/kernel", "patch_embed.proj.weight", "conv"),
    Name("encoder/patch_embed/bias", "patch_embed.proj.bias"),
    Name("encoder/pos_embedding/prefix", "pos_embed", "prefix"),
    Name("encoder/pos_embedding/grid", "pos_embed", "grid"),
    Name("encoder/norm_pre/scale", "norm_pre.weight"),
    Name("encoder/norm_pre/bias", "norm_pre.bias"),
    Name(f"{_BLOCK}/norm1/scale", f"{_LAYER}.norm1.weight"),
    Name(f"{_BLOCK}/norm1/bias", f"{_LAYER}.norm1.bias"),
    Name(f"{_BLOCK}/attention/query/kernel", f"{_LAYER}.attn.qkv.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/key/kernel", f"{_LAYER}.attn.qkv.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/value/kernel", f"{_LAYER}.attn.qkv.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/query/bias", f"{_LAYER}.attn.qkv.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/key/bias", f"{_LAYER}.attn.qkv.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/value/bias", f"{_LAYER}.attn.qkv.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/query_norm/scale", f"{_LAYER}.attn.q_norm.weight"),
    Name(f"{_BLOCK}/attention/query_norm/bias", f"{_LAYER}.attn.q_norm.bias"),
    Name(f"{_BLOCK}/attention/key_norm/scale", f"{_LAYER}.attn.k_norm.weight"),
    Name(f"{_BLOCK}/attention/key_norm/bias", f"{_LAYER}.attn.k_norm.bias"),
    Name(f"{_BLOCK}/attention/out/kernel", f"{_LAYER}.attn.proj.weight", "heads_out"),
    Name(f"{_BLOCK}/attention/out/bias", f"{_LAYER}.attn.proj.bias"),
    Name(f"{_BLOCK}/scale1", f"{_LAYER}.ls1.gamma"),
    Name(f"{_BLOCK}/norm2/scale", f"{_LAYER}.norm2.weight"),
    Name(f"{_BLOCK}/norm2/bias", f"{_LAYER}.norm2.bias"),
    Name(f"{_BLOCK}/mlp/fc1/kernel", f"{_LAYER}.mlp.fc1.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc1/bias", f"{_LAYER}.mlp.fc1.bias"),
    Name(f"{_BLOCK}/mlp/fc2/kernel", f"{_LAYER}.mlp.fc2.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc2/bias", f"{_LAYER}.mlp.fc2.bias"),
    Name(f"{_BLOCK}/scale2", f"{_LAYER}.ls2.gamma"),
    Name("encoder/norm/scale", "norm.weight"),
    Name("encoder/norm/bias", "norm.bias"),
    Name("encoder/fc_norm/scale", "fc_norm.weight"),
    Name("encoder/fc_norm/bias", "fc_norm.bias"),
    Name("encoder/pool/probe", "attn_pool.latent"),
    Name("encoder/pool/attention/query/kernel", "attn_pool.q.weight", "heads_in"),
    Name("encoder/pool/attention/query/bias", "attn_pool.q.bias", "heads_bias"),
    Name("encoder/pool/attention/key/kernel", "attn_pool.kv.weight", "heads_in"),
    Name("encoder/pool/attention/value/kernel", "attn_pool.kv.weight", "heads_in"),
    Name("encoder/pool/attention/key/bias", "attn_pool.kv.bias", "heads_bias"),
    Name("encoder/pool/attention/value/bias", "attn_pool.kv.bias", "heads_bias"),
    Name("encoder/pool/attention/out/kernel", "attn_pool.proj.weight", "heads_out"),
    Name("encoder/pool/attention/out/bias", "attn_pool.proj.bias"),
    Name("encoder/pool/norm/scale", "attn_pool.norm.weight"),
    Name("encoder/pool/norm/bias", "attn_pool.norm.bias"),
    Name("encoder/pool/mlp/fc1/kernel", "attn_pool.mlp.fc1.weight", "linear"),
    Name("encoder/pool/mlp/fc1/bias", "attn_pool.mlp.fc1.bias"),
    Name("encoder/pool/mlp/fc2/kernel", "attn_pool.mlp.fc2.weight", "linear"),
    Name("encoder/pool/mlp/fc2/bias", "attn_pool.mlp.fc2.bias"),
    Name("encoder/pre_logits/kernel", "pre_logits.fc.weight", "linear"),
    Name("encoder/pre_logits/bias", "pre_logits.fc.bias"),
    Name("head/kernel", "head.weight", "linear"),
    Name("head/bias", "head.bias"),
    Name("head_distillation/kernel", "head_dist.weight", "linear"),
    Name("head_distillation/bias", "head_dist.bias"),
)

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
GELU = {"gelu": "exact", "gelu_tanh": "tanh", "quick_gelu": "quick"}
_NORMS = ("layernorm",)
OPTIONS = {
    "embed_dim": "hidden_dim",
    "depth": "depth",
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
_READ = ("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "mlp_ratio", "no_embed_class")
_READ += ("final_norm", "fc_norm", "act_layer", "norm_layer")
_UNNEEDED = ("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "weight_init", "fix_init", "distilled_training")
_UNNEEDED += ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
_VALID = {*OPTIONS, *_FIXED, *_READ, *_UNNEEDED}


def describe(files: Files) -> Description:
    """Reads config.json and the tensors' shapes.

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
        name: tensors[name].shape[1] if name in tensors else 0 for name in ("cls_token", "dist_token", "reg_token")
    }
    if pooling == "map" and any(counts.values()):
        raise InputError(
            f"{files.name}: global_pool 'map' with class token or registers, which timm leaves out there, is not "
            "supported; valid: without them"
        )
    image_size = _image_size(files.name, arguments, pretrained, channels)
    grid, prefix_positions = _positions(files, image_size, (patch[0], patch[1]), sum(counts.values()))
    depth = block_count(tensors, "blocks.")
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
    options |= _told_by_tensors(tensors) | {"prefix_posemb": prefix_positions > 0 or not any(counts.values())}
    options |= {ours: arguments[theirs] for theirs, ours in OPTIONS.items() if arguments.get(theirs) is not None}
    options["layer_scale"] = options.get("layer_scale") or None  # 0 is none in timm
    task = None
    if "head.weight" in tensors or config.get("num_classes", 0):
        task = {"distillation_head": True} if "head_dist.weight" in tensors else {}
    return Description(
        model=plain_vit(options),
        task=task,
        class_names=() if task is None else class_names(files, pretrained),
        preprocessing=preprocessing_of(files.name, pretrained, image_size, channels),
        names=expand(NAMES, options["depth"], grid=grid),
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
    """64 channels a head in the models up to Large, 16 heads in those above."""
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


def _told_by_tensors(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The options that show in which tensors there are."""
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
        options["representation_size"] = len(tensors["pre_logits.fc.weight"])
    return options


def _image_size(name: str, arguments: dict[str, Any], pretrained: dict[str, Any], channels: int) -> tuple[int, int]:
    """The size that the model, and so its position embedding, was made for."""
    if arguments.get("img_size"):
        return pair(arguments["img_size"], f"{name}: model_args.img_size")
    size = pretrained.get("input_size") or (channels, 224, 224)
    return pair(list(size)[1:], f"{name}: input_size {size}")


def _positions(
    files: Files, image_size: tuple[int, int], patch: tuple[int, int], num_prefix: int
) -> tuple[tuple[int, int], int]:
    """The position embedding's grid, and how many prefix tokens it covers: all or none (`no_embed_class`)."""
    grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    if "pos_embed" not in files.tensors:
        return grid, 0
    length = files.tensors["pos_embed"].shape[1]
    covered = length - grid[0] * grid[1]
    if covered not in (0, num_prefix):
        raise InputError(
            f"{files.name}: pos_embed has {length} positions, but images of {image_size[0]}x{image_size[1]} px make "
            f"{grid[0]}x{grid[1]} patches after {num_prefix} prefix tokens"
        )
    return grid, covered


def class_names(files: Files, pretrained: dict[str, Any], head_name: str = "head.weight") -> tuple[str, ...]:
    """The names in config.json, or else numbers; as many as the head has."""
    assert files.config is not None, files.name
    names = files.config.get("label_names") or pretrained.get("label_names")
    head = files.tensors.get(head_name)
    count = files.config.get("num_classes", 0) if head is None else len(head)
    if names and len(names) != count:
        raise InputError(f"{files.name}: label_names has {len(names)} names, but {head_name} has {count} classes")
    return tuple(map(str, names)) if names else numbered_classes(count)


def preprocessing_of(
    name: str, pretrained: dict[str, Any], image_size: tuple[int, int], channels: int
) -> Preprocessing:
    """What timm's evaluation transform does.

    Args:
        name: of the checkpoint, for messages.
        pretrained: `pretrained_cfg` of config.json.
        image_size: height and width in pixels.
        channels: of the images.
    """
    interpolation = pretrained.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATION:
        raise InputError(f"{name}: interpolation {interpolation!r} is not supported; valid: {', '.join(INTERPOLATION)}")
    crop_mode = pretrained.get("crop_mode") or "center"
    if crop_mode not in ("center", "squash"):
        raise InputError(f"{name}: crop_mode {crop_mode!r} is not supported; valid: center, squash")
    fraction = pretrained.get("crop_pct") or 0.875
    height, width = (math.floor(side / fraction) for side in image_size)
    mean = np.resize(np.asarray(pretrained.get("mean") or (0.485, 0.456, 0.406), float), channels)
    std = np.resize(np.asarray(pretrained.get("std") or (0.229, 0.224, 0.225), float), channels)
    return Preprocessing(
        image_size=image_size,
        channels=channels,
        resize="shortest_edge" if crop_mode == "center" else "exact",
        crop_fraction=fraction if crop_mode == "center" else 1.0,
        resize_to=(height, width) if crop_mode == "squash" else None,
        crop_offset="nearest",
        interpolation=interpolation,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )
