"""T2T-ViT checkpoints by the authors' names: a folder with config.json and model.safetensors.

The authors publish PyTorch files, whose `state_dict_ema` is to be put into model.safetensors under the names it has.
config.json says `architecture` (the function's name in their models/t2t_vit.py, `t2t_vit_14`), and what may follow from
the tensors or that name: `num_classes`, `model_args` (the arguments of their class `T2T_ViT`), `pretrained_cfg` and
`label_names` as in timm's. The arguments replace what else the architecture would choose.

The table of positions, `pos_embed`, is no trained parameter there. Where it is the sinusoid of the grid it is computed
here too; where it is not, since it was resized from another grid, it becomes a learned position embedding.

Source: yitu-opensource/T2T-ViT, models/t2t_vit.py, token_performer.py and token_transformer.py, and utils.py.
"""

import pathlib
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.layers.tokens_to_token import SPLITS, split_grids
from vit_jax.models.t2t import VARIANTS, sinusoid
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import mapping, timm_config
from vit_jax.pretrained.description import Description, block_count, claimed_depth, mlp_ratio, pair, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name

KINDS = ("t2t_vit_*",)

_TOKENS, _THEIR_TOKENS = "encoder/tokens_to_token", "tokens_to_token"
_BLOCK, _THEIR_BLOCK = "encoder/block_{i}", "blocks.{i}"


def _norm(ours: str, theirs: str) -> tuple[Name, ...]:
    return Name(f"{ours}/scale", f"{theirs}.weight"), Name(f"{ours}/bias", f"{theirs}.bias")


def _linear(ours: str, theirs: str) -> tuple[Name, ...]:
    return Name(f"{ours}/kernel", f"{theirs}.weight", "linear"), Name(f"{ours}/bias", f"{theirs}.bias")


def _token_layer(number: int, tokens_type: str) -> tuple[Name, ...]:
    ours, theirs = f"{_TOKENS}/layer{number}", f"{_THEIR_TOKENS}.attention{number}"
    both = (*_norm(f"{ours}/norm1", f"{theirs}.norm1"), *_norm(f"{ours}/norm2", f"{theirs}.norm2"))
    if tokens_type == "performer":
        parts = ("key", "query", "value")
        return (
            *both,
            *(Name(f"{ours}/{part}/kernel", f"{theirs}.kqv.weight", "linear") for part in parts),
            *(Name(f"{ours}/{part}/bias", f"{theirs}.kqv.bias") for part in parts),
            Name(f"{ours}/random_features", f"{theirs}.w"),
            *_linear(f"{ours}/out", f"{theirs}.proj"),
            *_linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.0"),
            *_linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.2"),
        )
    return (
        *both,
        *(Name(f"{ours}/{part}/kernel", f"{theirs}.attn.qkv.weight", "linear") for part in ("query", "key", "value")),
        *_linear(f"{ours}/out", f"{theirs}.attn.proj"),
        *_linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *_linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
    )


_BACKBONE = (
    *_linear(f"{_TOKENS}/project", f"{_THEIR_TOKENS}.project"),
    Name("encoder/class_token", "cls_token"),
    Name("encoder/pos_embedding/prefix", "pos_embed", "prefix"),
    Name("encoder/pos_embedding/grid", "pos_embed", "grid"),
    *_norm(f"{_BLOCK}/norm1", f"{_THEIR_BLOCK}.norm1"),
    *(
        Name(f"{_BLOCK}/attention/{part}/kernel", f"{_THEIR_BLOCK}.attn.qkv.weight", "heads_in")
        for part in ("query", "key", "value")
    ),
    *(
        Name(f"{_BLOCK}/attention/{part}/bias", f"{_THEIR_BLOCK}.attn.qkv.bias", "heads_bias")
        for part in ("query", "key", "value")
    ),
    Name(f"{_BLOCK}/attention/out/kernel", f"{_THEIR_BLOCK}.attn.proj.weight", "heads_out"),
    Name(f"{_BLOCK}/attention/out/bias", f"{_THEIR_BLOCK}.attn.proj.bias"),
    *_norm(f"{_BLOCK}/norm2", f"{_THEIR_BLOCK}.norm2"),
    *_linear(f"{_BLOCK}/mlp/fc1", f"{_THEIR_BLOCK}.mlp.fc1"),
    *_linear(f"{_BLOCK}/mlp/fc2", f"{_THEIR_BLOCK}.mlp.fc2"),
    *_norm("encoder/norm", "norm"),
    *_linear("head", "head"),
)
NAMES = {
    tokens_type: (*_token_layer(1, tokens_type), *_token_layer(2, tokens_type), *_BACKBONE)
    for tokens_type in ("performer", "transformer")
}
"""tokens_type -> the table of names."""

