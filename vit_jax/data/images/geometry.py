"""Where an image's pixels go on the way to the model: drawn once for an example, applied to each of its fields.

A `Geometry` cuts a box out of the image, resizes it, and cuts the input out of the result. A `Move` is an affine map
within an image of one size, as rotating and shearing are.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vit_jax.types import IGNORED, Placement

Matrix = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): what is at (x, y) of the result was at (a x + b y + c, d x + e y + f)."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How an image becomes a model's input.

    image_size: height and width of the image in pixels.
    box: left, top, right, bottom of the part that is resized, in whole pixels of the image.
    resized: height and width that the part is resized to.
    cut: top, left, height and width of the input in the resized part.
    """

    image_size: tuple[int, int]
    box: tuple[int, int, int, int]
    resized: tuple[int, int]
    cut: tuple[int, int, int, int]

    @property
    def placement(self) -> Placement:
        """Where the input lies in the image."""
        left, top, right, bottom = self.box
        y_scale, x_scale = (bottom - top) / self.resized[0], (right - left) / self.resized[1]
        cut_top, cut_left, height, width = self.cut
        x, y = left + cut_left * x_scale, top + cut_top * y_scale
        return Placement(self.image_size, (x, y, x + width * x_scale, y + height * y_scale), (height, width))

    @property
    def kept(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of what the input shows, in pixels of the image; not beyond `box`."""
        left, top, right, bottom = self.placement.box
        return max(left, self.box[0]), max(top, self.box[1]), min(right, self.box[2]), min(bottom, self.box[3])

    def place_mask(self, mask: np.ndarray) -> np.ndarray:
        """Place a map of numbers by its nearest pixels.

        Args:
            mask: `[H, W]` of any type, as high and wide as the image.

        Returns:
            `[height, width]` of the input, of the same type.
        """
        left, top, right, bottom = self.box
        cut_top, cut_left, height, width = self.cut
        rows = _nearest(top, bottom, self.resized[0], cut_top, height)
        columns = _nearest(left, right, self.resized[1], cut_left, width)
        return mask[rows[:, None], columns[None]]

    def place_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Place boxes; those of which nothing is left in the input are dropped.

        Args:
            boxes: `[n, 5 or more]` float32: left, top, right, bottom in pixels of the image, the class, and what else
                there is.

        Returns:
            `[m, ...]` float32 in pixels of the input.
        """
        corners = self.placement.to_input(boxes[:, :4].reshape(-1, 2)).reshape(-1, 4)
        return clipped(np.concatenate([corners, boxes[:, 4:]], axis=1), self.cut[2], self.cut[3])


def clipped(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Clip boxes to an image and drops those of which nothing is left.

    Args:
        boxes: `[n, 4 or more]`: left, top, right, bottom, and what else there is.
        height: of the image in pixels.
        width: likewise.

    Example:
        >>> clipped(np.array([[-5.0, 2.0, 4.0, 6.0, 1.0], [9.0, 0.0, 12.0, 3.0, 2.0]]), 8, 8)
        array([[0., 2., 4., 6., 1.]], dtype=float32)
    """
    boxes = boxes.astype(np.float32, copy=True)
    boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, width)
    boxes[:, [1, 3]] = boxes[:, [1, 3]].clip(0, height)
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """Return the matrix of a turn about the centre, anticlockwise, as Pillow computes it."""
    angle = -np.deg2rad(degrees % 360.0)
    cos, sin = round(float(np.cos(angle)), 15), round(float(np.sin(angle)), 15)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def move_mask(mask: np.ndarray, moves: Sequence[Matrix], *, empty: int = IGNORED) -> np.ndarray:
    """Move a map of numbers by its nearest pixels.

    Args:
        mask: `[H, W]` of any integer type.
        moves: one after the other.
        empty: value of pixels that came from outside.
    """
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width] + 0.5
    for a, b, c, d, e, f in moves:
        columns, rows = np.floor(a * x + b * y + c).astype(int), np.floor(d * x + e * y + f).astype(int)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        mask = np.where(inside, mask[rows.clip(0, height - 1), columns.clip(0, width - 1)], empty).astype(mask.dtype)
    return mask


def move_boxes(boxes: np.ndarray, moves: Sequence[Matrix], *, height: int, width: int) -> np.ndarray:
    """Move boxes to the hulls of their moved corners, clipped to the image.

    Args:
        boxes: `[n, 5 or more]`, see `Geometry.place_boxes`.
        moves: one after the other.
        height: of the image in pixels.
        width: likewise.
    """
    for a, b, c, d, e, f in moves:
        inverse = np.linalg.inv(np.array([[a, b, c], [d, e, f], [0.0, 0.0, 1.0]]))
        left, top, right, bottom = boxes[:, :4].T.astype(np.float64)
        corners = np.stack([[left, top], [right, top], [left, bottom], [right, bottom]])  # [4, 2, n]
        moved = np.einsum("ij,cjn->cin", inverse[:2, :2], corners) + inverse[:2, 2][None, :, None]
        hull = np.concatenate([moved.min(axis=0), moved.max(axis=0)]).T
        boxes = clipped(np.concatenate([hull, boxes[:, 4:]], axis=1), height, width)
    return boxes


def _nearest(start: int, end: int, size: int, first: int, count: int) -> np.ndarray:
    """Return the pixel in [start, end) that is nearest to the centre of each of `count` of `size` new pixels."""
    centres = start + (np.arange(first, first + count) + 0.5) * (end - start) / size
    return np.floor(centres).astype(int).clip(start, end - 1)
