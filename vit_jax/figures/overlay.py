"""Draws masks and boxes on images, and panels side by side, with Pillow alone."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from vit_jax.figures.lettering import Font, fitted, font

_FIRST = ("0072b2", "e69f00", "009e73", "d55e00", "56b4e9", "cc79a7", "f0e442")
"""Colours that people with any colour vision tell apart (Okabe and Ito 2008); a mask's further classes go on by hue."""
_GOLDEN = 0.6180339887498949
_SMALL_PX = 320
"""Images whose longer side is shorter than this are enlarged by a whole factor, so that text fits beside them."""
_FONT_PX = 14
_GAP_PX = 6
_INK, _PAPER = (0, 0, 0), (255, 255, 255)


def palette(n: int) -> UInt8[np.ndarray, "n 3"]:
    """Return n colours for classes, the same ones each time; the first k of them do not depend on n.

    Returns:
        `[n, 3]` uint8, red, green and blue.

    Example:
        >>> palette(2).tolist()
        [[0, 114, 178], [230, 159, 0]]
    """
    colours = [tuple(bytes.fromhex(text)) for text in _FIRST[:n]]
    for i in range(len(colours), n):
        value, saturation = (1.0, 0.75, 0.55)[i % 3], (0.9, 0.55)[i // 3 % 2]
        rgb = colorsys.hsv_to_rgb(i * _GOLDEN % 1.0, saturation, value)
        colours.append(tuple(round(255 * part) for part in rgb))
    return np.array(colours, np.uint8).reshape(n, 3)


def mask_overlay(
    image: Image.Image,
    mask: Int[np.ndarray, "H W"],
    names: Sequence[str],
    *,
    ignored: int = -1,
    opacity: float = 0.5,
) -> Image.Image:
    """Colour each pixel of an image by its class, with a legend of the classes that occur.

    Args:
        image: of any mode; a small one is enlarged by a whole factor.
        mask: `[H, W]` int, each pixel's class in [0, len(names)), or `ignored`.
        names: of the classes.
        ignored: value of pixels that stay as they are.
        opacity: share of the class's colour, in [0, 1].

    Returns:
        RGB; the legend is below the image.

    Raises:
        ValueError: a mask that is not the image's size, or a value that is no class.

    Example:
        >>> picture = mask_overlay(Image.new("RGB", (400, 300)), np.zeros((300, 400), int), ["sky", "sea"])
        >>> picture.width
        400
    """
    mask = np.asarray(mask)
    if mask.shape != (image.height, image.width):
        raise ValueError(f"a mask of shape {mask.shape} does not fit an image of {image.height}x{image.width} pixels")
    labels = [int(label) for label in np.unique(mask[mask != ignored])]
    if labels and not 0 <= labels[0] <= labels[-1] < len(names):
        raise ValueError(f"the mask has the values {labels[0]} to {labels[-1]}, and there are {len(names)} classes")
    colours = palette(len(names))
    pixels = np.asarray(image.convert("RGB"), np.float32)
    coloured = colours[np.clip(mask, 0, len(names) - 1)].astype(np.float32) if len(names) else pixels
    blended = np.where((mask != ignored)[..., None], (1 - opacity) * pixels + opacity * coloured, pixels)
    picture = _enlarged(Image.fromarray(np.rint(blended).astype(np.uint8)), _factor(image))
    return _above_legend(picture, [(names[label], tuple(colours[label].tolist())) for label in labels])


def draw_boxes(
    image: Image.Image,
    boxes: Float[np.ndarray, "n 4"],
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    names: Sequence[str] = (),
) -> Image.Image:
    """Draw boxes on an image, each with its label and score.

    Args:
        image: of any mode; a small one is enlarged by a whole factor.
        boxes: `[n, 4]` left, top, right, bottom in pixels of the image; what lies outside is not drawn.
        labels: of each box.
        scores: of each box, in [0, 1]; None writes the labels alone.
        names: of all classes, which fixes their colours; by default those of the labels that occur.

    Returns:
        RGB. Boxes that come first are drawn on top.

    Raises:
        ValueError: another number of labels or scores than of boxes.

    Example:
        >>> draw_boxes(Image.new("L", (400, 300)), np.array([[10, 20, 50, 60]]), ["seven"], [0.9]).mode
        'RGB'
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    texts = list(labels) if scores is None else [f"{a} {b:.0%}" for a, b in zip(labels, scores, strict=True)]
    if len(texts) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes have {len(texts)} labels")
    order = list(dict.fromkeys([*names, *sorted(set(labels))]))
    colours = palette(len(order)).tolist()
    factor = _factor(image)
    picture = _enlarged(image.convert("RGB"), factor)
    draw = ImageDraw.Draw(picture)
    line = max(2, round(min(picture.size) / 200))
    for box, label, text in reversed(list(zip(boxes * factor, labels, texts, strict=True))):
        colour = tuple(colours[order.index(label)])
        left, top, right, bottom = map(round, box.tolist())
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=line)
        _write_tag(draw, picture.size, (left, top), text, colour)
    return picture


def panels(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Set images side by side, all as high as the highest, each with its caption above.

    Args:
        images: of any modes and sizes; small ones are enlarged.
        captions: of each image; one that is too long is cut.

    Returns:
        RGB on white.

    Raises:
        ValueError: no images, or another number of captions.

    Example:
        >>> panels([Image.new("RGB", (400, 300))] * 2, ["original", "masked"]).width
        818
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images have {len(captions)} captions")
    height = max(image.height * _factor(image) for image in images)
    shown = [_as_high(image.convert("RGB"), height) for image in images]
    letters = font(_FONT_PX)
    top = _line_height(letters) + 2 * _GAP_PX
    width = sum(image.width + _GAP_PX for image in shown) + _GAP_PX
    picture = Image.new("RGB", (width, top + height + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(picture)
    left = _GAP_PX
    for image, caption in zip(shown, captions, strict=True):
        draw.text((left, _GAP_PX), fitted(caption, letters, image.width), _INK, letters)
        picture.paste(image, (left, top))
        left += image.width + _GAP_PX
    return picture


def index_png(mask: UInt8[np.ndarray, "H W"], names: Sequence[str]) -> Image.Image:
    """Make a palette image of a mask, whose pixel values are the classes' numbers.

    Args:
        mask: `[H, W]` uint8, each pixel's class; by custom 255 is ignored.
        names: of the classes, at most 256.

    Returns:
        Mode P, in the colours of `mask_overlay`; values that are no class are black.

    Raises:
        ValueError: a mask of another type or number of axes, or more classes than a PNG's palette has room for.

    Example:
        >>> image = index_png(np.array([[0, 1, 255]], np.uint8), ["sky", "sea"])
        >>> image.mode, np.asarray(image).tolist()
        ('P', [[0, 1, 255]])
    """
    mask = np.asarray(mask)
    if mask.dtype != np.uint8 or mask.ndim != 2 or len(names) > 256:
        raise ValueError(f"a mask {mask.dtype} {mask.shape} of {len(names)} classes; valid: uint8 [H, W], at most 256")
    image = Image.fromarray(mask)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(names)] = palette(len(names))
    image.putpalette(colours.tobytes())  # which makes it mode P
    return image


def _factor(image: Image.Image) -> int:
    """Return how much a small image is enlarged."""
    return -(-_SMALL_PX // max(image.size)) if max(image.size) < _SMALL_PX else 1


def _enlarged(image: Image.Image, factor: int) -> Image.Image:
    """Return a copy with each pixel as a square of `factor` pixels."""
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _as_high(image: Image.Image, height: int) -> Image.Image:
    """Return a copy of the given height; enlarged by a whole number it keeps its pixels sharp."""
    width = max(1, round(image.width * height / image.height))
    sharp = height % image.height == 0
    return image.resize((width, height), Image.Resampling.NEAREST if sharp else Image.Resampling.BICUBIC)


def _above_legend(picture: Image.Image, entries: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """Set a picture above its legend, a square of colour and a name for each entry."""
    if not entries:
        return picture
    letters = font(_FONT_PX)
    line = _line_height(letters) + _GAP_PX
    places, x, y = [], _GAP_PX, picture.height + _GAP_PX
    for name, colour in entries:
        text = fitted(name, letters, picture.width - 3 * _GAP_PX - _FONT_PX)
        width = _FONT_PX + _GAP_PX + letters.getlength(text)
        if x > _GAP_PX and x + width > picture.width - _GAP_PX:
            x, y = _GAP_PX, y + line
        places.append((x, y, text, colour))
        x += round(width) + 2 * _GAP_PX
    whole = Image.new("RGB", (picture.width, y + line), _PAPER)
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    for x, y, text, colour in places:
        draw.rectangle((x, y + 2, x + _FONT_PX - 1, y + _FONT_PX + 1), colour, _INK)
        draw.text((x + _FONT_PX + _GAP_PX, y), text, _INK, letters)
    return whole


def _write_tag(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], corner: tuple[int, int], text: str, colour: tuple[int, ...]
) -> None:
    """Write a label on its colour above a box's top left corner, or inside the box if there is no room above."""
    letters = font(_FONT_PX)
    text = fitted(text, letters, size[0] - 4)
    width, height = round(letters.getlength(text)) + 4, _line_height(letters) + 2
    left = min(max(corner[0], 0), size[0] - width)
    top = corner[1] - height if corner[1] >= height else max(corner[1], 0)
    top = min(top, size[1] - height)
    draw.rectangle((left, top, left + width - 1, top + height - 1), colour)
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 140
    draw.text((left + 2, top), text, _PAPER if dark else _INK, letters)


def _line_height(letters: Font) -> int:
    """Pixels from one line's top to the next."""
    return round(letters.getbbox("Ag")[3]) + 3