ARCHITECTURES = {f"t2t_vit_{name.replace('-', '_')}": name for name in VARIANTS}
"""What the authors call a model -> its row of VARIANTS."""
_HEADS = {name: VARIANTS[row].num_heads for name, row in ARCHITECTURES.items()}
_HEADS |= {"t2t_vit_14_resnext": 32, "t2t_vit_14_wide": 12}

_OPTIONS = {
    "tokens_type": "tokens_type",
    "embed_dim": "hidden_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "token_dim": "token_dim",
    "qkv_bias": "qkv_bias",
    "qk_scale": "qk_scale",
}
"""model_args -> our option; most of them repeat what the tensors say."""
_READ = ("img_size", "in_chans", "num_classes", "mlp_ratio")
_UNNEEDED = ("drop_rate", "attn_drop_rate", "drop_path_rate")
_VALID = {*_OPTIONS, *_READ, *_UNNEEDED}
_POSITION_TOLERANCE = 2e-3
"""By which a table may differ from the sinusoid: half precision's rounding, and more."""


def describe(files: Files) -> Description:
    """Read config.json and the tensors' shapes.

    Raises:
        InputError: a model, or an option of it, that is not supported, or positions that fit no image size.
    """
    assert files.config is not None, files.name
    config = files.config
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if value is not None}
    pretrained = config.get("pretrained_cfg") or {}
    for key in arguments:
        if key not in _VALID:
            raise InputError(f"{files.name}: model_args.{key} is not supported; valid: {', '.join(sorted(_VALID))}")
    options = _geometry(files, arguments)
    channels = shape_of(files, f"{_THEIR_TOKENS}.attention1.norm1.weight", 1)[0] // SPLITS[0][0] ** 2
    image_size = _image_size(files.name, arguments, pretrained)
    grid = split_grids(image_size)[-1]
    options |= _positions(files, grid, options["hidden_dim"])
    return Description(
        model=_model(options),
        preprocessing=timm_config.read_preprocessing(files.name, {"crop_pct": 0.9} | pretrained, image_size, channels),
        names=mapping.expand(NAMES[options["tokens_type"]], options["depth"], grid=grid),
        **timm_config.read_head(files, "head"),
        antialias=False,
        buffers=() if options["posemb"] == "learned" else ("pos_embed",),
    )


def _geometry(files: Files, arguments: dict[str, Any]) -> dict[str, Any]:
    """Read the options that the tensors' shapes say, and on top of them what model_args say."""
    assert files.config is not None
    architecture = str(files.config["architecture"]).partition(".")[0]
    if "num_heads" not in arguments and architecture not in _HEADS:
        raise InputError(
            f"{files.name}: architecture {architecture!r} does not tell the number of heads; valid: "
            f"model_args.num_heads, or {', '.join(_HEADS)}"
        )
    performer = f"{_THEIR_TOKENS}.attention1.w" in files.tensors
    options = {
        "tokens_type": "performer" if performer else "transformer",
        "hidden_dim": shape_of(files, "cls_token", 3)[2],
        "depth": block_count(files, "blocks."),
        "num_heads": _HEADS.get(architecture),
        "mlp_dim": shape_of(files, "blocks.0.mlp.fc1.weight", 2)[0],
        "token_dim": shape_of(files, f"{_THEIR_TOKENS}.project.weight", 2)[1] // SPLITS[-1][0] ** 2,
        "qkv_bias": "blocks.0.attn.qkv.bias" in files.tensors,
    }
    options |= {ours: arguments[theirs] for theirs, ours in _OPTIONS.items() if theirs in arguments}
    options["depth"] = claimed_depth(files, "model_args.depth", options["depth"], "blocks.")
    if options["tokens_type"] not in NAMES:
        raise InputError(
            f"{files.name}: tokens_type {options['tokens_type']!r} is not supported; valid: {', '.join(NAMES)}"
        )
    return options


