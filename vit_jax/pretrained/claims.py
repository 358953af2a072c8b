"""What a checkpoint's config claims of sizes, checked against its tensors before anything is built by it."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.options import short
from vit_jax.pretrained.files import Files

_LEAST_LIMIT = 100_000
"""A whole number up to this is never too large, whatever tensors there are; it is an option such as a shift."""
_LARGEST_SHARE = 1e6
"""Of a number that is not whole, such as a ratio."""


def check_claims(files: Files, encoder: Any, task_options: Mapping[str, Any], preprocessing: Preprocessing) -> None:
    """Check that the sizes of a model are such as its tensors and images can have.

    That a tensor has the shape of the model's parameter is checked later, when that shape is known.

    Args:
        files: the checkpoint.
        encoder: the module that its config describes; nothing is computed yet.
        task_options: likewise, of the task.
        preprocessing: likewise.

    Raises:
        InputError: a number too large, or images too large to be decoded.
    """
    largest = max((side for tensor in files.tensors.values() for side in tensor.shape), default=0)
    fields = {field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder)}
    for name, value in _numbers({**fields, **task_options}):
        limit = max(largest, _LEAST_LIMIT) if isinstance(value, int) else _LARGEST_SHARE
        if not -limit <= value <= limit:  # NaN is not either
            raise InputError(
                f"{files.name}: its config gives the model a {name} of {short(value)}, which its tensors do not have; "
                f"their largest side is {largest:,}"
            )
    for what, size in (("image size", preprocessing.image_size), ("size before the crop", preprocessing.resize_target)):
        if math.prod(size) > MAX_IMAGE_PIXELS:
            raise InputError(
                f"{files.name}: its config gives images an {what} of {short(size[0])}x{short(size[1])} px; valid: up "
                f"to {MAX_IMAGE_PIXELS:,} pixels"
            )


def _numbers(options: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """Return the numbers in options, those in tuples and lists too, each with the option's name."""
    for name, value in options.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, list | tuple):
                yield from ((name, inner) for inner in each if isinstance(inner, int | float))
            elif isinstance(each, int | float):
                yield name, each
