"""Checkpoints of timm: `pvt_v2_*`, as its `save_for_hf` and the hub's `timm/...` hold them.

Source: timm 1.0's models/_hub.py and models/pvt_v2.py.
"""

import pathlib
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import mapping, timm_config
from vit_jax.pretrained.description import Description, block_count, mlp_ratio, pair, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.pvt.names import expand_stages, pvt

KINDS = ("pvt_v2_*",)

_BLOCK, _STAGE = "encoder/block_{i}", "stages.{s}"
_LAYER = f"{_STAGE}.blocks.{{j}}"
NAMES = (
    Name("encoder/{patch_embed}/kernel", "{embed}.proj.weight", "conv"),
    Name("encoder/{patch_embed}/bias", "{embed}.proj.bias"),
    Name("encoder/patch_norm_{s}/scale", "{embed}.norm.weight"),
    Name("encoder/patch_norm_{s}/bias", "{embed}.norm.bias"),
    Name(f"{_BLOCK}/norm1/scale", f"{_LAYER}.norm1.weight"),
    Name(f"{_BLOCK}/norm1/bias", f"{_LAYER}.norm1.bias"),
    Name(f"{_BLOCK}/reduction/conv/kernel", f"{_LAYER}.attn.sr.weight", "conv"),
    Name(f"{_BLOCK}/reduction/conv/bias", f"{_LAYER}.attn.sr.bias"),
    Name(f"{_BLOCK}/reduction/norm/scale", f"{_LAYER}.attn.norm.weight"),
    Name(f"{_BLOCK}/reduction/norm/bias", f"{_LAYER}.attn.norm.bias"),
    Name(f"{_BLOCK}/attention/query/kernel", f"{_LAYER}.attn.q.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/query/bias", f"{_LAYER}.attn.q.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/key/kernel", f"{_LAYER}.attn.kv.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/value/kernel", f"{_LAYER}.attn.kv.weight", "heads_in"),
    Name(f"{_BLOCK}/attention/key/bias", f"{_LAYER}.attn.kv.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/value/bias", f"{_LAYER}.attn.kv.bias", "heads_bias"),
    Name(f"{_BLOCK}/attention/out/kernel", f"{_LAYER}.attn.proj.weight", "heads_out"),
    Name(f"{_BLOCK}/attention/out/bias", f"{_LAYER}.attn.proj.bias"),
    Name(f"{_BLOCK}/norm2/scale", f"{_LAYER}.norm2.weight"),
    Name(f"{_BLOCK}/norm2/bias", f"{_LAYER}.norm2.bias"),
    Name(f"{_BLOCK}/mlp/fc1/kernel", f"{_LAYER}.mlp.fc1.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc1/bias", f"{_LAYER}.mlp.fc1.bias"),
    Name(f"{_BLOCK}/mlp/dwconv/kernel", f"{_LAYER}.mlp.dwconv.weight", "conv"),
    Name(f"{_BLOCK}/mlp/dwconv/bias", f"{_LAYER}.mlp.dwconv.bias"),
    Name(f"{_BLOCK}/mlp/fc2/kernel", f"{_LAYER}.mlp.fc2.weight", "linear"),
    Name(f"{_BLOCK}/mlp/fc2/bias", f"{_LAYER}.mlp.fc2.bias"),
    Name("encoder/{norm}/scale", f"{_STAGE}.norm.weight"),
    Name("encoder/{norm}/bias", f"{_STAGE}.norm.bias"),
    Name("head/kernel", "head.weight", "linear"),
    Name("head/bias", "head.bias"),
)
NORM_EPS, EMBED_NORM_EPS = 1e-6, 1e-5
"""Of timm's `LayerNorm`, which the blocks and the stages have, and of PyTorch's, which the other places have."""

_READ = {"depths", "embed_dims", "num_heads", "sr_ratios", "mlp_ratios", "qkv_bias", "linear"}
_READ |= {"in_chans", "num_classes", "global_pool", "norm_layer"}
_UNNEEDED = {"drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"}
_HEADS = (1, 2, 5, 8)


def describe(files: Files) -> Description:
    """Read config.json and the tensors' shapes.

    Raises:
        InputError: a model, or an option of it, that is not supported.
    """
    assert files.config is not None, files.name
    config = files.config
    arguments = dict(config.get("model_args") or {})
    pretrained = config.get("pretrained_cfg") or config
    _check_arguments(files.name, arguments, config)
    channels = shape_of(files, "patch_embed.proj.weight", 4)[1]
    size = pretrained.get("input_size") or (channels, 224, 224)
    image_size = pair(list(size)[1:], f"{files.name}: input_size {size}")
    options = _options(files, arguments)
    return Description(
        model=pvt(options),
        preprocessing=timm_config.read_preprocessing(files.name, pretrained, image_size, channels),
        names=expand_stages(NAMES, options["depths"]),
        **timm_config.read_head(files, "head"),
    )


