"""Numbered examples with named fields: what every source is, whatever its files."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from vit_jax.contracts import Source
from vit_jax.data.loading import order
from vit_jax.errors import InputError
from vit_jax.types import Field, Fields

AnySource = TypeVar("AnySource", bound=Source)


class Records(Protocol):
    """Numbered examples as they are stored: a dict with a value for each field, and `path` if the image is a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, record: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Examples(Source):
    """One split of a dataset.

    name: for messages, `digits train[:80%]`.
    fields: name -> what an example holds under this name.
    records: stored values. An image, a mask or instances are an encoded file as bytes, or an array; boxes are rows
        `[n, 5]` of left, top, right, bottom (pixels of the image) and class; `labels` are numbers of classes.

    Example:
        >>> from vit_jax.types import class_fields
        >>> records = [{"image": b"...", "label": 1}]
        >>> Examples("pets", class_fields(["cat", "dog"]), records)[0]["label"]
        1
    """

    name: str
    fields: Fields
    records: Records

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.records)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """Return example number `record`: a checked value for each field, and `path` if the image is a file.

        A label is an int; labels are a row `[classes]` float32 of zeros and ones; boxes are `[n, 5]` float32.

        Raises:
            InputError: a record that cannot be read, or a class out of its range.
        """
        stored = self.records[int(record)]
        example = {name: self._checked(name, field, stored[name], record) for name, field in self.fields.items()}
        return example | ({"path": stored["path"]} if "path" in stored else {})

    def _checked(self, name: str, field: Field, value: Any, record: int) -> Any:
        if field.kind == "array":
            return np.asarray(value, field.dtype)
        if field.kind == "boxes":
            boxes = np.asarray(value, np.float32)
            self._check_classes(name, field, boxes[:, 4], record)
            return boxes
        if field.kind not in ("label", "labels"):
            return value
        numbers = np.atleast_1d(value).astype(np.int64)
        self._check_classes(name, field, numbers, record)
        if field.kind == "label":
            return int(value)
        row = np.zeros(len(field.names), np.float32)
        row[numbers] = 1.0
        return row

    def _check_classes(self, name: str, field: Field, classes: np.ndarray, record: int) -> None:
        wrong = classes[(classes < 0) | (classes >= len(field.names))]
        if len(wrong):
            what = "label" if name in ("label", "labels") else f"class in {name}"
            raise InputError(
                f"example {record} of {self.name} has the {what} {wrong[0]:.0f}; valid: 0 to {len(field.names) - 1}"
            )

    def only(self, names: Sequence[str]) -> "Examples":
        """Keep the named fields, so that nothing else is decoded.

        Raises:
            InputError: a field that the source does not have.
        """
        for name in names:
            if name not in self.fields:
                raise InputError(f"{self.name} has no field {name!r}; it has {', '.join(self.fields)}")
        return dataclasses.replace(self, fields={name: self.fields[name] for name in names})

    def sample(self, size: int) -> "Examples":
        """Choose `size` of the examples at random, always the same ones; all if there are fewer."""
        numbers = np.sort(order.epoch_permutation(len(self), seed=0, epoch=0)[:size])
        return dataclasses.replace(
            self, name=f"{self.name}, {len(numbers)} of it", records=_Chosen(self.records, numbers)
        )


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Some of the records, numbered from 0."""

    records: Records
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, record: int) -> dict[str, Any]:
        return self.records[int(self.numbers[record])]


def stand_in(name: str, fields: Fields, num_examples: int) -> Examples:
    """Make a source that has a length and fields but no values: for shapes alone."""
    return Examples(name, fields, range(num_examples))  # type: ignore[arg-type]


def same_fields(source: AnySource, fields: Fields) -> AnySource:
    """Check that a source has a model's fields of classes, with the same names in the same order.

    Args:
        source: what the model is to be trained on, or evaluated with.
        fields: of the model's data; those without names are not compared.

    Returns:
        The source.

    Raises:
        InputError: it lacks such a field, or has other names.
    """
    for name, field in fields.items():
        if not field.names:
            continue
        if name not in source.fields or source.fields[name].kind != field.kind:
            there = ", ".join(f"{name} ({each.kind})" for name, each in source.fields.items())
            raise InputError(f"{source.name} has no field {name!r} of kind {field.kind!r}; it has {there}")
        for number, (there, here) in enumerate(itertools.zip_longest(source.fields[name].names, field.names)):
            if there != here:
                raise InputError(
                    f"the classes of {source.name} are not the model's: class {number} is {there!r} there and "
                    f"{here!r} in the model; valid: the same names"
                )
    return source
