"""Semantic segmentation: a class for each pixel, by a linear head on the encoder's patches.

Source: the linear decoder of Strudel et al. 2021, "Segmenter" (arXiv:2105.05633), section 3.2, there called Seg-Linear.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int
from PIL import Image

from vit_jax.contracts import Result, Row, Task
from vit_jax.errors import InputError
from vit_jax.figures.overlay import index_png, mask_overlay
from vit_jax.layers.head import Head
from vit_jax.ops import class_weights
from vit_jax.ops.class_weights import ClassWeights
from vit_jax.types import IGNORED, Batch, Features, Placement, extent_of, mask_of

UNSEEN = 255
"""Value, in a written mask, of pixels that the model did not see."""


class SegmentationModel(nn.Module):
    """An encoder with a linear head on each patch, upsampled to the image."""

    encoder: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b H W classes"]:
        """Map images `[B, H, W, C]`, normalised, to logits `[B, H, W, num_classes]` float32."""
        patches = patch_map(self.encoder(images, train=train)).astype(jnp.float32)
        logits = Head(self.num_classes, name="head")(patches)
        return upsampled(logits, images.shape[1:3], extent_of(self.encoder, images.shape[1:3]))


def upsampled(
    logits: Float[Array, "b h w classes"], size: Sequence[int], extent: Sequence[int]
) -> Float[Array, "b H W classes"]:
    """Interpolate a map bilinearly to an image's pixels.

    Args:
        logits: `[B, h, w, C]`.
        size: height and width of the image.
        extent: height and width in pixels of what the map covers, from the top left corner. Beyond it the last row or
            column is repeated; what lies beyond the image is cut off.

    Returns:
        `[B, H, W, C]`.
    """
    (height, width), (rows, columns) = size, extent
    fine = jax.image.resize(logits, (len(logits), rows, columns, logits.shape[-1]), "bilinear", antialias=False)
    rest = ((0, 0), (0, max(height - rows, 0)), (0, max(width - columns, 0)), (0, 0))
    return jnp.pad(fine, rest, mode="edge")[:, :height, :width]


def patch_map(features: Features) -> Float[Array, "b h w dim"]:
    """Return what an encoder says of each place: its patch tokens, or all its maps at the size of the finest one.

    Args:
        features: of an encoder that was asked for its patch tokens.

    Returns:
        `[B, h, w, D]`.
    """
    if features.maps is not None:
        size = features.maps[0].shape[:3]
        maps = [jax.image.resize(each, (*size, each.shape[-1]), "bilinear") for each in features.maps]
        return jnp.concatenate(maps, axis=-1)
    rows, columns = features.grid or (0, 0)
    tokens = features.tokens[:, features.tokens.shape[1] - rows * columns :]
    return tokens.reshape(len(tokens), rows, columns, -1)


@dataclasses.dataclass(frozen=True)
class SegmentationMap(Result):
    """Each pixel's class.

    mask: `[H, W]` int32 in the original image's size: a class, or IGNORED where the model's input did not reach.
    names: of the classes.
    """

    mask: Int[np.ndarray, "H W"]
    names: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """Return the share of each class that occurs among the pixels that were seen, the largest first."""
        counts = np.bincount(self.mask[self.mask != IGNORED].ravel(), minlength=len(self.names))
        order = np.argsort(-counts, kind="stable")
        return {self.names[label]: float(counts[label] / counts.sum()) for label in order if counts[label]}

    def line(self) -> str:
        """Return the classes with their shares, `road 41.0%  sky 22.5%`."""
        return "  ".join(f"{name} {share:.1%}" for name, share in self.shares().items())

    def json(self) -> dict[str, Any]:
        """Return height and width, and the share of each class that occurs."""
        height, width = self.mask.shape
        return {"height": height, "width": width, "shares": self.shares()}

    def draw(self, image: Image.Image) -> Image.Image:
        """Colour the image by its classes."""
        return mask_overlay(image, self.mask, self.names, ignored=IGNORED)

    def files(self) -> dict[str, Image.Image]:
        """Return `mask.png`, whose values are the classes' numbers, and UNSEEN where the input did not reach."""
        values = np.where(self.mask == IGNORED, UNSEEN, self.mask).astype(np.uint8)
        return {"mask.png": index_png(values, self.names)} if len(self.names) <= UNSEEN else {}


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """The task of giving each pixel a class.

    The data need a field of kind `mask`. Pixels that the data ignore count neither in the loss nor in a figure.

    label_smoothing: share of a pixel's label that is spread evenly over all classes in training, in [0, 1). The loss of
        an evaluation has none.
    dice_weight: weight of the Dice loss beside the cross-entropy, 0 or more. It is 1 minus the mean, over the classes
        that an image has, of (2 sum(p y) + 1) / (sum(p) + sum(y) + 1), p being the softmax and y the label of a pixel
        (Milletari et al. 2016, arXiv:1606.04797, with sums instead of squares, as in Chen et al. 2021's TransUNet).
    class_weights: how much a pixel of each class counts in training: numbers by class name (1 for the others), or a
        number for each class. The cross-entropy is then a mean with these weights, as PyTorch's; the Dice loss has
        none. The loss of an evaluation has no weights.
    """

    label_smoothing: float = 0.0
    dice_weight: float = 0.0
    class_weights: ClassWeights = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: data without masks, or a value out of its range.
        """
        if self.num_classes < 2:
            raise InputError(f"segmentation needs at least 2 classes, and the data has {self.num_classes}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(
                f"task.options.label_smoothing is {self.label_smoothing}; valid: at least 0 and less than 1"
            )
        if not 0.0 <= self.dice_weight < float("inf"):
            raise InputError(f"task.options.dice_weight is {self.dice_weight}; valid: 0 or more")
        weights = class_weights.checked(self.class_weights, self.class_names, key="task.options.class_weights")
        if weights == class_weights.BALANCED:
            raise InputError(
                "task.options.class_weights is 'balanced', but the pixels of masks are not counted; valid: numbers by "
                "class name, or a number for each class"
            )
        object.__setattr__(self, "class_weights", weights)

    @property
    def target(self) -> str:
        """Name of the field that is predicted.

        Raises:
            InputError: the data has none.
        """
        for name, field in self.fields.items():
            if field.kind == "mask":
                return name
        there = ", ".join(f"{name} ({field.kind})" for name, field in self.fields.items())
        raise InputError(f"segmentation needs a field of kind mask, and the data has {there}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.fields[self.target].names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Add the head: images to logits `[B, H, W, num_classes]`."""
        return SegmentationModel(encoder, self.num_classes)

    def loss(self, outputs: Float[Array, "b H W classes"], batch: Batch) -> Float[Array, " b"]:
        """Sum the cross-entropy over the pixels that count, plus the Dice loss times their number: `[B]` float32.

        Args:
            outputs: logits `[B, H, W, num_classes]`.
            batch: the mask is `[B, H, W]` int32.
        """
        there, targets = self._targets(batch)
        share = self.label_smoothing
        smoothed = targets * (1.0 - share) + share / self.num_classes
        weighted = smoothed if self.class_weights is None else smoothed * jnp.asarray(self.class_weights, jnp.float32)
        losses = -(weighted * jax.nn.log_softmax(outputs)).sum(axis=-1)
        losses = jnp.where(there, losses, 0.0).sum(axis=(1, 2))
        if self.dice_weight:
            losses += self.dice_weight * self.weight(batch) * self._dice(outputs, there, targets)
        return losses

    def weight(self, batch: Batch) -> Float[Array, " b"]:
        """Count the pixels that belong to a class, each as its class's weight says."""
        there, targets = self._targets(batch)
        if self.class_weights is None:
            return there.sum(axis=(1, 2)).astype(jnp.float32)
        return (targets * jnp.asarray(self.class_weights, jnp.float32)).sum(axis=(1, 2, 3))

    def metrics(
        self, outputs: Float[Array, "b H W classes"], batch: Batch, *, train: bool
    ) -> dict[str, tuple[Array, Array]]:
        """Return `pixel_accuracy`: whether a pixel's highest logit is its class's."""
        there = (batch[self.target] != IGNORED) & (mask_of(batch) > 0)[:, None, None]
        right = there & (outputs.argmax(axis=-1) == batch[self.target])
        return {"pixel_accuracy": (right.sum().astype(jnp.float32), there.sum().astype(jnp.float32))}

    def evaluation(self) -> "Segmentation":
        """Return the task without label smoothing and weights."""
        return dataclasses.replace(self, label_smoothing=0.0, class_weights=None)

    def inference(self) -> "Segmentation":
        """Return the task without class weights, which belong to the training data."""
        return dataclasses.replace(self, class_weights=None)

    @property
    def rows(self) -> Mapping[str, Row]:
        """What evaluators may ask of each example.

        pixel_confusion: `[num_classes, num_classes]` float32, number of pixels of a class (row) that were taken for a
            class (column).
        """
        return {"pixel_confusion": self._confusion}

    def results(self, outputs: Any, placements: Sequence[Placement]) -> list[SegmentationMap]:
        """Return each image's classes in its original size.

        Args:
            outputs: logits `[B, H, W, num_classes]`.
            placements: one for each image.
        """
        return [
            SegmentationMap(_in_original(logits, placement), self.class_names)
            for logits, placement in zip(np.asarray(outputs), placements, strict=True)
        ]

    def _targets(self, batch: Batch) -> tuple[Array, Array]:
        """Return which pixels count, `[B, H, W]` bool, and their labels, `[B, H, W, num_classes]` float32."""
        mask = batch[self.target]
        return mask != IGNORED, jax.nn.one_hot(mask, self.num_classes)  # IGNORED is a row of zeros

    def _dice(self, outputs: Array, there: Array, targets: Array) -> Float[Array, " b"]:
        probabilities = jax.nn.softmax(outputs) * there[..., None]
        both, one, other = (x.sum(axis=(1, 2)) for x in (probabilities * targets, probabilities, targets))
        score = (2 * both + 1) / (one + other + 1)
        occurs = other > 0
        return 1.0 - (score * occurs).sum(axis=-1) / jnp.maximum(occurs.sum(axis=-1), 1)

    def _confusion(self, outputs: Array, batch: Batch) -> Float[Array, "b classes classes"]:
        _, truth = self._targets(batch)
        predicted = jax.nn.one_hot(outputs.argmax(axis=-1), self.num_classes)
        return jnp.einsum("bhwt,bhwp->btp", truth, predicted, precision="highest")


create = Segmentation


def _in_original(logits: Float[np.ndarray, "H W classes"], placement: Placement) -> Int[np.ndarray, "h w"]:
    """Return the class with the highest logit of each pixel of the original image, or IGNORED outside the input.

    The logits are interpolated bilinearly, one class after the other, so that a large photograph takes little memory.
    """
    height, width = placement.image_size
    left, top, right, bottom = placement.whole_box
    first, last = placement.to_input(np.array([[0.0, 0.0], [width, height]]))
    box = (max(first[0], 0.0), max(first[1], 0.0), *np.minimum(last, placement.input_size[::-1]).tolist())
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    size = (columns.stop - columns.start, rows.stop - rows.start)
    best = np.full((size[1], size[0]), -np.inf, np.float32)
    label = np.full(best.shape, IGNORED, np.int32)
    for number in range(logits.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(logits[..., number], np.float32), mode="F")
        values = np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=box))
        higher = values > best
        best, label = np.where(higher, values, best), np.where(higher, number, label)
    mask = np.full((height, width), IGNORED, np.int32)
    mask[rows, columns] = label
    return mask
