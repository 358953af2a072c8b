"""Tables of a PVT's names: those of `mapping`, by stage."""

from collections.abc import Iterable, Sequence
from typing import Any

from vit_jax.models.pvt import VARIANTS, create
from vit_jax.pretrained.mapping import Grid, Name


def expand_stages(
    table: Iterable[Name], depths: Sequence[int], prefix: str = "", grids: Sequence[Grid] | None = None
) -> list[Name]:
    """Return the table a row for each block or stage, and fills in its tensors' `{prefix}`.

    Args:
        table: its parameters' names may have `{i}`, a block's number among all; `{patch_embed}` and `{norm}`, the
            stage's; or `{s}`, the stage's number. Its tensors' names may have `{s}`, `{j}` (the block's number
            in its stage), `{last}` (the last stage's number) and `{embed}` (where timm has the stage's patches).
        depths: the number of blocks of each stage.
        prefix: what all tensors but a head's begin with.
        grids: rows and columns of each stage's position embedding.
    """
    rows, last = [], len(depths) - 1
    for row in table:
        by_block = "{i}" in row.param
        by_stage = any(key in row.param for key in ("{s}", "{patch_embed}", "{norm}"))
        for s, depth in enumerate(depths if by_block or by_stage else [1]):
            keys = {
                "s": s,
                "last": last,
                "prefix": prefix,
                "embed": "patch_embed" if s == 0 else f"stages.{s}.downsample",
                "patch_embed": "patch_embed" if s == 0 else f"patch_embed_{s}",
                "norm": "norm" if s == last else f"norm_{s}",
            }
            grid = grids[s] if grids is not None and row.layout == "grid" else None
            for j in range(depth if by_block else 1):
                keys |= {"i": sum(depths[:s]) + j, "j": j}
                rows.append(Name(row.param.format(**keys), row.tensor.format(**keys), row.layout, grid))
    return rows


def pvt(options: dict[str, Any]) -> dict[str, Any]:
    """Make `Description.model` of a PVT; a published size goes by its name, and what is as there is left out.

    Args:
        options: fields of `PVT`.
    """
    version = options["version"]
    valid = [name for name, row in VARIANTS.items() if row.version == version]
    sizes = ("hidden_dims", "depths", "num_heads", "mlp_ratios", "linear_attention")
    same = [name for name in valid if all(getattr(VARIANTS[name], key) == options[key] for key in sizes)]
    variant = same[0] if same else valid[0]
    usual = create(variant)
    changed = {key: value for key, value in options.items() if value != getattr(usual, key)}
    return {"name": "pvt", "variant": variant, "options": changed}
