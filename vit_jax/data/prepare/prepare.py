"""Prepares datasets as TFDS lays them out, in array_record, from what is on disk already and without TensorFlow."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, decode
from vit_jax.data.prepare import archives, imagenet, shards
from vit_jax.data.prepare.archives import Contents, Split
from vit_jax.data.prepare.image_archives import read_archive
from vit_jax.data.prepare.tar_members import open_tar_of_images
from vit_jax.data.prepare.tfrecord import Tfrecords
from vit_jax.data.prepare.zip_members import is_zip, open_zip_of_images
from vit_jax.data.sources import files as files_
from vit_jax.data.sources import folder
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError
from vit_jax.system.paths import expanded
from vit_jax.system.progress import progress_bar
from vit_jax.system.terminal import visible

SHARD_BYTES = 2**28
"""Of images in a file, about: what is held in memory, and what an interruption loses."""
MAX_SHARDS = 256
"""Files of a split: a run keeps them all open."""
_ORDER_SEED = 0


@dataclasses.dataclass(frozen=True)
class Archive:
    """A dataset that is published as an archive.

    counts: split -> examples.
    read: from the path that the user gives and the class names that TFDS has; None if nothing of it is there.
    files: what it consists of, for messages.
    any_split: whether one split alone will do.
    """

    counts: dict[str, int]
    read: Callable[[pathlib.Path, Sequence[str]], Contents | None]
    files: str
    any_split: bool = False


_IDX = Archive(
    {"train": 60_000, "test": 10_000},
    lambda path, class_names: archives.read_idx(path),
    "train-images-idx3-ubyte and the other three idx files, with or without .gz",
)
ARCHIVES = {
    "cifar10": Archive(
        {"train": 50_000, "test": 10_000},
        lambda path, class_names: archives.read_cifar(path, "cifar10"),
        "cifar-10-python.tar.gz or cifar-10-binary.tar.gz, packed or not",
    ),
    "cifar100": Archive(
        {"train": 50_000, "test": 10_000},
        lambda path, class_names: archives.read_cifar(path, "cifar100"),
        "cifar-100-python.tar.gz or cifar-100-binary.tar.gz, packed or not",
    ),
    "mnist": _IDX,
    "fashion_mnist": _IDX,
    "imagenet2012": Archive(
        {"train": 1_281_167, "validation": 50_000},
        imagenet.read_imagenet,
        f"{imagenet.TRAIN} or {imagenet.VALIDATION}",
        any_split=True,
    ),
}
"""Datasets whose published files are read as they are."""


@dataclasses.dataclass(frozen=True)
class _Known:
    """What TFDS knows of a dataset: no features and no classes, if nothing."""

    folder: str
    version: str
    features: Any = None
    class_names: tuple[str, ...] = ()
    description: str = ""
    homepage: str = ""


def prepare(
    name: str,
    source: str,
    data_dir: str | None = None,
    *,
    eval_fraction: float = 0.2,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> pathlib.Path:
    """Write a dataset from the user's files to where TFDS looks for it, so that its name opens it.

    It comes to lie there in one piece at the end. An interrupted preparation continues where it stopped.

    Args:
        name: TFDS's name of the dataset, or for a folder of images any new one.
        source: the published archive or the folder that it lies in; a folder of images, or a tar or zip archive of one;
            or the folder of a TFDS dataset in TFRecord.
        data_dir: TFDS's folder; None is $TFDS_DATA_DIR, or else ~/tensorflow_datasets.
        eval_fraction: for a new name and a folder of images without splits, see `folder.open_folder`.
        max_pixels: of an image.

    Returns:
        The dataset's folder.

    Raises:
        InputError: a name that cannot be used, a dataset that is there already, or input that is missing, damaged or
            not complete; nothing is left then.
    """
    path = expanded(source)
    if not path.exists():
        raise InputError(f"--from: {source} does not exist; valid: a file or folder on this machine")
    data_dir = sources.data_folder(data_dir)
    if "://" in data_dir:
        raise InputError(f"TFDS's folder is {data_dir}; valid: a local one, which can be copied there as a whole")
    if (path / "dataset_info.json").is_file():
        return _convert(name, path, data_dir, max_pixels)
    known = _known(name, data_dir)
    with shards.new_folder(pathlib.Path(known.folder)) as incomplete:
        contents = _read(name, path, known, incomplete, eval_fraction)
        contents, features = _as_in_tfds(name, contents, known)
        _check_counts(name, contents, path)
        shards.same_as_before(incomplete, _digest(contents))
        infos = [_write_split(incomplete, name, split, x, features, max_pixels) for split, x in contents.splits.items()]
        description = f"{known.description} Prepared by vit-jax from {visible(path.name)}.".strip()
        shards.write_metadata(
            incomplete, features, infos, version=known.version, description=description, homepage=known.homepage
        )
    return pathlib.Path(known.folder)


def _known(name: str, data_dir: str) -> _Known:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"{name!r} cannot name a dataset; valid: small letters, digits and _, a letter first")
    if name in sources.OWN:
        raise InputError(f"{name} is prepared on its first use; valid: another name")
    try:
        cls: Any = tfds.builder_cls(name)
        builder = cls(data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        return _Known(os.path.join(data_dir, name, "1.0.0"), "1.0.0")
    except (AssertionError, ValueError) as error:
        raise InputError(f"dataset {name!r} cannot be prepared: {sources.first_line(error)}") from None
    info, features = builder.info, builder.info.features
    extra = features.keys() - {"image", "label", "coarse_label", "file_name", "id"}
    if extra or not {"image", "label"} <= features.keys():
        wants = ", ".join(sorted(extra)) or "other features"
        raise InputError(f"{name} is a dataset of TFDS with {wants}, which images do not have; valid: another name")
    # TFDS, too, takes the names of CIFAR's classes from the archive, and has numbers until then.
    names = () if name in ("cifar10", "cifar100") else tuple(features["label"].names)
    return _Known(str(builder.data_dir), str(builder.version), features, names, info.description, info.homepage)


def _read(name: str, path: pathlib.Path, known: _Known, incomplete: pathlib.Path, eval_fraction: float) -> Contents:
    """Return what the archive holds, or else the folder of images."""
    archive = ARCHIVES.get(name)
    if archive is not None and (contents := archive.read(path, known.class_names)) is not None:
        return contents
    fraction = 0.0 if archive else eval_fraction
    try:
        if is_zip(path):
            contents = read_archive(open_zip_of_images(path), eval_fraction=fraction)
        elif archives.is_tar(path):
            contents = read_archive(open_tar_of_images(path, incomplete), eval_fraction=fraction)
        else:
            contents = _read_folder(path, fraction)
    except InputError as error:
        also = f"neither {archive.files}; nor a folder of images: " if archive else ""
        raise InputError(f"--from {path} is not usable: {also}{str(error).removeprefix('data.folder: ')}") from None
    if archive and "validation" in archive.counts and "val" in contents.splits:
        splits = {"validation" if split == "val" else split: x for split, x in contents.splits.items()}
        return dataclasses.replace(contents, splits=splits)
    return contents


def _read_folder(path: pathlib.Path, eval_fraction: float) -> Contents:
    images = folder.open_folder(str(path), eval_fraction=eval_fraction)
    if "label" not in images.fields:
        raise InputError(f"{path} holds images with masks; valid: class folders, or --config.data.folder as it is")
    splits = {}
    for split, files in images.splits.items():
        sizes = [os.path.getsize(os.path.join(files.root, image)) for image in files.paths]
        splits[split] = Split(_Named(files), np.asarray(files.labels, int), np.array(sizes, np.int64))
    return Contents(images.fields["label"].names, splits)


@dataclasses.dataclass(frozen=True)
class _Named:
    """Files with their names as a feature."""

    files: files_.Files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, record: int) -> dict[str, Any]:
        example = self.files[record]
        return example | {"file_name": os.path.basename(example["path"])}


def _as_in_tfds(name: str, contents: Contents, known: _Known) -> tuple[Contents, Any]:
    """Contents whose labels count the classes as TFDS does, and the features with the classes' names."""
    features: dict[str, Any] = {"file_name": tfds.features.Text()}
    features |= {"image": tfds.features.Image(shape=(None, None, 3))}
    names = known.class_names or contents.class_names
    if known.features is not None:
        features = dict(known.features)
        if len(names) != features["label"].num_classes:
            raise InputError(
                f"there are {len(names)} classes, {_some(names)}; {name} has {features['label'].num_classes}"
            )
        for unknown in set(contents.class_names) - set(names):
            raise InputError(f"{unknown!r} is no class of {name}; valid: {_some(names)}")
    for class_name in names:
        if class_name != class_name.strip() or re.search(r"[\r\n]", class_name) or not class_name:
            raise InputError(
                f"the class {class_name!r} cannot be kept by TFDS, which writes a class a line; valid: a name without "
                "line breaks and without spaces at its ends"
            )
    features["label"] = tfds.features.ClassLabel(names=list(names))
    numbers = np.array([names.index(class_name) for class_name in contents.class_names or names])
    splits = {}
    for split, examples in contents.splits.items():
        wrong = np.flatnonzero((examples.labels < 0) | (examples.labels >= len(numbers)))
        if len(wrong):
            path, label = examples.records[wrong[0]]["path"], examples.labels[wrong[0]]
            raise InputError(f"{path} has the label {label}; valid: 0 to {len(numbers) - 1}")
        splits[split] = dataclasses.replace(examples, labels=numbers[examples.labels])
    return Contents(names, splits), tfds.features.FeaturesDict(features)


