"""Labels of a folder's images in a CSV file."""

import csv
import dataclasses
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vit_jax import class_names
from vit_jax.data.images.formats import is_image
from vit_jax.data.sources.files import Files
from vit_jax.data.sources.image_names import ImageNames
from vit_jax.data.sources.listing import some
from vit_jax.data.sources.split_names import ORDER, split_of
from vit_jax.errors import InputError
from vit_jax.types import Fields, class_fields

_IMAGES = ("file_name", "filename", "file", "image_path", "filepath", "path", "image", "image_id")
_LABELS = ("label", "labels", "class", "classes", "class_name", "category", "tags")
_DELIMITERS = ",;\t"
_BITS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """Where the labels are; the fields are keys of a config's section `data`.

    labels: path of the CSV file, from here or from the folder of images. Its first line names the columns.
    image_column: paths of the images from the folder, with or without their endings. None is the first column that is
        called as such columns are (file_name, path, image ...), or else the first one.
    label_columns: one column of classes' names, or several that are called as the classes, of 0 and 1. Empty is the
        column that is called as such columns are (label, class ...), or all that are left.
    label_separator: of the names in one cell, "|" or " ", which lets an image have any number of classes; None takes
        the cell as one name.
    several_labels: an image has the classes of all its rows.
    split_column: column of the splits, train, val or test, if there is one of this name; None is none.
    """

    labels: str
    image_column: str | None = None
    label_columns: Sequence[str] = ()
    label_separator: str | None = None
    several_labels: bool = False
    split_column: str | None = "split"

    def find(self, folder: str) -> str:
        """Return the file's path.

        Args:
            folder: of the images.

        Raises:
            InputError: it is not there, or there are two that it could be.
        """
        here, there = (os.path.abspath(os.path.join(x, os.path.expanduser(self.labels))) for x in (".", folder))
        found = [path for path in dict.fromkeys([here, there]) if os.path.isfile(path)]
        if len(found) == 2 and not os.path.samefile(*found):
            raise InputError(f"data.labels: {self.labels} is {here} or {there}; valid: the whole path")
        if not found:
            where = here if here == there else f"{here} or {there}"
            raise InputError(f"data.labels: {self.labels} does not exist, {where}; valid: a CSV file")
        return found[0]


@dataclasses.dataclass
class _Row:
    """What is said of an image.

    line: of the file, that it begins in.
    labels: names of its classes.
    split: None where there is no column of splits.
    """

    line: int
    labels: tuple[str, ...]
    split: str | None


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Which columns there are; see `LabelFile`.

    labels: numbers of the columns.
    names: of the classes, if each has a column.
    """

    image: int
    labels: tuple[int, ...]
    names: tuple[str, ...]
    split: int | None


def read_labels(
    file: LabelFile, path: str, images: ImageNames, *, training: bool = True
) -> tuple[Fields, dict[str, Files], bool]:
    """Read the labels of images.

    Args:
        file: which, and how.
        path: where it is; see `LabelFile.find`.
        images: those of the folder.
        training: whether to learn from it, for which there must be two or more classes, all of them in `train`.

    Returns:
        The fields; split -> files, sorted by path; and whether the file names no splits, so that all are in `train`.

    Warns:
        UserWarning: images that the file does not name, or rows that come twice.

    Raises:
        InputError: a file that is no CSV, lacks a column, or has a row that is not valid, with the row's line.
    """
    lines = _lines(path)
    header, rows = next(lines), [*lines]
    if not rows:
        raise InputError(f"{path} has no rows; valid: one for each image below the names of the columns")
    columns = _columns(file, path, header[1], [cells for _, cells in rows])
    found = _by_image(file, path, columns, header[1], rows, images)
    several = bool(file.label_separator or file.several_labels or columns.names)
    names = columns.names or tuple(sorted({label for row in found.values() for label in row.labels}))
    if twins := class_names.twins(names):
        raise InputError(f"{path} has two classes whose names look the same, {twins[0]!a} and {twins[1]!a}; valid: one")
    if training and len(names) < 2:
        raise InputError(f"{path} has {len(names)} classes ({some(names)}); valid: two or more")
    if training and not several:
        _check_classes(path, found, names)
    numbers = {name: number for number, name in enumerate(names)}
    splits = {}
    for split in ORDER:
        paths = sorted(image for image, row in found.items() if (row.split or "train") == split)
        if paths:
            labels = [tuple(numbers[label] for label in found[image].labels) for image in paths]
            splits[split] = Files(images.root, paths, _array(labels, several))
    left_out = [image for image in images.paths if image not in found]
    if left_out:
        warnings.warn(f"{path} leaves out {len(left_out)} images of {images.root}: {some(left_out)}", stacklevel=3)
    return class_fields(names, several=several), splits, splits.keys() == {"train"}


def _array(labels: Sequence[tuple[int, ...]], several: bool) -> np.ndarray:
    if not several:
        return np.array([label for [label] in labels], np.int32)
    array = np.empty(len(labels), object)
    array[:] = labels
    return array


def _check_classes(path: str, found: Mapping[str, _Row], names: Sequence[str]) -> None:
    """Check that each class has images to train on, if there are any.

    Raises:
        InputError: one has none.
    """
    trained = {label for row in found.values() if row.split in (None, "train") for label in row.labels}
    for row in found.values():
        unknown = [label for label in row.labels if label not in trained] if trained else []
        if unknown:
            raise InputError(
                f"{path}, line {row.line}: the class {unknown[0]!r} is in {row.split} and not in train; valid: "
                f"{some(sorted(trained))}{class_names.written(unknown[0], names)}"
            )


def _lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """Read the rows that are not empty, with the line that each begins in; the names of the columns first.

    Raises:
        InputError: it cannot be read, is not UTF-8, is no CSV or is empty.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is UTF-16; valid: CSV in UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}, is not UTF-8; valid: CSV in UTF-8") from None
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    line, empty = 1, True
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, [cell.strip() for cell in cells]
                empty = False
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}, is no CSV: {error}") from None
    if empty:
        raise InputError(f"{path} is empty; valid: names of columns, such as image,label, and a row for each image")


