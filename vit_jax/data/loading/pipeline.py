"""From a source's example to arrays of settled shapes: decoding, placing and augmenting on the host."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.contracts import Source
from vit_jax.data.augment.stages import HostAugmentation, PlacingAugmentation, Policy
from vit_jax.data.images.decoding import Picture, Reading, decode_numbers
from vit_jax.data.images.geometry import Geometry, Matrix, move_boxes, move_mask
from vit_jax.data.images.transforms import EXACTLY, Preprocessing
from vit_jax.errors import InputError
from vit_jax.types import IGNORED, Field, Fields

MAX_BOXES = 100


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """What is done with an example on the host.

    source: encoded examples.
    preprocessing: of images; without a `placing`, also the geometry.
    max_boxes: rows of an array of boxes.
    placing: draws the geometry in training; None takes that of the preprocessing.
    policies: change the placed image in training, one after the other.
    reading: how images are decoded in training; in an evaluation every pixel is, up to the same limit.
    """

    source: Source
    preprocessing: Preprocessing
    max_boxes: int = MAX_BOXES
    placing: PlacingAugmentation | None = None
    policies: Sequence[Policy] = ()
    reading: Reading = EXACTLY

    @functools.cached_property
    def fields(self) -> Fields:
        """The fields of what it gives, whose shapes are settled."""
        return {name: self._settled(name, field) for name, field in self.source.fields.items()}

    def exact(self, record: int) -> dict[str, np.ndarray]:
        """Gives an example as it is evaluated: nothing is random.

        Raises:
            InputError: an example that cannot be read, named by its path or its record number.
        """
        return self._named(record, lambda example: self._placed(example, None, self.reading.exact()))

    def drawn(self, record: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Gives an example as it is trained on: placed and augmented with its own generator.

        Raises:
            InputError: an example that cannot be read, named by its path or its record number.
        """
        rng_of_place = rng if self.placing is not None else None
        example = self._named(record, lambda example: self._placed(example, rng_of_place, self.reading))
        return self.augmented(example, rng)

    def augmented(self, example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Takes a placed example through the policies; masks, instances and boxes follow the image.

        Args:
            example: as `exact` gives it; it is not written to.
            rng: of this example alone.
        """
        if not self.policies:
            return example
        pixels = example["image"]
        image, moves = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), []
        for policy in self.policies:
            image = policy(image, rng, moves)
        changed = {"image": np.asarray(image).reshape(pixels.shape)}
        for name, field in self.fields.items() if moves else ():
            if name != "image" and field.is_placed:
                changed[name] = self._moved(field, example[name], moves)
        return example | changed

    def blank(self, size: int) -> dict[str, np.ndarray]:
        """Makes a batch of `size` blank examples with an `index`, without a mask."""
        batch = {
            name: np.stack([field.blank()] * size) if size else _none(field) for name, field in self.fields.items()
        }
        return batch | {"index": np.zeros(size, np.uint32)}

    def _named(self, record: int, make: Any) -> dict[str, np.ndarray]:
        example = self.source[record]
        try:
            return make(example)
        except InputError as error:
            where = example.get("path") or f"example {record} of {self.source.name}"
            raise InputError(f"{where}: {error}") from None

    def _placed(
        self, example: dict[str, Any], rng: np.random.Generator | None, reading: Reading
    ) -> dict[str, np.ndarray]:
        pictures = {
            name: _pictures(example[name], self.preprocessing.channels, reading)
            for name, field in self.fields.items()
            if field.kind == "image"
        }
        first = pictures["image"][0]
        if rng is None or self.placing is None:
            geometry = self.preprocessing.geometry(first.height, first.width)
        else:
            geometry = self.placing.geometry(self.preprocessing, first.height, first.width, rng)
        placed = {}
        for name, field in self.fields.items():
            if field.kind == "image":
                frames = [self._place_image(name, picture, geometry, reading) for picture in pictures[name]]
                placed[name] = np.stack(frames) if len(field.shape) == 4 else frames[0]
            else:
                placed[name] = self._place(name, field, example[name], geometry)
        return placed

    def _place_image(self, name: str, picture: Picture, geometry: Geometry, reading: Reading) -> np.ndarray:
        if (picture.height, picture.width) != geometry.image_size:
            raise InputError(_other_size(name, (picture.height, picture.width), geometry.image_size))
        return self.preprocessing.place(picture, geometry, reading)

    def _place(self, name: str, field: Field, value: Any, geometry: Geometry) -> np.ndarray:
        if field.kind in ("mask", "instances"):
            numbers = decode_numbers(value)
            if numbers.shape != geometry.image_size:
                raise InputError(_other_size(name, numbers.shape, geometry.image_size))
            numbers = geometry.place_mask(numbers).astype(np.int32)
            if field.kind == "mask":
                numbers = np.where(np.isin(numbers, self.source.fields[name].ignore), IGNORED, numbers).astype(np.int32)
                _check_classes(name, field, numbers)
            return numbers
        if field.kind == "boxes":
            return self._filled(name, field, geometry.place_boxes(np.asarray(value, np.float32)))
        return np.asarray(value, field.dtype)

    def _filled(self, name: str, field: Field, boxes: np.ndarray) -> np.ndarray:
        if len(boxes) > self.max_boxes:
            raise InputError(
                f"it has {len(boxes)} rows of {name}; valid: at most data.max_boxes, which is {self.max_boxes}"
            )
        array = field.blank()
        array[: len(boxes), : boxes.shape[1]] = boxes
        return array

    def _moved(self, field: Field, value: np.ndarray, moves: Sequence[Matrix]) -> np.ndarray:
        if field.kind == "mask":
            return move_mask(value, moves)
        if field.kind == "instances":
            return move_mask(value, moves, empty=0)
        if field.kind != "boxes":
            raise InputError(f"a field of kind {field.kind} cannot follow the image's augmentation")
        height, width = self.preprocessing.image_size
        moved = move_boxes(value[value[:, 4] != IGNORED], moves, height=height, width=width)
        array = field.blank()
        array[: len(moved)] = moved
        return array

    def _settled(self, name: str, field: Field) -> Field:
        height, width = self.preprocessing.image_size
        if field.kind == "image":
            frames = field.shape[:-3]
            return dataclasses.replace(
                field, shape=(*frames, height, width, self.preprocessing.channels), dtype="uint8"
            )
        if field.kind in ("mask", "instances"):
            return dataclasses.replace(field, shape=(height, width), dtype="int32", ignore=())
        if field.kind == "boxes":
            columns = field.shape[1] if len(field.shape) > 1 else 5
            return dataclasses.replace(field, shape=(self.max_boxes, columns), dtype="float32")
        if None in field.shape:
            raise InputError(f"{self.source.name}: the field {name!r} has the shape {field.shape}; valid: a fixed one")
        return field


def bound(host: Sequence[HostAugmentation], preprocessing: Preprocessing) -> tuple[Policy, ...]:
    """Gives the policies of augmentations in their order; areas that an image does not cover get its mean colour."""
    mean = preprocessing.mean
    fill = tuple(round(255 * x) for x in mean) if len(mean) > 1 else round(255 * mean[0])
    return tuple(each.policy(fill) for each in sorted(host, key=lambda each: each.order))


def _pictures(value: Any, channels: int, reading: Reading) -> list[Picture]:
    """Opens an image, or each frame of an array `[T, H, W, C]`."""
    frames = list(value) if isinstance(value, np.ndarray) and value.ndim == 4 else [value]
    return [Picture(frame, channels, reading.max_pixels) for frame in frames]


def _check_classes(name: str, field: Field, mask: np.ndarray) -> None:
    if mask.max(initial=IGNORED) >= len(field.names):
        raise InputError(
            f"{name} has the value {mask.max()}, but there are {len(field.names)} classes; valid: 0 to "
            f"{len(field.names) - 1}, or a value that the data ignores"
        )


def _other_size(name: str, size: tuple[int, ...], image: tuple[int, int]) -> str:
    return f"{name} has {size[0]}x{size[1]} px, and the image {image[0]}x{image[1]} px; valid: the same size"


def _none(field: Field) -> np.ndarray:
    return np.zeros((0, *(size or 0 for size in field.shape)), field.dtype)
