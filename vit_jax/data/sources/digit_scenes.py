"""Small datasets for every kind of task, drawn from the real digits of `digits` and prepared without a network.

Scenes of several digits, clips of a moving one, pairs, and scenes with something to restore. The digits of a test split
come from the test split of `digits`, so that no model has seen them. All is drawn from the raw bits of NumPy's Philox,
which are the same in every version.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from vit_jax.data.sources.digits import TEST_SIZE, stratified_test_records

DIGITS = tuple(str(digit) for digit in range(10))
_INK = 96  # of 255; a pixel that is brighter belongs to the digit
_TRIES = 20  # places that are tried for a digit before it is left out
_MOST_OVERLAP = 0.1  # of the smaller of two boxes
_FRAMES = 8


class Draws:
    """Whole numbers drawn for one example."""

    def __init__(self, split: str, example: int) -> None:
        """Start the stream of an example.

        Args:
            split: `train` or `test`.
            example: its number.
        """
        self._bits = np.random.Philox(key=[["train", "test"].index(split), example])

    def between(self, least: int, most: int) -> int:
        """Return a number from `least` to `most`, both included."""
        return least + int(self._bits.random_raw()) % (most - least + 1)

    def bytes(self, *shape: int) -> np.ndarray:
        """Numbers from 0 to 255, int64 of the given shape."""
        return (np.atleast_1d(self._bits.random_raw(int(np.prod(shape)))) % np.uint64(256)).astype(int).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Digit:
    """A digit and what surrounds it.

    pixels: `[H, W]` uint8.
    label: what it shows.
    record: its number in scikit-learn's digits.
    """

    pixels: np.ndarray
    label: int
    record: int

    def on_canvas(self, side: int, *, left: int, top: int) -> "Digit":
        """Put it on an empty canvas of `side` pixels squared."""
        pixels = np.zeros((side, side), np.uint8)
        height, width = self.pixels.shape
        pixels[top : top + height, left : left + width] = self.pixels
        return dataclasses.replace(self, pixels=pixels)

    @property
    def ink(self) -> np.ndarray:
        """`[H, W]` bool, the pixels that belong to the digit."""
        return self.pixels > _INK

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of its ink, in pixels; right and bottom are excluded."""
        rows, columns = np.flatnonzero(self.ink.any(1)), np.flatnonzero(self.ink.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclasses.dataclass(frozen=True)
class Glyphs:
    """Digits of a split: `images` `[n, 8, 8]` uint8, `labels` `[n]`, and their `records` in scikit-learn's digits."""

    images: np.ndarray
    labels: np.ndarray
    records: np.ndarray

    def enlarged(self, number: int, size: int) -> Digit:
        """Enlarge a digit to `size` pixels squared."""
        image = Image.fromarray(self.images[number]).resize((size, size), Image.Resampling.BILINEAR)
        return Digit(np.asarray(image), int(self.labels[number]), int(self.records[number]))


def scene(glyphs: Glyphs, draws: Draws, *, count: int, canvas: int, sizes: tuple[int, int]) -> list[Digit]:
    """Place digits so that no pixel belongs to two of them, and their boxes overlap little.

    Args:
        glyphs: to choose from.
        draws: of this example.
        count: digits to place; one for which no place is found is left out.
        canvas: height and width.
        sizes: smallest and largest side of a digit, in pixels.
    """
    placed: list[Digit] = []
    for _ in range(count):
        number, size = draws.between(0, len(glyphs.labels) - 1), draws.between(*sizes)
        enlarged = glyphs.enlarged(number, size)
        for _ in range(_TRIES):
            left, top = draws.between(0, canvas - size), draws.between(0, canvas - size)
            digit = enlarged.on_canvas(canvas, left=left, top=top)
            if all(_are_apart(digit, other) for other in placed):
                placed.append(digit)
                break
    return placed


def _are_apart(one: Digit, other: Digit) -> bool:
    if (one.ink & other.ink).any():
        return False
    (left, top, right, bottom), (left2, top2, right2, bottom2) = one.box, other.box
    width, height = min(right, right2) - max(left, left2), min(bottom, bottom2) - max(top, top2)
    smaller = min((right - left) * (bottom - top), (right2 - left2) * (bottom2 - top2))
    return max(width, 0) * max(height, 0) <= _MOST_OVERLAP * smaller


def drawn(digits: list[Digit]) -> np.ndarray:
    """Return the picture of a scene, `[H, W]` uint8."""
    return np.max([digit.pixels for digit in digits], axis=0)


def png(values: np.ndarray) -> io.BytesIO:
    """Encode `[H, W]` uint8 or uint16; TFDS would need TensorFlow to encode an array."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    file.seek(0)
    return file


class _DigitBuilder(tfds.core.GeneratorBasedBuilder):
    """What the datasets share: the digits of each split, and a loop over the examples."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First version."}  # noqa: RUF012 - TFDS's own interface
    COUNTS: ClassVar[dict[str, int]] = {"train": 1000, "test": 200}
    ABOUT: ClassVar[str]

    def features(self) -> dict[str, Any]:
        """Return the features of TFDS."""
        raise NotImplementedError

    def example(self, glyphs: Glyphs, draws: Draws) -> dict[str, Any]:
        """Draw an example."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.ABOUT} The digits are those of scikit-learn, by E. Alpaydin and C. Kaynak.",
            features=tfds.features.FeaturesDict(self.features()),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits  # imported here: it takes a second, once

        digits: Any = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        test = stratified_test_records(digits.target, TEST_SIZE, seed=0)
        records = {"train": np.setdiff1d(np.arange(len(images)), test), "test": test}
        return {
            split: self._generate_examples(split, Glyphs(images[chosen], digits.target[chosen], chosen))
            for split, chosen in records.items()
        }

    def _generate_examples(self, split: str, glyphs: Glyphs) -> Iterator:
        for number in range(self.COUNTS[split]):
            yield number, self.example(glyphs, Draws(split, number))


class DigitScenes(_DigitBuilder):
    """48x48 scenes of one to five digits, with boxes, instances and a semantic mask."""

    COUNTS: ClassVar[dict[str, int]] = {"train": 1200, "test": 300}
    ABOUT: ClassVar[str] = "Scenes of one to five digits of several sizes, which overlap little."
    SIDE: ClassVar[int] = 48

    def features(self) -> dict[str, Any]:
        """Return the image, boxes with labels and the digits' records, and two masks."""
        shape = (self.SIDE, self.SIDE, 1)
        return {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=DIGITS),
                    "record": tfds.features.Scalar(np.int64),
                }
            ),
            "mask": tfds.features.LabeledImage(shape=shape, labels=["background", *DIGITS], encoding_format="png"),
            "instances": tfds.features.Image(shape=shape, dtype=np.uint16, encoding_format="png"),
        }

    def example(self, glyphs: Glyphs, draws: Draws) -> dict[str, Any]:
        """Draw a scene."""
        digits = scene(glyphs, draws, count=draws.between(1, 5), canvas=self.SIDE, sizes=(11, 20))
        mask = np.zeros((self.SIDE, self.SIDE), np.uint8)
        instances = np.zeros((self.SIDE, self.SIDE), np.uint16)
        for number, digit in enumerate(digits):
            mask[digit.ink] = 1 + digit.label
            instances[digit.ink] = 1 + digit.label + len(DIGITS) * number  # as types.Field has it
        objects = [{"bbox": self._bbox(digit), "label": digit.label, "record": digit.record} for digit in digits]
        return {"image": png(drawn(digits)), "objects": objects, "mask": png(mask), "instances": png(instances)}

    def _bbox(self, digit: Digit) -> Any:
        left, top, right, bottom = (side / self.SIDE for side in digit.box)
        return tfds.features.BBox(ymin=top, xmin=left, ymax=bottom, xmax=right)