def _check_arguments(name: str, arguments: dict[str, Any], config: dict[str, Any]) -> None:
    for key in arguments:
        if key not in _READ | _UNNEEDED:
            valid = ", ".join(sorted(_READ | _UNNEEDED))
            raise InputError(f"{name}: model_args.{key} is not supported; valid: {valid}")
    pooling = arguments.get("global_pool", config.get("global_pool"))
    if pooling not in (None, "avg"):
        raise InputError(f"{name}: global_pool {pooling!r} is not supported; valid: avg")
    if str(arguments.get("norm_layer") or "layernorm").lower() != "layernorm":
        raise InputError(f"{name}: norm_layer {arguments['norm_layer']!r} is not supported; valid: layernorm")


def _options(files: Files, arguments: dict[str, Any]) -> dict[str, Any]:
    """Read the fields of `PVT`; all but the number of heads show in the tensors."""
    tensors = files.tensors
    stages = block_count(files, "stages.")
    dims, depths, ratios, reductions = [], [], [], []
    for s in range(stages):
        dims.append(shape_of(files, f"stages.{s}.norm.weight", 1)[0])
        depths.append(block_count(files, f"stages.{s}.blocks."))
        ratios.append(mlp_ratio(shape_of(files, f"stages.{s}.blocks.0.mlp.fc1.weight", 2)[0], dims[-1]))
        reduction = f"stages.{s}.blocks.0.attn.sr.weight"
        reductions.append(shape_of(files, reduction, 4)[2] if reduction in tensors else 1)
    # A reduction by 1 has no convolution, unless it follows linear attention's pooling.
    linear = any(f"stages.{s}.blocks.0.attn.sr.weight" in tensors and reductions[s] == 1 for s in range(stages))
    heads = arguments.get("num_heads") or _HEADS
    heads = (heads,) * stages if isinstance(heads, int) else tuple(heads)
    if linear:  # nothing in the tensors, or in the outputs, depends on it
        reductions = (8, 4, 2, 1) if stages == 4 else (1,) * stages
    return {
        "version": 2,
        "hidden_dims": tuple(dims),
        "depths": tuple(depths),
        "num_heads": heads,
        "mlp_ratios": tuple(ratios),
        "reductions": tuple(reductions),
        "patch_sizes": patch_sizes(stages),
        "strides": strides(stages),
        "linear_attention": linear,
        "norm_eps": NORM_EPS,
        "embed_norm_eps": EMBED_NORM_EPS,
        "qkv_bias": "stages.0.blocks.0.attn.q.bias" in tensors,
    }


def patch_sizes(stages: int) -> tuple[int, ...]:
    """Return each stage's side of the patches."""
    return (7, *[3] * (stages - 1))


def strides(stages: int) -> tuple[int, ...]:
    """Return each stage's distance between patches."""
    return (4, *[2] * (stages - 1))


_SUPPORTED = {
    "version": (2,),
    "activation": ("exact",),
    "norm_eps": (NORM_EPS,),
    "embed_norm_eps": (EMBED_NORM_EPS,),
}
_ARCHITECTURE = "pvt_v2_b0"  # whose values model_args all replace


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    encoder, stages = model.encoder, len(model.encoder.depths)
    valid = _SUPPORTED | {"patch_sizes": (patch_sizes(stages),), "strides": (strides(stages),)}
    found = unsupported_settings("model", encoder, valid)
    if model.task is not None:
        found += unsupported_settings("task", model.task, {"loss_type": ("softmax",)})
    return found + timm_config.unsupported_preprocessing(model.preprocessing)


warnings = timm_config.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json and model.safetensors; gives the architecture's name."""
    encoder = model.encoder
    model_args = {
        "in_chans": model.preprocessing.channels,
        "depths": list(encoder.depths),
        "embed_dims": list(encoder.hidden_dims),
        "num_heads": list(encoder.num_heads),
        "sr_ratios": list(encoder.reductions),
        "mlp_ratios": list(encoder.mlp_ratios),
        "qkv_bias": encoder.qkv_bias,
        "linear": encoder.linear_attention,
    }
    config = timm_config.config(
        model,
        _ARCHITECTURE,
        num_features=encoder.hidden_dim,
        global_pool="avg",
        model_args=model_args,
        fixed_input_size=False,
        classifier="head",
    )
    files_.write_json(folder / "config.json", config)
    rows = expand_stages(NAMES, encoder.depths)
    files_.write_safetensors(folder / files_.WEIGHTS, mapping.write(rows, model.params))
    return _ARCHITECTURE