def _image_size(name: str, arguments: dict[str, Any], pretrained: dict[str, Any]) -> tuple[int, int]:
    """Read the size that the model, and so its table of positions, was made for."""
    size = arguments.get("img_size") or list(pretrained.get("input_size") or (3, 224, 224))[1:]
    return pair(size, f"{name}: img_size")


def _positions(files: Files, grid: tuple[int, int], dim: int) -> dict[str, Any]:
    """Tell which positions `pos_embed` has; without it they are those that the authors compute."""
    computed = {"posemb": "sincos1d", "posemb_grid": grid}
    if "pos_embed" not in files.tensors:
        return computed
    shape = shape_of(files, "pos_embed", 3)
    if shape != (1, 1 + grid[0] * grid[1], dim):
        raise InputError(
            f"{files.name}: pos_embed has shape {list(shape)}, but the class token and a grid of {grid[0]}x{grid[1]} "
            f"tokens need {[1, 1 + grid[0] * grid[1], dim]}; valid: model_args.img_size as it was trained with"
        )
    expected = np.asarray(sinusoid(grid, grid, dim))
    if np.abs(files.tensors["pos_embed"][0].astype(np.float32) - expected).max() < _POSITION_TOLERANCE:
        return computed
    return {"posemb": "learned"}


def _model(options: dict[str, Any]) -> dict[str, Any]:
    """Make `Description.model`; a published size goes by its name."""
    sizes = ("tokens_type", "hidden_dim", "depth", "mlp_dim", "num_heads")
    for name, row in VARIANTS.items():
        if all(options[size] == getattr(row, size) for size in sizes):
            rest = {key: value for key, value in options.items() if key not in sizes}
            return {"name": "t2t", "variant": name, "options": rest}
    variant = "14" if options["tokens_type"] == "performer" else "t-14"
    return {"name": "t2t", "variant": variant, "options": options}


_SUPPORTED = {"gelu": ("exact",), "norm_eps": (1e-5,)}
_STRIDE = 16


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    found = unsupported_settings("model", model.encoder, _SUPPORTED)
    if model.task is not None:
        found += unsupported_settings("task", model.task, {"loss_type": ("softmax",)})
    size = model.preprocessing.image_size
    side = size[0] // _STRIDE
    if size[0] != size[1] or split_grids(size)[-1] != (side, side):
        found.append(Unsupported("data.image_size", size, f"as high as wide, and a multiple of {_STRIDE}"))
    return found + timm_config.unsupported_preprocessing(model.preprocessing)


warnings = timm_config.warnings


def write(model: ExportModel, folder: pathlib.Path) -> str:
    """Write config.json and model.safetensors; gives the architecture's name."""
    encoder = model.encoder
    architecture = _architecture(encoder)
    num_classes = len(model.class_names)
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": num_classes,
        "model_args": {
            "img_size": model.preprocessing.image_size[0],
            "in_chans": model.preprocessing.channels,
            "num_classes": num_classes,
            "tokens_type": encoder.tokens_type,
            "token_dim": encoder.token_dim,
            "embed_dim": encoder.hidden_dim,
            "depth": encoder.depth,
            "num_heads": encoder.num_heads,
            "mlp_ratio": mlp_ratio(encoder.mlp_dim, encoder.hidden_dim),
            "qkv_bias": encoder.qkv_bias,
            "qk_scale": encoder.qk_scale,
        },
        "pretrained_cfg": timm_config.data_config(model.preprocessing)
        | {"num_classes": num_classes, "classifier": "head"},
    }
    if model.task is not None:
        config["label_names"] = list(model.class_names)
    rows = mapping.expand(NAMES[encoder.tokens_type], encoder.depth)
    tensors = mapping.write(rows, model.params)
    if encoder.posemb != "learned":
        grid = split_grids(model.preprocessing.image_size)[-1]
        tensors["pos_embed"] = np.asarray(sinusoid(encoder.posemb_grid or grid, grid, encoder.hidden_dim))[None]
    files_.write_json(folder / "config.json", config)
    files_.write_safetensors(folder / files_.WEIGHTS, tensors)
    return architecture


def _architecture(encoder: Any) -> str:
    """Return the authors' function for this size, or else one whose other values model_args all replace."""
    for architecture, name in ARCHITECTURES.items():
        row = VARIANTS[name]
        if all(getattr(row, size) == getattr(encoder, size) for size in ("tokens_type", "hidden_dim", "depth")):
            return architecture
    return "t2t_vit_14" if encoder.tokens_type == "performer" else "t2t_vit_t_14"