class DigitClips(_DigitBuilder):
    """Eight 32x32 frames of a digit that moves straight ahead and bounces off the edges, with its label."""

    ABOUT: ClassVar[str] = "Clips of a moving digit."
    SIDE: ClassVar[int] = 32

    def features(self) -> dict[str, Any]:
        """Frames and a label."""
        frame = tfds.features.Image(shape=(self.SIDE, self.SIDE, 1), encoding_format="png")
        return {
            "image": tfds.features.Sequence(frame, length=_FRAMES),  # Video needs TensorFlow
            "label": tfds.features.ClassLabel(names=DIGITS),
        }

    def example(self, glyphs: Glyphs, draws: Draws) -> dict[str, Any]:
        """Draw a clip."""
        number, size = draws.between(0, len(glyphs.labels) - 1), draws.between(14, 20)
        room = self.SIDE - size
        start = (draws.between(0, room), draws.between(0, room))
        speed = (draws.between(-3, 3), draws.between(-3, 3))
        digit, frames = glyphs.enlarged(number, size), []
        for step in range(_FRAMES):
            left, top = (_bounced(at + step * by, room) for at, by in zip(start, speed, strict=True))
            frames.append(png(digit.on_canvas(self.SIDE, left=left, top=top).pixels))
        return {"image": frames, "label": digit.label}


