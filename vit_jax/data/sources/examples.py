"""Numbered examples with named fields: what every source is, whatever its files."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vit_jax import class_names, synonyms
from vit_jax.contracts import Source
from vit_jax.data.loading import order
from vit_jax.data.sources.listing import some
from vit_jax.errors import InputError
from vit_jax.types import Field, Fields


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
        numbers = order.sample(len(self), size)
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


def same_fields(source: Examples, fields: Fields, *, by_number: bool = False) -> Examples:
    """Let a source number its classes as a model does, by their names; see `synonyms.numbers_of`.

    Args:
        source: what the model is to be evaluated with. It may lack classes of the model, and have them in another
            order; those of masks and instances must be the same in the same order.
        fields: of the model's data; those without names are not compared.
        by_number: take the source's classes for those of the same number, whatever they are called.

    Returns:
        The source itself if its classes are the model's, or else one whose labels and names are.

    Raises:
        InputError: it lacks such a field, or has classes that the model lacks.
    """
    numbers = {}
    for name, field in fields.items():
        if not field.names:
            continue
        if name not in source.fields or source.fields[name].kind != field.kind:
            there = ", ".join(f"{name} ({each.kind})" for name, each in source.fields.items())
            raise InputError(f"{source.name} has no field {name!r} of kind {field.kind!r}; it has {there}")
        if source.fields[name].names != field.names:
            numbers[name] = _numbers(source, name, field, by_number=by_number)
    if not numbers:
        return source
    renamed = {name: dataclasses.replace(source.fields[name], names=fields[name].names) for name in numbers}
    renumbered = {name: each for name, each in numbers.items() if (each != np.arange(len(each))).any()}
    shapes = {name: (len(field.names),) for name, field in renamed.items() if field.kind == "labels"}
    renamed |= {name: dataclasses.replace(renamed[name], shape=shape) for name, shape in shapes.items()}
    records = _Renumbered(source.records, renumbered) if renumbered else source.records
    return dataclasses.replace(source, fields={**source.fields, **renamed}, records=records)


def _numbers(source: Examples, name: str, field: Field, *, by_number: bool) -> np.ndarray:
    """Return the model's number of each class of a source, `[n]` int64; `field` is the model's.

    Raises:
        InputError: a class that the model lacks, or of which it cannot be told which one it is.
    """
    there, here = source.fields[name].names, field.names
    if by_number and len(there) != len(here):
        raise InputError(
            f"{source.name} has {len(there)} classes, and the model {len(here)}; valid by number: as many (evaluate "
            "--classes-by-number)"
        )
    if by_number or class_names.same(there, here):
        return np.arange(len(there))
    pairs = enumerate(itertools.zip_longest(there, here))
    number, pair = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    what = f"the classes of {source.name} are not the model's: class {number} is {pair[0]!r} there and {pair[1]!r} in"
    found = synonyms.numbers_of(there, here)
    unknown = [each for each, numbers in zip(there, found, strict=True) if not numbers]
    if unknown:
        alike = class_names.written(unknown[0], here)
        if synonyms.are_numbers(here):
            alike += (
                "; the model's classes have no names but these numbers, which evaluate --classes-by-number takes for "
                "the classes there in their order"
            )
        raise InputError(f"{what} the model, which lacks {some([*map(repr, unknown)])}; valid: {some(here)}{alike}")
    if field.kind not in ("label", "labels", "boxes"):
        raise InputError(f"{what} the model; valid: the same names in the same order")
    several = [each for each, numbers in zip(there, found, strict=True) if len(numbers) > 1]
    if several or len({*map(class_names.key_of, there)}) < len(there):
        twice = several[0] if several else next(each for each in there if there.count(each) > 1)
        raise InputError(
            f"{what} the model, and {twice!r} names several classes; valid: names of one class, or all classes of the "
            "model in its order"
        )
    return np.array([numbers[0] for numbers in found], np.int64)


@dataclasses.dataclass(frozen=True)
class _Renumbered:
    """Records whose classes have other numbers.

    numbers: name of a field -> new number of each class, `[n]`.
    """

    records: Records
    numbers: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, record: int) -> dict[str, Any]:
        example = self.records[record]
        return example | {name: self._renumbered(name, example[name]) for name in self.numbers}

    def _renumbered(self, name: str, value: Any) -> Any:
        """Renumber a class, a list of classes, or the classes of boxes; what is out of range stays so."""
        numbers = self.numbers[name]
        array = np.asarray(value)
        boxes = array.ndim == 2
        classes = (array[:, 4] if boxes else array).astype(np.int64)
        is_known = (classes >= 0) & (classes < len(numbers))
        new = np.where(is_known, numbers[np.where(is_known, classes, 0)], -1)
        if not boxes:
            return new
        return np.concatenate([array[:, :4], new[:, None].astype(array.dtype), array[:, 5:]], axis=1)
