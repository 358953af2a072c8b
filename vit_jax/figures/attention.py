"""Pictures for papers and reports, drawn with matplotlib, which is imported when the first is drawn."""

import math
import typing
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vit_jax.figures.lettering import shortened

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# In inches: the whole figure at most, the gap between panels side by side, and that above a panel for its name.
_WIDTH, _HEIGHT, _GAP, _NAME = 12.0, 6.0, 0.1, 0.32
# The least height of a panel, for which a figure of many heads and a wide image may be wider.
_LEAST_PANEL = 0.5
_LONGEST_TITLE = 200  # characters


def attention_figure(
    image: UInt8[np.ndarray, "H W c"],
    head_maps: Float[np.ndarray, "heads h w"],
    rollout_map: Float[np.ndarray, "h w"],
    *,
    extent: Sequence[int] | None = None,
    title: str = "",
) -> "Figure":
    """Return the image, the map of each head, and the rollout's over the image.

    Maps are interpolated between the patches' centres and coloured from their own smallest to their own largest
    value: panels are not on one scale. The less a patch counts in the rollout, the more the image shows through.

    Args:
        image: `[H, W, 1]` or `[H, W, 3]` uint8.
        head_maps: `[heads, h, w]`, one value a patch.
        rollout_map: `[h, w]`.
        extent: height and width in pixels of what the maps cover, from the image's top left corner; None is the image.
        title: a line above, of which the first 200 characters are shown; empty is none.
    """
    from matplotlib.figure import Figure

    rows = _rows(len(head_maps))
    columns = math.ceil(len(head_maps) / rows)
    aspect = image.shape[1] / image.shape[0]
    head = _head_height(rows, columns, aspect)
    # The image and the rollout are as high as all the rows of heads together.
    whole = rows * head + (rows - 1) * _NAME
    width = aspect * (2 * whole + columns * head) + (columns + 1) * _GAP
    height = whole + _NAME
    figure = Figure((width, height))

    def panel(name: str, left: float, top: float, side: float) -> "Axes":
        """Axes of the image's proportions, `side` high, placed in inches."""
        box = (left / width, (whole - top - side) / height, aspect * side / width, side / height)
        axes = figure.add_axes(box)
        axes.set_title(name, fontsize=10, pad=3)
        axes.set_axis_off()
        return axes

    extent = image.shape[:2] if extent is None else extent
    _show_image(panel("input", 0, 0, whole), image)
    for i, values in enumerate(head_maps):
        row, column = divmod(i, columns)
        left = aspect * whole + _GAP + column * (aspect * head + _GAP)
        _show_map(panel(f"head {i + 1}", left, row * (head + _NAME), head), values, image.shape, extent)
    rollout = panel("rollout", width - aspect * whole, 0, whole)
    _show_image(rollout, image)
    _show_map(rollout, rollout_map, image.shape, extent, strength=0.85)
    if title:
        text = shortened(title, _LONGEST_TITLE)
        figure.suptitle(text, x=0.5, y=1.0, verticalalignment="bottom", fontsize=12, parse_math=False)
    return figure


def _rows(panels: int) -> int:
    """Return the most rows that are no longer than the columns and leave no gap: 1 of 3 panels, 3 of 12, 4 of 16."""
    return next(rows for rows in range(math.isqrt(panels), 0, -1) if panels % rows == 0)


def _head_height(rows: int, columns: int, aspect: float) -> float:
    """Return how high a head's panel can be, in inches, for the figure to keep to its width and height."""
    names = (rows - 1) * _NAME
    by_width = (_WIDTH - (columns + 1) * _GAP - 2 * aspect * names) / (aspect * (2 * rows + columns))
    return max(min(by_width, (_HEIGHT - names) / rows), _LEAST_PANEL)


def _show_image(axes: "Axes", image: UInt8[np.ndarray, "H W c"]) -> None:
    grey = image.shape[2] == 1
    axes.imshow(image[:, :, 0] if grey else image, cmap="gray", vmin=0, vmax=255, extent=_extent(image.shape))


def _show_map(
    axes: "Axes",
    values: Float[np.ndarray, "h w"],
    shape: Sequence[int],
    extent: Sequence[int],
    strength: float | None = None,
) -> None:
    """Stretch a map over the part `extent` (height, width) of an image of the given shape (height, width, ...).

    With a strength in [0, 1], what lies below shows through where the map is small.
    """
    fine = _stretched(_unit(values))
    alpha = None if strength is None else strength * fine**0.5
    axes.imshow(fine, cmap="inferno", vmin=0, vmax=1, alpha=alpha, extent=_extent(extent), interpolation="bilinear")
    axes.set(xlim=(0, shape[1]), ylim=(shape[0], 0))


def _stretched(values: Float[np.ndarray, "h w"], pixels: int = 512) -> Float[np.ndarray, "H W"]:
    """Enlarge a map in [0, 1] by cubic interpolation within that range, which matplotlib's would leave."""
    factor = math.ceil(pixels / min(values.shape))
    size = (values.shape[1] * factor, values.shape[0] * factor)
    fine = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(fine), 0.0, 1.0)


def _extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in pixels."""
    return 0, shape[1], shape[0], 0


def _unit(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Bring a map to [0, 1]; one that is the same everywhere to 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
