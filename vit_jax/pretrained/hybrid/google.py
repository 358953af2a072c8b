"""Google's `.npz` checkpoints of hybrids: those of a ViT, with a ResNet's arrays before it.

Source: google-research/vision_transformer, vit_jax/models_resnet.py and models_vit.py; the files are `R_Ti_16-..`,
`R26_S_32-..` and `R50_L_32-..` of the AugReg release, and `R50+ViT-B_16`.
"""

import collections
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from vit_jax.layers.resnet import total_stride
from vit_jax.models import vit
from vit_jax.models.hybrid import VARIANTS
from vit_jax.pretrained.description import SIZES, Description, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name
from vit_jax.pretrained.vit.google import (
    describe_transformer,
    unsupported_transformer,
    warnings,
    write_transformer,
)

__all__ = ["KINDS", "describe", "resnet_names", "unsupported", "warnings", "write"]

KINDS = ("hybrid",)


def resnet_names(stages: Sequence[int]) -> list[Name]:
    """Make the rows of the ResNet's parameters.

    Norms are read from `[C]` and, as the older files have them, `[1, 1, 1, C]`, and written as `[C]`.
    """
    pairs = [("conv_root", "conv_root"), ("gn_root", "gn_root")]
    for i, units in enumerate(stages, 1):
        for j, part in itertools.product(range(1, units + 1), ("1", "2", "3", "_proj")):
            ours, theirs = f"stage{i}_unit{j}", f"block{i}/unit{j}"
            pairs += [(f"{ours}/{layer}{part}", f"{theirs}/{layer}{part}") for layer in ("conv", "gn")]
    rows = []
    for ours, theirs in pairs:
        if ours.rpartition("/")[2].startswith("conv"):
            rows.append(Name(f"encoder/resnet/{ours}/kernel", f"{theirs}/kernel"))
        else:
            rows += [Name(f"encoder/resnet/{ours}/{x}", f"{theirs}/{x}", "google_bias") for x in ("scale", "bias")]
    return rows


def describe(files: Files, *, num_heads: int | None = None, image_size: tuple[int, int] | None = None) -> Description:
    """Infer the model from the arrays' shapes and names and the file's name; the arguments are those of `google`'s.

    Raises:
        InputError: a file of other names, or a geometry that cannot be inferred.
    """
    *_, channels, width = shape_of(files, "conv_root/kernel", 4)
    stages = _stages(files)
    rows, columns, _, _ = shape_of(files, "embedding/kernel", 4)

    cell = total_stride(len(stages))

    def model(options: dict[str, Any]) -> dict[str, Any]:
        """Make `Description.model` of the fields of `ViT`."""
        return _model(options | {"resnet_stages": stages, "resnet_width": width})

    return describe_transformer(
        files,
        model=model,
        cell=(rows * cell, columns * cell),
        channels=channels,
        more_names=resnet_names(stages),
        num_heads=num_heads,
        image_size=image_size,
    )


def _stages(files: Files) -> tuple[int, ...]:
    """Count the units of each stage, by the arrays `block<i>/unit<j>/conv1/kernel`."""
    units = collections.Counter(
        int(match[1]) for name in files.tensors if (match := re.fullmatch(r"block(\d+)/unit\d+/conv1/kernel", name))
    )
    return tuple(units[i] for i in range(1, max(units, default=0) + 1))


def _model(options: dict[str, Any]) -> dict[str, Any]:
    """Make `Description.model`; a published size goes by its name."""
    sizes = {name: options[name] for name in SIZES}
    for name, row in VARIANTS.items():
        size = next(known for variant, known in vit.VARIANTS.items() if variant.partition("/")[0] == row.vit)
        published = {field: getattr(size, field) for field in SIZES}
        shape = (options["resnet_stages"], options["resnet_width"], options["patch_size"])
        if sizes == published and shape == (row.stages, 64, (row.patch_size,) * 2):
            rest = {key: x for key, x in options.items() if key not in (*SIZES, "resnet_stages", "resnet_width")}
            return {"name": "hybrid", "variant": name, "options": rest}
    return {"name": "hybrid", "variant": "R50+B/16", "options": options}


def unsupported(model: ExportModel) -> list[Unsupported]:
    """List the settings of a model that the format cannot express."""
    (rows, columns), stride = model.encoder.patch_size, model.encoder.stride
    return unsupported_transformer(model, cell=(rows * stride, columns * stride))


def write(model: ExportModel, file: pathlib.Path) -> str:
    """Write the file; gives what the model is called."""
    write_transformer(model, file, more_names=resnet_names(model.encoder.resnet_stages))
    return "hybrid ViT"