def _check_counts(name: str, contents: Contents, path: pathlib.Path) -> None:
    if name not in ARCHIVES:
        return
    counts = ARCHIVES[name].counts
    missing = [split for split in counts if split not in contents.splits]
    if missing and not ARCHIVES[name].any_split:
        raise InputError(f"{path} has no split {missing[0]!r}; {name} has {', '.join(counts)}")
    for split, examples in contents.splits.items():
        if split not in counts:
            raise InputError(f"{path} has a split {split!r}; {name} has {', '.join(counts)}")
        if len(examples) != counts[split]:
            raise InputError(f"{path} has {len(examples):,} images in {split}; {name} has {counts[split]:,}")


def _digest(contents: Contents) -> str:
    """Stand for what is to be written, and how."""
    digest = hashlib.blake2b(json.dumps(contents.class_names).encode())
    for split, examples in contents.splits.items():
        digest.update(f"{split} {len(examples)} {SHARD_BYTES}".encode())
        digest.update(examples.labels.tobytes() + examples.sizes.tobytes())
    return digest.hexdigest()


def _write_split(
    incomplete: pathlib.Path, name: str, split: str, examples: Split, features: Any, max_pixels: int
) -> tfds.core.SplitInfo:
    """Write a split in an order that is random, so that its slices are samples of it, and always the same."""
    # The raw bits of a generator, unlike its permutations, are the same in every NumPy version.
    order = np.argsort(np.random.Philox(_ORDER_SEED).random_raw(len(examples)), kind="stable")
    num_files = min(max(math.ceil(examples.sizes.sum() / SHARD_BYTES), 1), MAX_SHARDS, len(examples))
    load = functools.partial(_serialized, split=split, examples=examples, features=features, max_pixels=max_pixels)
    with progress_bar(f"writing {name} {split}", len(examples), " images") as bar:
        return shards.write_split(incomplete, name, split, np.array_split(order, num_files), load, bar)


