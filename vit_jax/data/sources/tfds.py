"""Where examples come from: random access to encoded images and their labels, by dataset name and split."""

import contextlib
import dataclasses
import difflib
import importlib.util
import os
import shlex
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from vit_jax.data.loading import order
from vit_jax.data.sources.digits import Digits
from vit_jax.errors import InputError


class Records(Protocol):
    """Numbered examples, each a dict with `image` and `label`."""

    def __len__(self) -> int: ...

    def __getitem__(self, record: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset.

    name: for messages, `digits train[:80%]`.
    class_names: in the order of the labels.
    multi_label: whether an example can have several labels, or none.
    """

    name: str
    class_names: tuple[str, ...]
    _records: Records
    multi_label: bool = False

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one example's label: `()`, or `(classes,)` if there are several."""
        return (len(self.class_names),) if self.multi_label else ()

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._records)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """Example number `record`: `image`, an encoded file as bytes; `label`; `path`, if it is a file.

        The label is an int in [0, classes), or with `multi_label` a row `[classes]` float32 of zeros and ones.

        Raises:
            InputError: a record that cannot be read, or a label out of the range.
        """
        example = self._records[int(record)]
        path = {"path": example["path"]} if "path" in example else {}
        return {"image": example["image"], "label": self._checked(example["label"], record)} | path

    def _checked(self, label: Any, record: int) -> int | np.ndarray:
        numbers = np.atleast_1d(label).astype(np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self.class_names)):
            raise InputError(
                f"example {record} of {self.name} has the label {label}; valid: 0 to {len(self.class_names) - 1}"
            )
        if not self.multi_label:
            return int(label)
        row = np.zeros(len(self.class_names), np.float32)
        row[numbers] = 1.0
        return row

    def sample(self, size: int) -> "Source":
        """So many of the examples, or all if there are fewer: chosen at random, but always the same ones."""
        chosen = np.sort(order.epoch_permutation(len(self), seed=0, epoch=0)[:size])
        return dataclasses.replace(
            self, name=f"{self.name}, {len(chosen)} of it", _records=_Chosen(self._records, chosen)
        )


@dataclasses.dataclass(frozen=True)
class _TfdsRecords:
    """A split of a TFDS dataset, with one name for what holds the label.

    label: the feature's name.
    name: for messages.
    shards: the files, and how many records of each, from which on, belong to the split.
    """

    records: Any
    label: str
    name: str
    shards: Sequence[tuple[str, int, int]]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, record: int) -> dict[str, Any]:
        try:
            example = self.records[record]
        except Exception as error:  # array_record and protobuf have many kinds for a damaged file
            file, place = self._place(record)
            reason = first_line(error)
            raise InputError(
                f"example {record} of {self.name}, record {place} of {file}, cannot be read: {reason}"
            ) from None
        return {"image": example["image"], "label": example[self.label]}

    def _place(self, record: int) -> tuple[str, int]:
        for file, first, count in self.shards:
            if record < count:
                return file, first + record
            record -= count
        raise IndexError(record)


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Some of the records, numbered anew."""

    records: Records
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, record: int) -> dict[str, Any]:
        return self.records[int(self.chosen[record])]


def open_source(name: str, split: str, data_dir: str | None = None) -> Source:
    """Opens a split of a TFDS dataset that lies on disk as array_record.

    `digits` is prepared on first use; others must have been prepared before. With several labels an example (a
    feature `labels` or `label` that is a sequence of classes) each class is 0 or 1.

    Args:
        name: a TFDS name, `digits` or `cifar10` or `cifar10:3.0.2`.
        split: a split of it, with TFDS's slicing: `train`, `train[:98%]`, `train+test`.
        data_dir: TFDS's folder; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.

    Raises:
        InputError: an unknown name or split, or a dataset that is not prepared, is not in array_record, lacks some of
            its files, or has no image and label.
    """
    builder = open_builder(name, data_dir)
    label, names, multi_label = _label_feature(name, builder.info.features)
    try:
        records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except ValueError as error:
        raise InputError(
            f"dataset {name!r} has no split {split!r}; valid: {', '.join(builder.info.splits)}, or part of one as "
            f"in 'train[:90%]' ({first_line(error)})"
        ) from None
    if not len(records):
        raise InputError(f"split {split!r} of dataset {name!r} is empty")
    parts = [(str(part.filename), part.skip, part.take) for part in builder.info.splits[split].file_instructions]
    return Source(f"{name} {split}", names, _TfdsRecords(records, label, f"{name} {split}", parts), multi_label)


def stand_in(name: str, class_names: Sequence[str], num_examples: int, *, multi_label: bool = False) -> Source:
    """A source of so many examples and classes that none can be read from: for shapes alone."""
    return Source(name, tuple(class_names), range(num_examples), multi_label)  # type: ignore[arg-type]


def known_classes(name: str) -> tuple[tuple[str, ...], bool] | None:
    """Classes of a TFDS dataset that need not be prepared, and whether an example has several.

    Args:
        name: a TFDS name, `imagenet2012`.

    Returns:
        Names and whether; None if TFDS does not know the dataset or has to read it first.
    """
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):  # TFDS misses TensorFlow at length
            features = tfds.builder(name, try_gcs=False).info.features
        _, names, multi_label = _label_feature(name, features)
    except Exception:  # whatever the dataset's own code, or its import, comes to
        return None
    return (names, multi_label) if names else None


def open_builder(name: str, data_dir: str | None = None) -> Any:
    """Opens a TFDS dataset that lies on disk as array_record, with all its files.

    Args:
        name: see `open_source`.
        data_dir: see `open_source`.

    Returns:
        A `tfds.core.DatasetBuilder`.

    Raises:
        InputError: an unknown name, or a dataset that is not prepared, is not in array_record or lacks files.
    """
    data_dir = data_folder(data_dir)
    if "://" in data_dir and not data_dir.startswith("gs://"):
        raise InputError(f"TFDS's folder is {data_dir}; array_record reads local folders and gs:// alone")
    if "://" in data_dir and importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"TFDS's folder is {data_dir}, which needs gcsfs; valid: pip install 'vit-jax[gcs]'")
    builder = _digits(data_dir) if name == "digits" else _builder(name, data_dir)
    missing = []
    for split in builder.info.splits.values():
        files = sorted(os.fspath(file) for file in split.filepaths)
        there = {os.path.basename(file) for file in builder.data_path.glob(f"*-{split.name}.*")}
        missing += [file for file in files if os.path.basename(file) not in there]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"dataset {name!r} lacks {', '.join(missing[:3])}{more}; put them there, or prepare it again")
    return builder


def data_folder(data_dir: str | None) -> str:
    """TFDS's folder: the given one, or $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def class_names(name: str, features: Any) -> tuple[str, ...]:
    """The classes' names of a dataset with the given features, in the order of the labels.

    Raises:
        InputError: the dataset has no image and label.
    """
    return _label_feature(name, features)[1]


