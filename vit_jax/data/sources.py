"""Where examples come from: random access to encoded images and their labels, by dataset name and split."""

import contextlib
import dataclasses
import difflib
import os
from typing import Any, Protocol

import tensorflow_datasets as tfds

from vit_jax.data.digits import Digits
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
    """

    name: str
    class_names: tuple[str, ...]
    _records: Records

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._records)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """Example number `record`: `image`, an encoded file as bytes; `label`, an int; `path`, if it is a file."""
        example = self._records[int(record)]
        path = {"path": example["path"]} if "path" in example else {}
        return {"image": example["image"], "label": int(example["label"])} | path


def open_source(name: str, split: str, data_dir: str | None = None) -> Source:
    """Opens a split of a TFDS dataset that lies on disk as array_record.

    `digits` is prepared on first use; others must have been prepared before.

    Args:
        name: a TFDS name, `digits` or `cifar10` or `cifar10:3.0.2`.
        split: a split of it, with TFDS's slicing: `train`, `train[:98%]`, `train+test`.
        data_dir: TFDS's folder; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.

    Raises:
        InputError: an unknown name or split, or a dataset that is not prepared, is not in array_record, or has
            no image and label.
    """
    data_dir = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    builder: Any = _digits(data_dir) if name == "digits" else _builder(name, data_dir)
    features = builder.info.features
    if not {"image", "label"} <= set(features or {}) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise InputError(
            f"dataset {name!r} has the features {', '.join(features or {})}; classification needs image and label"
        )
    try:
        records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except ValueError as error:
        raise InputError(
            f"dataset {name!r} has no split {split!r}; valid: {', '.join(builder.info.splits)}, or part of one as "
            f"in 'train[:90%]' ({_first_line(error)})"
        ) from None
    if not len(records):
        raise InputError(f"split {split!r} of dataset {name!r} is empty")
    return Source(f"{name} {split}", tuple(features["label"].names), records)


def _builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or ["digits"]
        raise InputError(
            f"unknown dataset {name!r}; nearest: {', '.join(near)}; valid: digits, or a TFDS name prepared under "
            f"{data_dir}"
        ) from None
    except (AssertionError, ValueError) as error:
        raise InputError(f"dataset {name!r} cannot be opened: {_first_line(error)}") from None
    if not builder.info.splits:
        raise InputError(
            f"dataset {name!r} is not prepared: found nothing in {builder.data_dir}; prepare it there with "
            f"tfds.builder({name!r}, data_dir={data_dir!r}, file_format='array_record').download_and_prepare()"
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"dataset {name!r} in {builder.data_dir} is in {builder.info.file_format}, which has no random access; "
            "prepare it again with file_format='array_record'"
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
