"""What the files of the Swin Transformer's formats share."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.models import swin
from vit_jax.pretrained.mapping import Name

SIZES = ("embed_dim", "depths", "num_heads", "version")
BUFFERS = (r".*relative_position_index", r".*relative_coords_table", r".*attn_mask")
"""Tensors of older files that follow from the window's size."""
MASK_VALUE = {1: -100.0, 2: -200.0}
"""Version -> what transformers adds to attention between tokens that a shift brought together: V2 adds -100 twice."""


def model_info(options: Mapping[str, Any]) -> dict[str, Any]:
    """Make `Description.model`; a published size, and a window that is the same in all stages, go by their names.

    Args:
        options: fields of `Swin`, with its sizes and `window_size`.
    """
    options = dict(options)
    windows = {side for window in options["window_size"] for side in window}
    window = max(windows)
    if len(windows) == 1:
        del options["window_size"]
    start = "V2-" if options["version"] == 2 else ""
    for name, row in swin.VARIANTS.items():
        if all(options[field] == getattr(row, field) for field in SIZES):
            options = {key: value for key, value in options.items() if key not in SIZES}
            return {"name": "swin", "variant": f"{name.partition('/')[0]}/{window}", "options": options}
    del options["version"]  # the variant's
    return {"name": "swin", "variant": f"{start}T/{window}", "options": options}


def block_names(depths: Sequence[int], parameter: str, tensor: str, layout: str = "same", grids=None) -> list[Name]:
    """Make a row for each block.

    Args:
        depths: blocks of each stage.
        parameter: within the block, `mlp/fc1/kernel`.
        tensor: with `{s}` for the stage and `{i}` for the block's number in it.
        layout: of `mapping.LAYOUTS`.
        grids: of a table by position, each stage's rows and columns in the checkpoint.
    """
    rows = []
    for stage, depth in enumerate(depths):
        for i in range(depth):
            path = f"encoder/block_{sum(depths[:stage]) + i}/{parameter}"
            rows.append(Name(path, tensor.format(s=stage, i=i), layout, grids and grids[stage]))
    return rows


def table_grids(windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the rows and columns of each stage's bias table."""
    return [(2 * rows - 1, 2 * columns - 1) for rows, columns in windows]


def version_of(kind: str) -> int:
    """Return the version of a model called `swinv2..`, or else `swin..`."""
    return 2 if kind.startswith("swinv2") else 1
