"""What an augmentation promises: where it runs, in which order, and what it moves.

An augmentation is a frozen dataclass in a file of this folder, which the file names `create`; its fields are its
options. It inherits from one of the three classes here.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import numpy as np
from PIL import Image

from vit_jax.data.images.geometry import Geometry, Matrix
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.types import Batch, Fields

Policy = Callable[[Image.Image, np.random.Generator, list[Matrix]], Image.Image]
"""Changes an image with random numbers of its own, in its size and mode, and appends the moves of its pixels."""

Fill = tuple[int, ...] | int
"""Colour of areas that an image does not cover: a number in [0, 255] for each channel, an int for one channel."""


@dataclasses.dataclass(frozen=True)
class PlacingAugmentation:
    """An augmentation that replaces the resize of the preprocessing, on the host."""

    order: ClassVar[int] = 0

    def geometry(self, preprocessing: Preprocessing, height: int, width: int, rng: np.random.Generator) -> Geometry:
        """Draw the geometry of an image of this height and width in pixels."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class HostAugmentation:
    """An augmentation of one placed image of 8 bits, on the host; masks, instances and boxes follow its moves."""

    order: ClassVar[int] = 0
    """Place among the augmentations of the host."""

    def policy(self, fill: Fill) -> Policy:
        """Return the function that changes an image."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class StepAugmentation:
    """An augmentation of a batch inside the compiled step."""

    order: ClassVar[int] = 0
    """Place among the augmentations of the step, and number of its random stream."""
    normalised: ClassVar[bool] = True
    """Whether it takes images after they were normalised."""
    moves: ClassVar[tuple[str, ...]] = ()
    """Kinds of fields besides images that it moves or changes as it must; it refuses other kinds with a place."""

    def __call__(self, key: jax.Array, batch: Batch, fields: Fields, axis_name: str | None) -> Batch:
        """Change a batch; see `contracts.BatchTransform`."""
        raise NotImplementedError

    def fields(self, given: Fields) -> Fields:
        """Return the fields of the changed batch.

        Raises:
            InputError: a field that it cannot move, by name.
        """
        for name, field in given.items():
            if field.is_placed and field.kind not in ("image", *self.moves):
                own = type(self).__module__.rpartition(".")[2]
                raise InputError(
                    f"data.augment.{own} cannot move the field {name!r} of kind {field.kind}; valid without it"
                )
        return given
