"""Turns the images that a user has into a model's input, and keeps where each lies in its image."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, Picture
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.types import Placement


@dataclasses.dataclass(frozen=True, eq=False)
class ModelInput:
    """An image as a model takes it, before it is normalised.

    pixels: `[H, W, C]` uint8.
    placement: where it lies in the original image.
    """

    pixels: UInt8[np.ndarray, "H W c"]
    placement: Placement


def read_image(image: Any, preprocessing: Preprocessing, *, max_pixels: int = MAX_IMAGE_PIXELS) -> ModelInput:
    """Decode, resizes and crops an image.

    Args:
        image: encoded bytes, a path, a PIL image, a uint8 array `[H, W]` or `[H, W, C]` of NumPy or JAX, or what this
            function gave.
        preprocessing: the model's.
        max_pixels: height times width of the largest image that is decoded.

    Raises:
        InputError: something that is no image.

    Example:
        >>> read_image(np.zeros((10, 20, 3), np.uint8), Preprocessing((4, 4))).placement.scale
        (5.0, 2.5)
    """
    if isinstance(image, ModelInput):
        return image
    if isinstance(image, jax.Array):
        image = np.asarray(image)
    picture = Picture(image, preprocessing.channels, max_pixels)
    geometry = preprocessing.geometry(picture.height, picture.width)
    return ModelInput(preprocessing.place(picture, geometry), geometry.placement)


def read_images(images: Any, preprocessing: Preprocessing) -> list[ModelInput]:
    """Read one image or several.

    Args:
        images: what `read_image` takes, a sequence of it, or an array `[B, H, W, C]`.
        preprocessing: the model's.

    Raises:
        InputError: something that is no image, or an empty sequence.
    """
    if isinstance(images, jax.Array):
        images = np.asarray(images)
    several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
    several = several or (isinstance(images, np.ndarray) and images.ndim == 4)
    if several and not len(images):
        raise InputError("no images were given")
    return [read_image(image, preprocessing) for image in (images if several else [images])]
