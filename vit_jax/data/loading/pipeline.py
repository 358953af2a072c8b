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
RESERVED = ("index", "is_example")
"""Names of a batch's own arrays, which no field may have."""


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
        """The fields of what it gives, whose shapes are settled.

        Raises:
            InputError: no image, a name that batches use themselves, or a shape that nothing settles.
        """
        fields = self.source.fields
        if getattr(fields.get("image"), "kind", None) != "image":
            raise InputError(f"{self.source.name} has the fields {', '.join(fields)}; valid: an image called 'image'")
        for name in RESERVED:
            if name in fields:
                raise InputError(
                    f"{self.source.name} has a field {name!r}, which batches use themselves; valid: another"
                )
        return {name: self._settled(name, field) for name, field in fields.items()}

    def exact(self, record: int) -> dict[str, np.ndarray]:
        """Return an example as it is evaluated: nothing is random.

        Raises:
            InputError: an example that cannot be read, named by its path or its record number.
        """
        return self._named(record, lambda example: self._placed(example, None, self.reading.exact()))

    def drawn(self, record: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return an example as it is trained on: placed and augmented with its own generator.

        Raises:
            InputError: an example that cannot be read, named by its path or its record number.
        """
        rng_of_place = rng if self.placing is not None else None
        example = self._named(record, lambda example: self._placed(example, rng_of_place, self.reading))
        return self.augmented(example, rng)

    def augmented(self, example: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Take a placed example through the policies; masks, instances and boxes follow the image.

        Args:
            example: as `exact` gives it; it is not written to.
            rng: of this example alone.
        """
        if not self.policies:
            return example
        changed: dict[str, np.ndarray] = {}
        state, moves = rng.bit_generator.state, []
        for name, field in self.fields.items():
            if field.kind == "image":
                frames = []
                for frame in example[name] if len(field.shape) == 4 else [example[name]]:
                    rng.bit_generator.state = state  # all images and frames see the same random numbers
                    pixels, moves = self._through_policies(frame, rng)
                    frames.append(pixels)
                changed[name] = np.stack(frames) if len(field.shape) == 4 else frames[0]
        for name, field in self.fields.items() if moves else ():
            if field.is_placed and field.kind != "image":
                changed[name] = self._moved(field, example[name], moves)
        return example | changed

    def _through_policies(self, pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[Matrix]]:
        """Change `[H, W, C]` uint8; gives the moves of its pixels too."""
        moves: list[Matrix] = []
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        for policy in self.policies:
            image = policy(image, rng, moves)
        return np.asarray(image).reshape(pixels.shape), moves

    def blank(self, size: int) -> dict[str, np.ndarray]:
        """Make a batch of `size` blank examples with an `index`, without a mask."""
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
            name: _pictures(name, field, example[name], self.preprocessing.channels, reading)
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
                placed[name] = self._place(name, field, example[name], geometry, reading)
        return placed

    def _place_image(self, name: str, picture: Picture, geometry: Geometry, reading: Reading) -> np.ndarray:
        if (picture.height, picture.width) != geometry.image_size:
            raise InputError(_other_size(name, (picture.height, picture.width), geometry.image_size))
        return self.preprocessing.place(picture, geometry, reading)

    def _place(self, name: str, field: Field, value: Any, geometry: Geometry, reading: Reading) -> np.ndarray:
        if field.kind in ("mask", "instances"):
            numbers = decode_numbers(value, max_pixels=reading.max_pixels)
            if numbers.shape != geometry.image_size:
                raise InputError(_other_size(name, numbers.shape, geometry.image_size))
            numbers = geometry.place_mask(numbers).astype(np.int32)
            if self.source.fields[name].ignore:
                numbers = np.where(np.isin(numbers, self.source.fields[name].ignore), IGNORED, numbers).astype(np.int32)
            _check_numbers(name, field, numbers)
            return numbers
        if field.kind == "boxes":
            boxes = np.asarray(value, np.float32)
            if boxes.ndim != 2 or boxes.shape[1] != field.shape[1]:
                raise InputError(
                    f"{name} has the shape {boxes.shape}; valid: [n, {field.shape[1]}], a row for each box"
                )
            return self._filled(name, field, geometry.place_boxes(boxes))
        array = np.asarray(value, field.dtype)
        if array.shape != field.shape:
            raise InputError(f"{name} has the shape {array.shape}; valid: {field.shape}")
        return array

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
    """Return the policies of augmentations in their order; areas that an image does not cover get its mean colour."""
    means = [round(255 * x) for x in preprocessing.mean]
    fill = tuple(means) if len(means) > 1 else means[0]
    return tuple(each.policy(fill) for each in sorted(host, key=lambda each: each.order))


def _pictures(name: str, field: Field, value: Any, channels: int, reading: Reading) -> list[Picture]:
    """Open an image, or each frame of an array `[T, H, W, C]`."""
    if len(field.shape) < 4:
        return [Picture(value, channels, reading.max_pixels)]
    if not isinstance(value, np.ndarray) or value.ndim != 4 or len(value) != field.shape[0]:
        shape = getattr(value, "shape", type(value).__name__)
        raise InputError(f"{name} is {shape}; valid: an array [{field.shape[0]}, H, W, C] of uint8")
    return [Picture(frame, channels, reading.max_pixels) for frame in value]


def _check_numbers(name: str, field: Field, numbers: np.ndarray) -> None:
    """Raise InputError for a number that is no class of a mask, or for negative instances."""
    least = IGNORED if field.kind == "mask" else 0
    most = len(field.names) - 1 if field.kind == "mask" and field.names else np.iinfo(np.int32).max
    wrong = numbers[(numbers < least) | (numbers > most)]
    if len(wrong):
        valid = f"0 to {most}, or a value that the data ignore" if field.names else "0 or more"
        raise InputError(f"{name} has the value {wrong[0]}; valid: {valid}")


def _other_size(name: str, size: tuple[int, ...], image: tuple[int, int]) -> str:
    return f"{name} has {size[0]}x{size[1]} px, and the image {image[0]}x{image[1]} px; valid: the same size"


def _none(field: Field) -> np.ndarray:
    return np.zeros((0, *(size or 0 for size in field.shape)), field.dtype)
