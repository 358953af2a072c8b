"""Cutting images into patches."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from vit_jax.errors import InputError


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of whole patches in an image.

    Where the patch does not divide the image, the rest at the bottom and on the right is left out, as by a convolution
    whose stride is its size.

    Args:
        image_size: height and width in pixels.
        patch_size: height and width in pixels.

    Raises:
        InputError: the image is smaller than one patch.

    Example:
        >>> patch_grid((384, 384), (14, 14))  # the last 6 rows and columns are left out
        (27, 27)
    """
    (height, width), (patch_height, patch_width) = image_size, patch_size
    if height < patch_height or width < patch_width:
        raise InputError(
            f"image size {height}x{width} px is smaller than the patch size {patch_height}x{patch_width} px; valid: "
            "at least one patch"
        )
    return height // patch_height, width // patch_width


def extract_patches(images: Shaped[Array, "b H W c"], patch_size: tuple[int, int]) -> Shaped[Array, "b h w values"]:
    """Cut images into non-overlapping patches, each flattened row by row with its channels last.

    Args:
        images: `[B, H, W, C]`.
        patch_size: height and width in pixels; see `patch_grid` for what they do not divide.

    Returns:
        `[B, H // height, W // width, height * width * C]`.
    """
    batch, height, width, channels = images.shape
    ph, pw = patch_size
    rows, columns = patch_grid((height, width), patch_size)
    x = images[:, : rows * ph, : columns * pw].reshape(batch, rows, ph, columns, pw, channels)
    x = jnp.swapaxes(x, 2, 3)  # [b, rows, columns, ph, pw, c]
    return x.reshape(batch, rows, columns, ph * pw * channels)


def join_patches(
    patches: Shaped[Array, "b n values"], image_shape: tuple[int, int, int], patch_size: tuple[int, int]
) -> Shaped[Array, "b H W c"]:
    """Put patches together again; undoes `extract_patches`.

    Args:
        patches: `[B, N, height * width * C]`, row by row.
        image_shape: height, width and channels of the images.
        patch_size: height and width in pixels.

    Returns:
        `[B, H, W, C]` of the part that the patches cover, without what `extract_patches` left out.

    Example:
        >>> images = jnp.arange(16).reshape(1, 4, 4, 1)
        >>> patches = extract_patches(images, (2, 2)).reshape(1, 4, 4)
        >>> bool((join_patches(patches, (4, 4, 1), (2, 2)) == images).all())
        True
    """
    height, width, channels = image_shape
    rows, columns = patch_grid((height, width), patch_size)
    x = patches.reshape(len(patches), rows, columns, *patch_size, channels)
    return jnp.swapaxes(x, 2, 3).reshape(len(patches), rows * patch_size[0], columns * patch_size[1], channels)


def unfold(images: Shaped[Array, "b H W c"], size: int, *, stride: int, padding: int) -> Shaped[Array, "b h w values"]:
    """Cut images into square patches that may overlap, each flattened channel by channel, row by row.

    The order of a patch's values is that of PyTorch's `Unfold`, so that what is learned on them needs no reordering.

    Args:
        images: `[B, H, W, C]`.
        size: side of a patch.
        stride: from one patch to the next.
        padding: zeros on each side of the image.

    Returns:
        `[B, h, w, C * size * size]` with h = (H + 2 padding - size) // stride + 1, and w likewise.

    Raises:
        InputError: the image is smaller than a patch.
    """
    rows, columns = unfold_grid(images.shape[1:3], size, stride=stride, padding=padding)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    cuts = [
        padded[:, y : y + (rows - 1) * stride + 1 : stride, x : x + (columns - 1) * stride + 1 : stride]
        for y in range(size)
        for x in range(size)
    ]
    return jnp.stack(cuts, axis=-1).reshape(*cuts[0].shape[:3], -1)


def unfold_grid(image_size: Sequence[int], size: int, *, stride: int, padding: int) -> tuple[int, int]:
    """Rows and columns of patches that `unfold` makes of an image of this height and width.

    Raises:
        InputError: the image is smaller than a patch.
    """
    height, width = image_size
    least = size - 2 * padding
    if min(height, width) < least:
        raise InputError(f"image size {height}x{width} px is too small; valid: {least} px or more")
    return (height - least) // stride + 1, (width - least) // stride + 1
