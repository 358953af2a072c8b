"""Augmentation inside the compiled step: pure functions of one key an example and a batch of images.

Whatever does not change an image's shape is done here, on the accelerator. Each example's key depends on
the seed and on the example's place in the training stream alone, so that the result does not depend on
the number of devices.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from vit_jax.contracts import Prepare
from vit_jax.ops.mixing import Mixing


def example_keys(key: Key[Array, ""], index: Shaped[Array, " b"]) -> Key[Array, " b"]:
    """One key for each example: the base key with the example's index folded in.

    Args:
        key: `[]` typed key.
        index: `[B]` uint32, the example's position in the training stream.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def random_flip(keys: Key[Array, " b"], images: Shaped[Array, "b H W c"]) -> Shaped[Array, "b H W c"]:
    """Mirrors each image left to right with probability 1/2; dtype and range stay."""
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_shift(keys: Key[Array, " b"], images: Shaped[Array, "b H W c"], padding_px: int) -> Shaped[Array, "b H W c"]:
    """Pads each image with zeros on all sides and crops it back at a uniformly random place.

    Args:
        keys: `[B]`, one an example.
        images: `[B, H, W, C]`, any dtype.
        padding_px: pixels of padding on each side; the image moves by at most that much.

    Returns:
        `[B, H, W, C]` of the same dtype.

    Source: the usual CIFAR augmentation, e.g. He et al. 2015 (arXiv:1512.03385), section 4.2.
    """
    if padding_px == 0:
        return images
    width = ((padding_px, padding_px), (padding_px, padding_px), (0, 0))
    height_px, width_px, channels = images.shape[1:]

    def shift(key, image):
        top, left = jax.random.randint(key, (2,), 0, 2 * padding_px + 1)
        return jax.lax.dynamic_slice(jnp.pad(image, width), (top, left, 0), (height_px, width_px, channels))

    return jax.vmap(shift)(keys, images)


def normalize(
    images: Shaped[Array, "b H W c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b H W c"]:
    """(images / 255 - mean) / std, a channel at a time.

    Args:
        images: `[B, H, W, C]` uint8 in [0, 255].
        mean: one number a channel (or one for all), on the scale [0, 1].
        std: likewise, positive.

    Returns:
        `[B, H, W, C]` float32.
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
    """What `normalize` with new_mean and new_std had given, of what it gave with mean and std.

    Args:
        images: `[B, H, W, C]` float, normalised with mean and std.
        mean: see `normalize`, as for the others.
        std: positive.
        new_mean: of the result.
        new_std: positive.

    Returns:
        `[B, H, W, C]` float32; the very images if nothing differs.
    """
    if (mean, std) == (new_mean, new_std):
        return images
    old_mean, old_std, target_mean, target_std = (jnp.asarray(x, jnp.float32) for x in (mean, std, new_mean, new_std))
    return images * (old_std / target_std) + (old_mean - target_mean) / target_std


def random_erase(
    keys: Key[Array, " b"], images: Float[Array, "b H W c"], probability: float
) -> Float[Array, "b H W c"]:
    """Replaces a random rectangle of each image by normal noise, with a probability.

    Args:
        keys: `[B]`, one an example.
        images: `[B, H, W, C]`, normalised.
        probability: of each image to be erased.

    Returns:
        `[B, H, W, C]` of the same dtype.

    Source: Zhong et al. 2017 (arXiv:1708.04896), as in timm's random_erasing.py with `mode="pixel"`: 0.02 to 1/3 of the
    area, height over width between 0.3 and 1/0.3.
    """
    height_px, width_px = images.shape[1:3]
    rows, columns = jnp.arange(height_px)[:, None], jnp.arange(width_px)[None]

    def erase(key, image):
        chance_key, box_key, noise_key = jax.random.split(key, 3)
        top, left, height, width = _erased_box(box_key, height_px, width_px)
        inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
        inside &= jax.random.bernoulli(chance_key, probability)
        return jnp.where(inside[:, :, None], jax.random.normal(noise_key, image.shape, image.dtype), image)

    return jax.vmap(erase)(keys, images)


def _erased_box(key: Key[Array, ""], height_px: int, width_px: int) -> tuple[Int[Array, ""], ...]:
    """(top, left, height, width): the first of ten draws that is smaller than the image, or no rows at all."""
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


def make_prepare(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    flip: bool = False,
    shift_px: int = 0,
    erase_probability: float = 0.0,
    mixing: Mixing | None = None,
) -> Prepare:
    """Makes the function that turns a batch off the loader into one for the model, inside the compiled step.

    Args:
        mean: see `normalize`.
        std: see `normalize`.
        flip: mirror at random.
        shift_px: see `random_shift`; 0 is none.
        erase_probability: see `random_erase`; 0 is none.
        mixing: mixup and cutmix, after all else.

    Returns:
        `prepare(key, batch, axis_name=None) -> batch`. With a key the image is augmented, each example with a key made
        of it and the example's `index`; with None it is only normalised. axis_name is the device axis if the batch is
        a device's slice of a larger one, whose examples are to be mixed with one another.
    """

    def prepare(key: jax.Array | None, batch: dict, axis_name: str | None = None) -> dict:
        images = batch["image"]
        if key is not None and shift_px:
            images = random_shift(example_keys(jax.random.fold_in(key, 0), batch["index"]), images, shift_px)
        if key is not None and flip:
            images = random_flip(example_keys(jax.random.fold_in(key, 1), batch["index"]), images)
        images = normalize(images, mean, std)
        if key is not None and erase_probability:
            keys = example_keys(jax.random.fold_in(key, 2), batch["index"])
            images = random_erase(keys, images, erase_probability)
        batch = batch | {"image": images}
        if key is not None and mixing:
            batch = mixing(jax.random.fold_in(key, 3), batch, axis_name)
        return batch

    return prepare
