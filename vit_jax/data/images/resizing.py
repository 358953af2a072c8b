"""Resizes the part of an image that a geometry keeps, by Pillow or by OpenCV."""

import math

import numpy as np
from PIL import Image

from vit_jax.data.images.decoding import Box, Picture, Reading, fast_libraries
from vit_jax.data.images.geometry import Geometry

INTERPOLATION = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
WITHOUT_ANTIALIAS = {"bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC", "nearest": "INTER_NEAREST"}
"""Names in OpenCV."""

MOST_CUT_OFF = 2**22
"""Pixels that are resized and then cut off, at most."""
MOST_BETWEEN = 2**27
"""Pixels between the two passes where the first is along the rows, if it can be fewer."""
_REACH = 4  # pixels on each side that a filter looks at, and one more; times the scale where it shrinks

_ROUNDING = 2**-10  # of a pixel, so that whole numbers stay what they are


def placed(
    picture: Picture, geometry: Geometry, interpolation: str, reading: Reading, *, width_first: bool = False
) -> np.ndarray:
    """Return what a geometry makes of an image: `[height, width, C]` uint8.

    Args:
        picture: of the geometry's `image_size`.
        geometry: what is cut out, resized, and cut out of that.
        interpolation: a name in `INTERPOLATION`, or without antialiasing in `WITHOUT_ANTIALIAS`.
        reading: how the image is decoded and resized.
        width_first: whether antialiasing filters the rows before the columns, or else in the order that Pillow chooses.
    """
    box, size, (top, left, height, width) = geometry.box, geometry.resized, geometry.cut
    # Of a strip the resized whole would be huge. Else it is resized as a whole, to the last bit like other libraries.
    strip = size[0] * size[1] > height * width + MOST_CUT_OFF
    if strip:
        box, size, top, left = geometry.kept, (height, width), 0, 0
    ratio = min((box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1])
    reduction = picture.largest_reduction(ratio) if reading.reduced else 1
    if reading.antialias:
        pixels = _by_pillow(picture, box, size, reduction, interpolation, strip=strip, width_first=width_first)
    else:
        pixels = _by_opencv(picture, box, size, reduction, interpolation)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    # A copy, so that what was cut off is not kept.
    return pixels if size == (height, width) else pixels[top : top + height, left : left + width].copy()


def _by_pillow(
    picture: Picture,
    box: Box,
    size: tuple[int, int],
    reduction: int,
    interpolation: str,
    *,
    strip: bool,
    width_first: bool,
) -> np.ndarray:
    image, method = picture.decode(reduction), INTERPOLATION[interpolation]
    box = picture.in_reduced(box, reduction)
    if strip or width_first:  # Pillow's boxes are of single precision, and it would filter all rows
        around = _around(box, size, (image.height, image.width))
        image, box = image.crop(around), _moved(box, around[0], around[1])
    height, width = size
    if width * (box[3] - box[1]) > max(MOST_BETWEEN, height * image.width):
        image = image.resize((image.width, height), method, box=(0, box[1], image.width, box[3]))
        box = (box[0], 0, box[2], height)
    elif width_first:
        image = image.resize((width, image.height), method, box=(box[0], 0, box[2], image.height))
        box = (0, box[1], width, box[3])
    return np.asarray(image.resize((width, height), method, box=box))


def _by_opencv(picture: Picture, box: Box, size: tuple[int, int], reduction: int, interpolation: str) -> np.ndarray:
    cv2 = fast_libraries()[0]
    method = getattr(cv2, WITHOUT_ANTIALIAS[interpolation])
    pixels = picture.pixels(reduction, bottom=math.ceil(box[3]))
    left, top, right, bottom = box = picture.in_reduced(box, reduction)
    height, width = size
    if all(float(side).is_integer() for side in box):
        return cv2.resize(pixels[int(top) : int(bottom), int(left) : int(right)], (width, height), interpolation=method)
    x, y, right_end, bottom_end = _around(box, size, pixels.shape[:2])
    left, top, right, bottom = _moved(box, x, y)
    x_scale, y_scale = (right - left) / width, (bottom - top) / height
    # `cv2.resize` takes the centres of pixels, and for the nearest pixel their corners, rounded down.
    corner = _ROUNDING - 0.5
    x_shift, y_shift = (corner, corner) if interpolation == "nearest" else ((x_scale - 1) / 2, (y_scale - 1) / 2)
    matrix = [[x_scale, 0.0, left + x_shift], [0.0, y_scale, top + y_shift]]
    return cv2.warpAffine(
        pixels[y:bottom_end, x:right_end],
        np.array(matrix),
        (width, height),
        flags=method | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _around(box: Box, size: tuple[int, int], image_size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return whole pixels of an image, all that resizing a box to a size looks at."""
    (left, top, right, bottom), (height, width) = box, size
    x, y = (_REACH * max(scale, 1) for scale in ((right - left) / width, (bottom - top) / height))
    end = min(math.ceil(right + x), image_size[1]), min(math.ceil(bottom + y), image_size[0])
    return max(math.floor(left - x), 0), max(math.floor(top - y), 0), *end


def _moved(box: Box, x: int, y: int) -> Box:
    left, top, right, bottom = box
    return left - x, top - y, right - x, bottom - y
