"""Datasets of TFDS, by name and split, from array_record files."""

import contextlib
import dataclasses
import difflib
import importlib.util
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from vit_jax.data.sources import digit_scenes
from vit_jax.data.sources.digits import Digits
from vit_jax.data.sources.examples import Examples
from vit_jax.data.sources.features import Feature, features_of, fields_of, is_default, skip_decoding
from vit_jax.errors import InputError
from vit_jax.system import paths
from vit_jax.types import Field, Fields

OWN: dict[str, Any] = {builder.name: builder for builder in (Digits, *digit_scenes.BUILDERS)}
"""Datasets that are prepared on first use: name -> builder class."""


@dataclasses.dataclass(frozen=True)
class _TfdsRecords:
    """A split of a TFDS dataset.

    features: name of a field -> how it is read.
    name: for messages.
    shards: the files, and which records of each belong to the split: the first one's number, and how many.
    """

    records: Any
    features: Mapping[str, Feature]
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
        try:
            return {name: feature.read(example) for name, feature in self.features.items()}
        except InputError as error:  # an image that has to be looked at for its size
            raise InputError(f"example {record} of {self.name}: {error}") from None

    def _place(self, record: int) -> tuple[str, int]:
        for file, first, count in self.shards:
            if record < count:
                return file, first + record
            record -= count
        raise IndexError(record)


def open_source(name: str, split: str, data_dir: str | None = None, *, names: Sequence[str] | None = None) -> Examples:
    """Open a split of a TFDS dataset that lies on disk as array_record.

    `digits` and the datasets of `digit_scenes` are prepared on first use; others must have been prepared before.

    Args:
        name: a TFDS name, `digits` or `cifar10` or `cifar10:3.0.2`.
        split: a split of it, with TFDS's slicing: `train`, `train[:98%]`, `train+test`.
        data_dir: TFDS's folder; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
        names: of the fields to open; None opens all but arrays and further labels. See `features.features_of`.

    Raises:
        InputError: an unknown name, split or field, or a dataset that is not prepared, is not in array_record, lacks
            some of its files, or has no image.
    """
    builder = open_builder(name, data_dir)
    features = _features(name, builder.info.features, names)
    decoders = skip_decoding(builder.info.features)
    try:
        records = builder.as_data_source(split=split, decoders=decoders)
    except ValueError as error:
        raise InputError(
            f"dataset {name!r} has no split {split!r}; valid: {', '.join(builder.info.splits)}, or part of one as "
            f"in 'train[:90%]' ({first_line(error)})"
        ) from None
    if not len(records):
        raise InputError(f"split {split!r} of dataset {name!r} is empty")
    parts = [(str(part.filename), part.skip, part.take) for part in builder.info.splits[split].file_instructions]
    stored = _TfdsRecords(records, features, f"{name} {split}", parts)
    return Examples(f"{name} {split}", fields_of(features), stored)


def known_fields(name: str) -> Fields | None:
    """Fields of a TFDS dataset that need not be prepared.

    Args:
        name: a TFDS name, `imagenet2012`.

    Returns:
        The fields that `open_source` gives; None if TFDS does not know the dataset or has to read its classes first.
    """
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):  # TFDS misses TensorFlow at length
            features = tfds.builder(name, try_gcs=False).info.features
        fields = fields_of(_features(name, features, None))
    except Exception:  # the dataset's own code, or its import, may raise anything
        return None
    unnamed = [field for field in fields.values() if field.kind in ("label", "labels", "boxes") and not field.names]
    return None if unnamed else fields


def all_fields(name: str, features: Any) -> dict[str, Field]:
    """All fields that a dataset with the given TFDS features has, those among them that have to be asked for.

    Raises:
        InputError: it has no image.
    """
    return {name: feature.field for name, feature in _all_features(name, features).items()}


def _all_features(name: str, features: Any) -> dict[str, Feature]:
    found = features_of(features)
    if "image" not in found or found["image"].field.kind != "image":
        raise InputError(f"dataset {name!r} has the features {', '.join(features or {})}; valid: one called image")
    return found


def _features(name: str, features: Any, names: Sequence[str] | None) -> dict[str, Feature]:
    found = _all_features(name, features)
    if names is None:
        return {key: feature for key, feature in found.items() if is_default(key, feature.field)}
    for key in names:
        if key not in found:
            raise InputError(f"dataset {name!r} has no field {key!r}; it has {', '.join(found)}")
    return {key: found[key] for key in names}


def open_builder(name: str, data_dir: str | None = None) -> Any:
    """Open a TFDS dataset that lies on disk as array_record, with all its files.

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
    builder = _own(name, data_dir) if name in OWN else _builder(name, data_dir)
    there = {file.name for file in builder.data_path.iterdir()}  # glob() would take [...] in the path for a pattern
    missing = []
    for split in builder.info.splits.values():
        files = sorted(os.fspath(file) for file in split.filepaths)
        missing += [file for file in files if os.path.basename(file) not in there]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"dataset {name!r} lacks {', '.join(missing[:3])}{more}; put them there, or prepare it again")
    return builder


def data_folder(data_dir: str | None) -> str:
    """TFDS's folder: the given one, or $TFDS_DATA_DIR, or ~/tensorflow_datasets.

    Raises:
        InputError: a path that is not UTF-8, which array_record cannot open.
    """
    folder = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    if not paths.is_utf8(folder):
        raise InputError(f"TFDS's folder {folder} is not UTF-8; valid: --data-dir (data.data_dir) with a path that is")
    return folder


def _builder(name: str, data_dir: str) -> Any:
    try:
        builder: Any = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*OWN, *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or ["digits"]
        raise InputError(
            f"unknown dataset {name!r}; nearest: {', '.join(near)}; valid: {', '.join(OWN)}, or a TFDS name "
            f"prepared under {data_dir}"
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


def _own(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    builder = OWN[name](data_dir=data_dir, file_format="array_record")
    if not builder.info.splits:
        try:
            tfds.disable_progress_bar()
            # TFDS announces itself on standard output, which belongs to the command's own answer.
            with contextlib.redirect_stdout(None):
                builder.download_and_prepare()
        except FileExistsError:
            pass  # another process has just prepared it
        builder = OWN[name](data_dir=data_dir, file_format="array_record")
    return builder


def first_line(error: Exception) -> str:
    """Return an error's text up to the first line break, or the kind of error if it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
