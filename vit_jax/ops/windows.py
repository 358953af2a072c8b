"""Cutting feature maps into windows, and where the tokens of a window are to one another."""

import dataclasses
import math

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from vit_jax.ops import posemb

Size = tuple[int, int]
"""Rows and columns."""

FITS = ("authors", "timm")
"""Whose way windows are fitted to a map that they do not divide, or that is no larger than one; see `Fit`."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """How windows lie on a map.

    window: rows and columns of one.
    shift: by how many rows and columns the map is rolled before it is cut.
    size: rows and columns of the map with its padding, below and to the right; windows divide it.
    pad_first: whether the map is padded before it is rolled, or after; true if that does not matter.
    """

    window: Size
    shift: Size
    size: Size
    pad_first: bool


def fit(size: Size, window: Size, shift: Size, *, how: str, fixed: bool) -> Fit:
    """Fit windows to a map.

    Unless they are fixed, windows are no larger than the map, and where one spans it they are not shifted: along that
    side (`timm`), or along neither (`authors`).

    Args:
        size: the map's rows and columns.
        window: rows and columns wanted.
        shift: rows and columns wanted.
        how: of FITS. `authors` pad the map before they roll it, `timm` afterwards; this matters only where windows do
            not divide the map.
        fixed: whether window and shift are taken as they are.

    Source: the authors' models/swin_transformer.py and Hugging Face's modeling_swin.py; timm's swin_transformer.py.
    """
    if not fixed:
        spans = [side <= wanted for side, wanted in zip(size, window, strict=True)]
        if how == "authors" and any(spans):
            shift = (0, 0)
        shift = (0 if spans[0] else shift[0], 0 if spans[1] else shift[1])
        window = (min(size[0], window[0]), min(size[1], window[1]))
    padded = (-(-size[0] // window[0]) * window[0], -(-size[1] // window[1]) * window[1])
    return Fit(window, shift, padded, pad_first=how == "authors" or padded == tuple(size) or not any(shift))


def relative_index(window: Size, table: Size) -> Int[np.ndarray, "n n"]:
    """Return where a table of all offsets keeps that of each query from each key.

    Args:
        window: rows and columns.
        table: rows and columns of the window that the table was made for, at least those of `window`. The table has
            one entry for each offset (dy, dx), dy from -(rows - 1) to rows - 1, row by row.

    Returns:
        `[n, n]` for the n tokens of a window row by row: query, then key.

    Source: Liu et al. 2021 (arXiv:2103.14030), section 3.2, equation 4.
    """
    rows, columns = (axis.reshape(-1) for axis in np.indices(window))
    dy = rows[:, None] - rows[None] + table[0] - 1
    dx = columns[:, None] - columns[None] + table[1] - 1
    return dy * (2 * table[1] - 1) + dx


def shift_mask(placed: Fit, value: float) -> Float[np.ndarray, "windows n n"] | None:
    """Make what is added to the scores of a rolled map, so that tokens attend to their former neighbours only.

    Args:
        placed: the windows.
        value: for tokens that were apart; 0 for the others.

    Returns:
        `[windows, n, n]` float32, windows row by row, or None where nothing is rolled.

    Source: Liu et al. 2021 (arXiv:2103.14030), section 3.2, figure 4. Padding counts as part of the map, as in the
    authors' code.
    """
    if not any(placed.shift):
        return None
    # Along each side, what came round from the other end is in the last windows, beside what was there before.
    parts = []
    for length, window, shift in zip(placed.size, placed.window, placed.shift, strict=True):
        place = np.arange(length)
        parts.append((place >= length - window).astype(int) + (place >= length - shift))
    regions = parts[0][:, None] * 3 + parts[1]
    regions = partition(regions[None, :, :, None], placed.window, 1).reshape(-1, math.prod(placed.window))
    return np.where(regions[:, :, None] == regions[:, None, :], 0.0, value).astype(np.float32)


def log_offsets(window: Size, pretrained: Size | None = None) -> Float[np.ndarray, "rows columns 2"]:
    """Compute offsets in a window on a logarithmic scale: sign(x) log2(1 + |x|) / log2(8), x being 8 at most.

    Args:
        window: rows and columns.
        pretrained: the window whose largest offset is 8; None is `window` itself.

    Returns:
        `[2 rows - 1, 2 columns - 1, 2]` float32, (dy, dx).

    Source: Liu et al. 2022 (Swin V2, arXiv:2111.09883), equation 4, with the normalisation of the authors'
    models/swin_transformer_v2.py.
    """
    axes = [
        np.arange(1 - side, side) * 8.0 / max(reference - 1, 1)
        for side, reference in zip(window, pretrained or window, strict=True)
    ]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return (np.sign(offsets) * np.log2(1.0 + np.abs(offsets)) / 3.0).astype(np.float32)


def resize_table(table: Float[Array, "rows columns heads"], size: Size) -> Float[Array, "rows2 columns2 heads"]:
    """Return a table of relative position biases for another window, by cubic convolution.

    Args:
        table: `[2 rows - 1, 2 columns - 1, heads]` of a window of rows x columns.
        size: rows and columns of the other table.

    Source: the authors' utils.py, `load_pretrained` (bicubic, not antialiased). timm interpolates linearly between
    offsets that it spaces in a geometric progression, as BEiT does.
    """
    return posemb.resize_grid(table, size, antialias=False)


def partition(x: Shaped[Array, "b H W c"], window: Size, groups: int) -> Shaped[Array, "b windows groups n d"]:
    """Cut a map into windows, and its channels into groups (heads), in one transposition.

    Args:
        x: `[B, H, W, C]`; the window divides H and W, the groups C.
        window: rows and columns.
        groups: how many.

    Returns:
        `[B, windows, groups, n, C / groups]`: windows row by row, and the n tokens of each row by row.
    """
    batch, height, width, channels = x.shape
    rows, columns = window
    x = x.reshape(batch, height // rows, rows, width // columns, columns, groups, channels // groups)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6)  # [b, rows of windows, columns of windows, groups, rows, columns, d]
    return x.reshape(batch, -1, groups, rows * columns, channels // groups)


def merge(windows: Shaped[Array, "b windows groups n d"], window: Size, size: Size) -> Shaped[Array, "b H W c"]:
    """Undo `partition` for a map of H x W = size."""
    batch, _, groups, _, dim = windows.shape
    rows, columns = window
    x = windows.reshape(batch, size[0] // rows, size[1] // columns, groups, rows, columns, dim)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(batch, *size, groups * dim)