def _serialized(record: int, *, split: str, examples: Split, features: Any, max_pixels: int) -> bytes:
    """Return an example as TFDS stores it, its image decoded once to see that it can be."""
    example = examples.records[record]
    height, width, channels = features["image"].shape
    try:
        image = decode(example["image"], channels, max_pixels=max_pixels)
        if (image.height, image.width) != (height or image.height, width or image.width):
            raise InputError(f"it has {image.height}x{image.width} pixels; valid for this dataset: {height}x{width}")
    except InputError as error:
        raise InputError(f"{example['path']} (example {record} of {split}): {error}") from None
    values = {"id": f"{split}_{record:05d}", "file_name": "", "coarse_label": -1} | example
    # TFDS keeps text, and the bytes of a name need be none.
    values["file_name"] = os.fsencode(values["file_name"]).decode(errors="backslashreplace")
    values["label"] = examples.labels[record]
    encoded = features.encode_example({key: values[key] for key in features})
    message = ExampleSerializer(features.get_serialized_info()).get_tf_example(encoded)
    return message.SerializeToString(deterministic=True)  # as serialize_example, but the same in every process


def _convert(name: str, old: pathlib.Path, data_dir: str, max_pixels: int) -> pathlib.Path:
    """Write the examples of a TFDS dataset in TFRecord again, file by file and in the same order."""
    try:
        info: Any = tfds.builder_from_directory(str(old)).info
    except (AssertionError, ValueError) as error:
        raise InputError(f"--from {old} cannot be opened: {sources.first_line(error)}") from None
    if info.file_format != tfds.core.FileFormat.TFRECORD:
        raise InputError(f"--from {old} is in {info.file_format.value}; valid: tfrecord")
    if name.partition(":")[0] not in (info.name, info.full_name.rpartition("/")[0]):
        raise InputError(f"--from {old} is the dataset {info.full_name}, not {name}")
    target = pathlib.Path(data_dir) / info.full_name
    missing = [str(file) for split in info.splits.values() for file in split.filepaths if not file.exists()]
    if missing or "image" not in info.features:
        raise InputError(f"--from {old} lacks {_some(missing) or 'a feature image'}")
    with shards.new_folder(target) as incomplete:
        shards.same_as_before(incomplete, str(old))
        splits = []
        for split in info.splits.values():
            records = Tfrecords([str(file) for file in split.filepaths], split.shard_lengths, info.features, max_pixels)
            with progress_bar(f"writing {info.name} {split.name}", split.num_examples, " examples") as bar:
                splits.append(
                    shards.write_split(incomplete, info.name, split.name, records.shards(), records.load, bar)
                )
        shards.write_metadata(
            incomplete,
            info.features,
            splits,
            version=str(info.version),
            description=info.description,
            homepage=info.homepage,
        )
    return target


def _some(names: Sequence[str]) -> str:
    """Return the first few of many names."""
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "")
