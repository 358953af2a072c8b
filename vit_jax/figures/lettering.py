"""Fits names into pictures: any text, on one line, no longer than there is room."""

import bisect
import functools
import importlib.util
import pathlib

from PIL import ImageFont

from vit_jax.system.terminal import visible

_MOST = 1000
"""Characters of a text that are measured; no picture has room for more."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def shortened(text: str, length: int) -> str:
    """Return a text with visible control characters, its end replaced by dots where it is longer than `length`.

    Example:
        >>> shortened("a golden retriever", 9)
        'a golden…'
    """
    text = visible(text[: length + 1])
    return text if len(text) <= length else f"{text[: length - 1]}…"


def fitted(text: str, font: Font, width: float) -> str:
    """Return a text as `shortened` does, but by its width in pixels; empty where there is no room for a letter."""
    text = visible(text[:_MOST])
    if font.getlength(text) <= width:
        return text
    fits = bisect.bisect_right(range(1, len(text)), width, key=lambda count: font.getlength(f"{text[:count]}…"))
    return f"{text[:fits]}…" if fits else ""


@functools.cache
def font(size_px: int) -> Font:
    """Load matplotlib's font, which has more than Pillow's: accents, Greek, Cyrillic. Matplotlib is not imported."""
    spec = importlib.util.find_spec("matplotlib")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        file = pathlib.Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size_px)
    return ImageFont.load_default(size_px)