def _label_feature(name: str, features: Any) -> tuple[str, tuple[str, ...], bool]:
    """The name of the feature that holds the label or labels, the classes' names, and whether there are several."""
    if "image" in (features or {}):
        for key in ("label", "labels"):
            feature = dict(features).get(key)
            multi_label = isinstance(feature, tfds.features.Sequence)
            feature = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
            if isinstance(feature, tfds.features.ClassLabel):
                return key, tuple(feature.names), multi_label
    raise InputError(
        f"dataset {name!r} has the features {', '.join(features or {})}; classification needs image, and label or "
        "labels"
    )


def _builder(name: str, data_dir: str) -> Any:
    try:
        builder: Any = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or ["digits"]
        raise InputError(
            f"unknown dataset {name!r}; nearest: {', '.join(near)}; valid: digits, or a TFDS name prepared under "
            f"{data_dir}"
        ) from None
    except (AssertionError, ImportError, ValueError) as error:
        raise InputError(f"dataset {name!r} cannot be opened: {first_line(error)}") from None
    folder = str(builder.data_dir)
    option = f" --data-dir {shlex.quote(data_dir)}"
    if not builder.info.splits:
        raise InputError(
            f"dataset {name!r} is not prepared: found nothing in {folder}; 'vit-jax data prepare {name}{option}' puts "
            "it there, with '--from PATH' from files that you have"
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"dataset {name!r} in {folder} is in {builder.info.file_format.value}, which has no random access; 'mv "
            f"{folder} {folder}.old && vit-jax data prepare {name} --from {folder}.old{option}' puts it there in "
            "array_record"
        )
    return builder


def _digits(data_dir: str) -> tfds.core.DatasetBuilder:
    builder = Digits(data_dir=data_dir, file_format="array_record")
    if not builder.info.splits:
        try:
            tfds.disable_progress_bar()
            # TFDS announces itself on standard output, which belongs to the command's own answer.
            with contextlib.redirect_stdout(None):
                builder.download_and_prepare()
        except FileExistsError:
            pass  # another process has just prepared it
        builder = Digits(data_dir=data_dir, file_format="array_record")
    return builder


def first_line(error: Exception) -> str:
    """An error's text up to the first line break, or the kind of error if it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
