"""Data that travels between the parts: fields, batches, features, placements, the training state."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.struct
import jax
import numpy as np

from vit_jax.errors import InputError

Params = Any
"""A nested dict of float32 arrays, as Flax makes it."""

Variables = dict[str, Any]
"""Flax collections besides `params` that a step may change: batch statistics, codebooks, centres."""

Kind = Literal["image", "mask", "boxes", "instances", "label", "labels", "array"]
KINDS: tuple[Kind, ...] = ("image", "mask", "boxes", "instances", "label", "labels", "array")
PLACED: tuple[Kind, ...] = ("image", "mask", "boxes", "instances")
"""Kinds with a place in the image, which follow its geometry."""

IGNORED = -1
"""Value of a mask's pixel that belongs to no class and counts nowhere; class of a box that only fills the array."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One named value of an example.

    kind: what the value is, and its array once it is decoded and placed:
        `image`: `[H, W, C]` uint8, or `[T, H, W, C]` with a leading time axis.
        `mask`: `[H, W]` int32, each pixel's class, or IGNORED.
        `boxes`: `[M, 5]` float32, a row for each box: left, top, right, bottom in pixels of the array's image, and the
            class; further columns are carried along. Rows of class IGNORED fill the array up.
        `instances`: `[H, W]` int32; 0 is no instance, else 1 + class + len(names) * number of the instance.
        `label`: `[]` int32, a class.
        `labels`: `[len(names)]` float32 in [0, 1], a number for each class.
        `array`: any other array of a fixed shape.
    shape: of one example's array; None where the preprocessing settles it (height, width, most boxes).
    dtype: of the array.
    names: of the classes, in the order of their numbers; empty where values are no classes.
    ignore: values of a stored mask that become IGNORED.
    """

    kind: Kind
    shape: tuple[int | None, ...] = ()
    dtype: str = "int32"
    names: tuple[str, ...] = ()
    ignore: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Turn lists, as JSON has them, into tuples.

        Raises:
            InputError: an unknown kind.
        """
        for name in ("shape", "names", "ignore"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in KINDS:
            raise InputError(f"a field's kind is {self.kind!r}; valid: {', '.join(KINDS)}")

    @property
    def is_placed(self) -> bool:
        """Whether the value has a place in the image and follows its geometry."""
        return self.kind in PLACED

    def blank(self) -> np.ndarray:
        """Return an array of the field's shape and type: zeros, and boxes of no class.

        Raises:
            ValueError: the shape is not settled.
        """
        if None in self.shape:
            raise ValueError(f"the shape {self.shape} is not settled")
        array = np.zeros(tuple(size or 0 for size in self.shape), self.dtype)
        if self.kind == "boxes":
            array[:, 4] = IGNORED
        return array


Fields = Mapping[str, Field]
"""Name -> field of an example. The image is called `image`."""


def class_fields(names: tuple[str, ...] | list[str], *, several: bool = False) -> dict[str, Field]:
    """Fields of images that are labelled with classes, without the image's size.

    Args:
        names: of the classes.
        several: whether an image has any number of classes, or exactly one.

    Returns:
        `{"image": ..., "label": ...}`; the label is of kind `labels` if there are several.

    Example:
        >>> class_fields(["cat", "dog"])["label"].names
        ('cat', 'dog')
    """
    label = Field("labels", (len(names),), "float32", tuple(names)) if several else Field("label", names=tuple(names))
    return {"image": Field("image", (None, None, None), "uint8"), "label": label}


Batch = dict[str, Any]
"""Arrays that share their leading axis B (or [devices, B / devices] once placed under `pmap`).

One array for each field of the data, `[B, *field.shape]`; images are float32 and normalised after `prepare`.
index: `[B]` uint32, the example's position in the endless training stream (modulo 2**32), or its record number in an
    evaluation.
is_example: `[B]` float32, 1 for an example and 0 for a row that only fills the batch up (a masked row); absent where
    there are none of these.
"""


def mask_of(batch: Batch) -> jax.Array:
    """Return the batch's `is_example`, `[B]` float32; ones where it is absent."""
    return batch["is_example"] if "is_example" in batch else jax.numpy.ones(len(next(iter(batch.values()))), "float32")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a model's input lies in the image that it was made of, and how its values are pixels.

    image_size: height and width of the original image in pixels, upright.
    box: left, top, right, bottom of the part of the image that the input shows, in pixels of the original; it may
        reach beyond the image where the input was padded.
    input_size: height and width of the input in pixels.
    mean, std: of each channel: a pixel in [0, 255] is 255 times (value * std + mean).
    """

    image_size: tuple[int, int]
    box: tuple[float, float, float, float]
    input_size: tuple[int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def whole(cls, size: tuple[int, int]) -> "Placement":
        """Return that of an image which is the input itself."""
        return cls(size, (0.0, 0.0, float(size[1]), float(size[0])), size)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the original for each pixel of the input, along x and y."""
        left, top, right, bottom = self.box
        return (right - left) / self.input_size[1], (bottom - top) / self.input_size[0]

    @property
    def whole_box(self) -> tuple[int, int, int, int]:
        """The box in whole pixels of the original; of a strip, too, at least one pixel wide and high.

        Example:
            >>> Placement((9, 1), (0.0, 4.5, 1.0, 5.5), (8, 8)).whole_box
            (0, 4, 1, 6)
            >>> Placement((8, 1), (0.0, 3.5, 1.0, 4.5), (8, 8)).whole_box
            (0, 4, 1, 5)
        """
        left, top, right, bottom = self.box
        x, y = min(round(left), math.ceil(right) - 1), min(round(top), math.ceil(bottom) - 1)
        return x, y, max(round(right), x + 1), max(round(bottom), y + 1)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Map points `[..., 2]` (x, y) of the input to the original image.

        Example:
            >>> Placement((100, 200), (50, 0, 150, 100), (10, 10)).to_image(np.array([5.0, 5.0]))
            array([100.,  50.])
        """
        return np.asarray(points, np.float64) * self.scale + np.array(self.box[:2])

    def to_pixels(self, values: np.ndarray) -> np.ndarray:
        """Turn an input's values `[..., C]` into pixels, uint8.

        Example:
            >>> Placement.whole((1, 1)).to_pixels(np.array([[[1.0, 0.5, -2.0]]]))
            array([[[255, 128,   0]]], dtype=uint8)
        """
        pixels = 255.0 * (np.asarray(values, np.float64) * np.array(self.std) + np.array(self.mean))
        return np.clip(np.round(pixels), 0, 255).astype(np.uint8)

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """Map points `[..., 2]` (x, y) of the original image to the input; undoes `to_image`."""
        return (np.asarray(points, np.float64) - np.array(self.box[:2])) / self.scale


def encoder_of(model: Any) -> Any:
    """Return the encoder within what `Task.wrap` gives."""
    return model.encoder


def extent_of(encoder: Any, image_size: Sequence[int]) -> tuple[int, int]:
    """Return height and width in pixels of what an encoder's grid of patches covers, from an image's top left corner.

    Patches that do not divide the image leave a rest out (a plain ViT), or reach beyond it (Swin, whose images are
    padded). It is the image itself where the encoder has no method `extent_of`.

    Args:
        encoder: images to `Features`.
        image_size: height and width in pixels.
    """
    height, width = image_size
    return encoder.extent_of((height, width)) if hasattr(encoder, "extent_of") else (height, width)


class Features(flax.struct.PyTreeNode):
    """What an encoder makes of a batch of images.

    tokens: `[B, N, D]`, prefix tokens (class, distillation, registers) first, then the patches row by row; called with
        `patch_tokens=False`, an encoder may leave out the patches, whatever `grid` says.
    pooled: `[B, D]`, one vector for each image.
    grid: rows and columns of patches `(h, w)`; None if `encode` was given tokens without their grid.
    maps: `[B, h, w, C]` feature maps of a hierarchical model, finest first; None for a plain one.
    intermediates: outputs of the blocks that `intermediates=` named, in the order of the blocks: `[B, N, D]` with the
        prefix tokens for a plain model, `[B, h, w, C]` for one in stages.
    """

    tokens: jax.Array
    pooled: jax.Array
    grid: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)
    maps: tuple[jax.Array, ...] | None = None
    intermediates: tuple[jax.Array, ...] = ()


class TrainState(flax.struct.PyTreeNode):
    """Everything a step changes, and all that a checkpoint needs to continue exactly.

    step: `[]` int32, steps done; also the position in the data.
    params: nested dict of float32 arrays.
    opt_state: Optax state of the trainable leaves only.
    ema_params: like params, or None when the moving average is off.
    key: `[2]` uint32, the run's base key (`jax.random.key_data`); it never changes.
    sums: name -> (sum, count), both `[]` float32, over the steps since the last log.
    skipped: `[]` int32, steps skipped so far because something was not finite.
    skipped_in_row: `[]` int32, how many of them directly precede this state.
    nonfinite_leaf: `[]` int32, the first leaf (in tree order) with a bad gradient or update in the first step of
        that row, the number of leaves if only the loss was bad, -1 if there is no such row.
    variables: the model's collections besides `params`, which the task's forward pass changes; empty for most.
    companions: name -> parameters of a model that the task uses and no step changes, such as a teacher.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema_params: Params | None
    key: jax.Array
    sums: dict[str, tuple[jax.Array, jax.Array]]
    skipped: jax.Array
    skipped_in_row: jax.Array
    nonfinite_leaf: jax.Array
    variables: Variables = flax.struct.field(default_factory=dict)
    companions: dict[str, Params] = flax.struct.field(default_factory=dict)