def _columns(file: LabelFile, path: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> _Columns:
    """Find the columns.

    Raises:
        InputError: one is not there, or it cannot be told which one it is.
    """
    images = [cell for cell in header if is_image(cell)]
    if images:
        raise InputError(f"{path}, line 1, has {images[0]!r}; valid: names of columns, such as image,label")
    named = [name for name in header if name]  # pandas writes row numbers in a column without a name
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise InputError(f"{path} has two columns {twice[0]!r}; valid: each name once")
    numbers = {name: header.index(name) for name in named}
    lower = {name.lower(): name for name in reversed(named)}

    def known(names: Sequence[str]) -> list[str]:
        return [lower[name] for name in names if name in lower][:1]

    def check(key: str, name: str) -> str:
        if name not in numbers:
            raise InputError(f"data.{key}: {path} has no column {name!r}; it has {', '.join(named)}")
        return name

    image = check("image_column", file.image_column) if file.image_column else [*known(_IMAGES), *named][0]
    split = known([file.split_column.lower()]) if file.split_column else []
    if file.split_column not in (None, "", "split", *split):
        check("split_column", file.split_column or "")
    left = [name for name in named if name not in (image, *split)]
    labels = [check("label_columns", name) for name in file.label_columns] or known(_LABELS) or left
    labels = [name for name in labels if name != image]
    are_bits = all(_cell(row, numbers[name]).lower() in _BITS for row in rows for name in labels)
    if not labels or (len(labels) > 1 and not file.label_columns and not are_bits):
        raise InputError(f"{path} has the columns {', '.join(named)}; valid: data.label_columns, those of the classes")
    if len(labels) > 1 and file.label_separator:
        raise InputError(f"data.label_separator is for one column of labels; {path} has {some(labels)}")
    return _Columns(
        numbers[image],
        tuple(numbers[name] for name in labels),
        tuple(map(class_names.key_of, labels)) if len(labels) > 1 else (),
        numbers[split[0]] if split else None,
    )


def _cell(row: Sequence[str], number: int) -> str:
    return row[number] if number < len(row) else ""


def _by_image(
    file: LabelFile,
    path: str,
    columns: _Columns,
    header: Sequence[str],
    rows: Sequence[tuple[int, list[str]]],
    images: ImageNames,
) -> dict[str, _Row]:
    """Read the rows: path of an image -> what is said of it.

    Raises:
        InputError: a row that is not valid, or images that are not there.
    """
    found: dict[str, _Row] = {}
    missing: list[tuple[int, str]] = []
    twice: list[int] = []
    for line, cells in rows:
        where = f"{path}, line {line}"
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise InputError(f"{where}, has {len(cells)} cells; valid: {len(header)}, as in the first line")
        image = images.find(cells[columns.image], where)
        if image is None:
            missing.append((line, cells[columns.image]))
            continue
        row = _Row(line, _labels(file, columns, header, cells, where), _split(columns, cells, where))
        other = found.setdefault(image, row)
        if other is row:
            continue
        if other.split != row.split:
            raise InputError(f"{where}: {image} is in {row.split}, and in line {other.line} in {other.split}")
        if file.several_labels:
            other.labels = tuple(dict.fromkeys(other.labels + row.labels))
        elif set(other.labels) != set(row.labels):
            raise InputError(
                f"{where}: {image} is {_text(row.labels)}, and in line {other.line} {_text(other.labels)}; valid: one "
                "row, or data.several_labels=true to take both"
            )
        else:
            twice.append(line)
    if missing:
        line, name = missing[0]
        more = f", one of {len(missing)} that are not there" if len(missing) > 1 else ""
        raise InputError(f"{path}, line {line}: {images.why_not(name)}{more}")
    if twice:
        lines = some([*map(str, twice)])
        warnings.warn(f"{path} has {len(twice)} rows twice, which count once: line {lines}", stacklevel=4)
    return found


def _text(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels)) or "of no class"


def _labels(
    file: LabelFile, columns: _Columns, header: Sequence[str], cells: Sequence[str], where: str
) -> tuple[str, ...]:
    """Names of a row's classes."""
    if columns.names:
        for number in columns.labels:
            if cells[number].lower() not in _BITS:
                raise InputError(f"{where}, column {header[number]!r}, has {cells[number]!r}; valid: 0 or 1")
        pairs = zip(columns.names, columns.labels, strict=True)
        return tuple(name for name, number in pairs if _BITS[cells[number].lower()])
    cell = cells[columns.labels[0]]
    names = cell.split(file.label_separator) if file.label_separator else [cell]
    labels = tuple(dict.fromkeys(class_names.key_of(name.strip()) for name in names if name.strip()))
    if not labels and not (file.label_separator or file.several_labels):
        raise InputError(f"{where}, column {header[columns.labels[0]]!r}, is empty; valid: the name of a class")
    return labels


def _split(columns: _Columns, cells: Sequence[str], where: str) -> str | None:
    if columns.split is None:
        return None
    split = split_of(cells[columns.split])
    if split is None:
        raise InputError(f"{where}, has the split {cells[columns.split]!r}; valid: {', '.join(ORDER)}")
    return split