def _bounced(place: int, room: int) -> int:
    """Return a place in [0, room] after reflections at both ends."""
    place %= 2 * room
    return min(place, 2 * room - place)


class DigitPairs(_DigitBuilder):
    """32x32 images of two different digits, with both labels."""

    ABOUT: ClassVar[str] = "Two different digits in one image."
    SIDE: ClassVar[int] = 32

    def features(self) -> dict[str, Any]:
        """Return the image and its labels."""
        return {
            "image": tfds.features.Image(shape=(self.SIDE, self.SIDE, 1), encoding_format="png"),
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=DIGITS)),
        }

    def example(self, glyphs: Glyphs, draws: Draws) -> dict[str, Any]:
        """Draw scenes of two digits until one shows different ones."""
        while True:
            digits = scene(glyphs, draws, count=2, canvas=self.SIDE, sizes=(12, 16))
            labels = sorted({digit.label for digit in digits})
            if len(labels) == 2:
                return {"image": png(drawn(digits)), "labels": labels}


class _Restoration(_DigitBuilder):
    """32x32 scenes of one to three digits, and the same with something to restore."""

    COUNTS: ClassVar[dict[str, int]] = {"train": 1200, "test": 300}
    SIDE: ClassVar[int] = 32

    def features(self) -> dict[str, Any]:
        """Return the degraded image, and what it was: `target`."""
        shape = (self.SIDE, self.SIDE, 1)
        return {name: tfds.features.Image(shape=shape, encoding_format="png") for name in ("image", "target")}

    def example(self, glyphs: Glyphs, draws: Draws) -> dict[str, Any]:
        """Draw a scene and degrades it."""
        target = drawn(scene(glyphs, draws, count=draws.between(1, 3), canvas=self.SIDE, sizes=(12, 20)))
        return {"image": png(self.degraded(target, draws)), "target": png(target)}

    def degraded(self, image: np.ndarray, draws: Draws) -> np.ndarray:
        """Make `[H, W]` uint8 of the same size."""
        raise NotImplementedError


class DigitLowResolution(_Restoration):
    """Averages over squares of 4x4 pixels."""

    ABOUT: ClassVar[str] = "Scenes of digits, averaged over squares of 4x4 pixels, and as they were."

    def degraded(self, image: np.ndarray, draws: Draws) -> np.ndarray:
        """Return all pixels of a square its mean."""
        means = image.reshape(self.SIDE // 4, 4, self.SIDE // 4, 4).astype(int).sum(axis=(1, 3)) // 16
        return means.astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)


class DigitNoise(_Restoration):
    """Adds noise of a standard deviation of 44 levels of 255."""

    ABOUT: ClassVar[str] = "Scenes of digits with noise, and as they were."

    def degraded(self, image: np.ndarray, draws: Draws) -> np.ndarray:
        """Add the sum of four uniform numbers, centred and times 0.3, to each pixel."""
        # A uniform byte has a standard deviation of 73.9, and the sum of four twice that: 44 in all.
        noise = (draws.bytes(4, *image.shape).sum(axis=0) - 510) * 6 // 20
        return np.clip(image + noise, 0, 255).astype(np.uint8)


class DigitHoles(_Restoration):
    """Blackens squares of 8x8 pixels."""

    ABOUT: ClassVar[str] = "Scenes of digits with four black holes, and as they were."

    def degraded(self, image: np.ndarray, draws: Draws) -> np.ndarray:
        """Make four holes."""
        holed = image.copy()
        for _ in range(4):
            top, left = draws.between(0, self.SIDE - 8), draws.between(0, self.SIDE - 8)
            holed[top : top + 8, left : left + 8] = 0
        return holed


BUILDERS: tuple[Callable[..., Any], ...] = (
    DigitScenes,
    DigitClips,
    DigitPairs,
    DigitLowResolution,
    DigitNoise,
    DigitHoles,
)
"""Builders of this file."""
