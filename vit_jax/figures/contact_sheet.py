"""Many small images on one page, each with its name."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vit_jax.figures.lettering import fitted, font

_GAP_PX = 10
_FONT_PX = 13


def contact_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str], *, columns: int = 8, cell_px: int = 128
) -> Image.Image:
    """Draw images in rows, each fitted into a square, with its caption below.

    Args:
        images: `[H, W, 1 or 3]` uint8 each, of any sizes; small ones are enlarged without being blurred.
        captions: of each image; a long one is cut.
        columns: images in a row.
        cell_px: side of the square.

    Example:
        >>> contact_sheet([np.zeros((8, 8, 1), np.uint8)], ["a digit"]).width
        148
    """
    letters = font(_FONT_PX)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width, height = cell_px + _GAP_PX, cell_px + _GAP_PX + 2 * _FONT_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, columns)
        left, top = _GAP_PX + column * width, _GAP_PX + row * height
        picture = _fitted(image, cell_px)
        corner = (left + (cell_px - picture.width) // 2, top + (cell_px - picture.height) // 2)
        sheet.paste(picture, corner)
        baseline = (left + cell_px / 2, top + cell_px + 1.5 * _FONT_PX)
        draw.text(baseline, fitted(caption, letters, cell_px), fill="black", font=letters, anchor="ms")
    return sheet


def _fitted(image: np.ndarray, cell_px: int) -> Image.Image:
    """Return an image whose longer side is the cell's."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    scale = cell_px / max(picture.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    return picture.resize([max(round(side * scale), 1) for side in picture.size], method)
