"""Augmentation inside the compiled step: pure functions of keys and a batch.

What does not change an image's shape is done here, on the accelerator. Each example's key depends on
the seed and on the example's place in the training stream alone, so that the result does not depend on
the number of devices.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from vit_jax.contracts import BatchTransform, Prepare
from vit_jax.types import IGNORED, Batch, Field, Fields, Kind


def map_placed(batch: Batch, fields: Fields, function: Callable[[Kind, Array], Array]) -> Batch:
    """Apply a function to every array of a batch that has a place in the image.

    Args:
        batch: arrays by name.
        fields: of the batch.
        function: called with a field's kind and its array `[B, ...]`.
    """
    placed: dict[str, Kind] = {name: field.kind for name, field in fields.items() if field.is_placed and name in batch}
    return batch | {name: function(kind, batch[name]) for name, kind in placed.items()}


def size_of(batch: Batch, fields: Fields) -> tuple[int, int]:
    """Return height and width in pixels of the images of a batch."""
    name = "image" if "image" in batch else next(name for name, field in fields.items() if field.kind == "image")
    return batch[name].shape[-3], batch[name].shape[-2]


def flip(flipped: Bool[Array, " b"], kind: Kind, x: Shaped[Array, "b ..."], width_px: int) -> Shaped[Array, "b ..."]:
    """Mirror left to right what `flipped` says; dtype and range stay.

    Args:
        flipped: `[B]`.
        kind: of the array.
        x: `[B, ..., H, W, C]` for images, `[B, H, W]` for masks and instances, `[B, M, 5]` for boxes.
        width_px: of the image.
    """
    if kind == "boxes":
        left, right = x[..., 0], x[..., 2]
        there = x[..., 4] != IGNORED
        mirrored = x.at[..., 0].set(jnp.where(there, width_px - right, left))
        mirrored = mirrored.at[..., 2].set(jnp.where(there, width_px - left, right))
    else:
        mirrored = jnp.flip(x, axis=-2 if kind == "image" else -1)
    return jnp.where(flipped.reshape(-1, *[1] * (x.ndim - 1)), mirrored, x)


def shift(
    corners: Int[Array, "b 2"], kind: Kind, x: Shaped[Array, "b ..."], padding_px: int, size_px: tuple[int, int]
) -> Shaped[Array, "b ..."]:
    """Pad on all sides and crops back at given corners; dtype stays.

    Args:
        corners: `[B, 2]` in [0, 2 padding_px], top and left of the crop in what was padded.
        kind: of the array. Images and instances are padded with 0, masks with IGNORED; boxes are clipped, and those of
            which nothing is left get the class IGNORED.
        x: see `flip`.
        padding_px: pixels of padding on each side.
        size_px: height and width of the image.
    """
    if kind == "boxes":
        moved = jnp.flip(padding_px - corners, axis=1).astype(x.dtype)  # [b, 2], x and y
        height, width = size_px
        limits = jnp.array([width, height, width, height], x.dtype)
        box = jnp.clip(x[..., :4] + jnp.tile(moved, 2)[:, None], 0, limits)
        there = (x[..., 4] != IGNORED) & (box[..., 2] > box[..., 0]) & (box[..., 3] > box[..., 1])
        moved_x = x.at[..., :4].set(box).at[..., 4].set(jnp.where(there, x[..., 4], IGNORED))
        return jnp.where((x[..., 4] == IGNORED)[..., None], x, moved_x)
    rows = -3 if kind == "image" else -2  # the axis of rows; that of columns follows
    fill = IGNORED if kind == "mask" else 0

    def one(corner: Array, image: Array) -> Array:
        pad = [(0, 0)] * image.ndim
        pad[rows] = pad[rows + 1] = (padding_px, padding_px)
        start: list = [0] * image.ndim
        start[rows], start[rows + 1] = corner[0], corner[1]
        return jax.lax.dynamic_slice(jnp.pad(image, pad, constant_values=fill), start, image.shape)

    return jax.vmap(one)(corners, x)


def normalize(
    images: Shaped[Array, "... H W c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "... H W c"]:
    """Return (images / 255 - mean) / std for each channel.

    Args:
        images: `[..., H, W, C]` uint8 in [0, 255].
        mean: one number for each channel (or one for all), on the scale [0, 1].
        std: likewise, positive.

    Returns:
        `[..., H, W, C]` float32.
    """
    # One multiply-add: x * (1 / (255 std)) - mean / std.
    scale = 1.0 / (255.0 * jnp.asarray(std, jnp.float32))
    return images.astype(jnp.float32) * scale - jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)


def renormalize(
    images: Float[Array, "b H W c"],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    new_mean: tuple[float, ...],
    new_std: tuple[float, ...],
) -> Float[Array, "b H W c"]:
    """Turn what `normalize` gives with mean and std into what it gives with new_mean and new_std.

    Args:
        images: `[B, H, W, C]` float, normalised with mean and std.
        mean: see `normalize`, as for the others.
        std: positive.
        new_mean: of the result.
        new_std: positive.

    Returns:
        `[B, H, W, C]` float32; the same array if nothing differs.
    """
    if (mean, std) == (new_mean, new_std):
        return images
    old_mean, old_std, target_mean, target_std = (jnp.asarray(x, jnp.float32) for x in (mean, std, new_mean, new_std))
    return images * (old_std / target_std) + (old_mean - target_mean) / target_std


def random_erase(
    keys: Key[Array, " b"], images: Float[Array, "b ... H W c"], probability: float
) -> Float[Array, "b ... H W c"]:
    """Replace a random rectangle of each image by normal noise, with a probability.

    Args:
        keys: `[B]`, one for each example.
        images: `[B, ..., H, W, C]`, normalised; a clip loses the same rectangle in all frames.
        probability: of each image to be erased.

    Returns:
        An array of the same shape and dtype.

    Source: Zhong et al. 2017 (arXiv:1708.04896), as in timm's random_erasing.py with `mode="pixel"`: 0.02 to 1/3 of the
    area, height over width between 0.3 and 1/0.3.
    """
    height_px, width_px = images.shape[-3:-1]
    rows, columns = jnp.arange(height_px)[:, None], jnp.arange(width_px)[None]

    def erase(key, image):
        chance_key, box_key, noise_key = jax.random.split(key, 3)
        top, left, height, width = _erased_box(box_key, height_px, width_px)
        inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
        inside &= jax.random.bernoulli(chance_key, probability)
        return jnp.where(inside[:, :, None], jax.random.normal(noise_key, image.shape, image.dtype), image)

    return jax.vmap(erase)(keys, images)


def _erased_box(key: Key[Array, ""], height_px: int, width_px: int) -> tuple[Int[Array, ""], ...]:
    """Return (top, left, height, width) of the first of ten draws that is smaller than the image, or no rows at all."""
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    area = height_px * width_px * jax.random.uniform(area_key, (10,), minval=0.02, maxval=1 / 3)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (10,), minval=math.log(0.3), maxval=-math.log(0.3)))
    heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < height_px) & (widths < width_px)
    first = jnp.argmax(fits)
    height, width = jnp.where(fits.any(), heights[first], 0), widths[first]
    top = jax.random.randint(top_key, (), 0, height_px - height + 1)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(width_px - width, 0) + 1)
    return top, left, height, width


_IMAGE_ALONE: Fields = {"image": Field("image", (None, None, None), "uint8")}


class StepAugmentation(BatchTransform, Protocol):
    """What `make_prepare` takes: a `BatchTransform` that says when it is applied."""

    order: ClassVar[int]
    normalised: ClassVar[bool]


def make_prepare(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    fields: Fields | None = None,
    augmentations: Sequence[StepAugmentation] = (),
) -> Prepare:
    """Make the function that turns a batch off the loader into one for the model, inside the compiled step.

    Args:
        mean: see `normalize`.
        std: see `normalize`.
        fields: of the batch; None is a batch whose only image is `image`.
        augmentations: applied in their `order`, which is also the number of their random stream; those that are not
            `normalised` before the normalisation, the others after it.

    Returns:
        `prepare(key, batch, axis_name=None) -> batch`. With a key the batch is augmented; with None it is only
        normalised, which applies to every field of kind image. axis_name is the device axis if the batch is a device's
        slice of a larger one.

    Example:
        >>> prepare = make_prepare((0.5,), (0.5,))
        >>> float(prepare(None, {"image": jnp.full((1, 2, 2, 1), 255, jnp.uint8)})["image"].max())
        1.0
    """
    ordered = sorted(augmentations, key=lambda each: each.order)

    def prepare(key: jax.Array | None, batch: Batch, axis_name: str | None = None) -> Batch:
        known = _IMAGE_ALONE if fields is None else fields

        def augmented(batch: Batch, known: Fields, *, normalised: bool) -> tuple[Batch, Fields]:
            for each in ordered:
                if key is not None and each.normalised == normalised:
                    batch = each(jax.random.fold_in(key, each.order), batch, known, axis_name)
                    known = each.fields(known)
            return batch, known

        batch, known = augmented(batch, known, normalised=False)
        images = [name for name, field in known.items() if field.kind == "image"]
        batch = batch | {name: normalize(batch[name], mean, std) for name in images if name in batch}
        return augmented(batch, known, normalised=True)[0]

    return prepare
