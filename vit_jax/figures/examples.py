"""Draws an example of a dataset: its images with what is known of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.figures.overlay import draw_boxes, palette
from vit_jax.types import IGNORED, Field, Fields

_OPACITY = 0.45  # of a mask
_MOST_FRAMES = 4


def draw_example(example: Mapping[str, Any], fields: Fields) -> np.ndarray:
    """Draw the masks and boxes of an example over its image, and its further images beside it.

    Args:
        example: name -> array, as `Field` describes it; images uint8.
        fields: of the example.

    Returns:
        `[H, W, 3]` uint8; a small image with boxes is enlarged.

    Example:
        >>> fields = {"image": Field("image", (8, 8, 1), "uint8")}
        >>> draw_example({"image": np.zeros((8, 8, 1), np.uint8)}, fields).shape
        (8, 8, 3)
    """
    pixels = _side_by_side(example["image"])
    for kind in ("mask", "instances"):
        name = next((name for name, field in fields.items() if field.kind == kind), None)
        if name is not None and example["image"].ndim == 3:
            pixels = _coloured(pixels, fields[name], np.asarray(example[name]))
            break
    for name, field in fields.items():
        if field.kind == "boxes" and example["image"].ndim == 3:
            boxes = example[name][example[name][:, 4] != IGNORED]
            labels = [field.names[int(number)] for number in boxes[:, 4]]
            pixels = np.asarray(draw_boxes(Image.fromarray(pixels), boxes[:, :4], labels, names=field.names))
    others = [name for name, field in fields.items() if field.kind == "image" and name != "image"]
    shown = [pixels, *(_side_by_side(example[name]) for name in others)]
    return np.concatenate(shown, axis=1) if len({each.shape[0] for each in shown}) == 1 else pixels


def caption(example: Mapping[str, Any], fields: Fields) -> str:
    """Name an example's classes; of several or blended ones the strongest first, with their shares.

    Example:
        >>> from vit_jax.types import class_fields
        >>> caption({"label": np.array(1)}, class_fields(["cat", "dog"]))
        'dog'
    """
    for name, field in fields.items():
        if field.kind in ("label", "labels") and field.names:
            return _class_caption(np.asarray(example[name]), field.names)
    return ""


def _class_caption(label: np.ndarray, names: tuple[str, ...]) -> str:
    if label.ndim == 0:
        return names[int(label)]
    strongest = [int(number) for number in np.argsort(-label, kind="stable") if label[number] > 0.01][:3]
    if all(label[number] == 1 for number in strongest):
        return ", ".join(names[number] for number in strongest)
    return " ".join(f"{names[number]} {label[number]:.2f}" for number in strongest)


def _side_by_side(image: np.ndarray) -> np.ndarray:
    """`[H, W, 3]`; of a clip the first, the last and some frames in between."""
    if image.ndim == 4:
        frames = np.linspace(0, len(image) - 1, min(len(image), _MOST_FRAMES)).round().astype(int)
        image = np.concatenate(list(image[frames]), axis=1)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]


def _coloured(pixels: np.ndarray, field: Field, numbers: np.ndarray) -> np.ndarray:
    """Blend each class's colour, or each instance's, with the pixels."""
    nothing = IGNORED if field.kind == "mask" else 0
    colours = palette(max(int(numbers.max(initial=0)) + 1, len(field.names)))[np.maximum(numbers, 0)]
    blended = np.rint((1 - _OPACITY) * pixels + _OPACITY * colours).astype(np.uint8)
    return np.where((numbers != nothing)[:, :, None], blended, pixels)
