"""The archives in which datasets are published, read without unpacking them to disk: CIFAR, MNIST's idx files, tar."""

import contextlib
import dataclasses
import gzip
import io
import lzma
import math
import pathlib
import pickle
import posixpath
import struct
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.data.sources.examples import Records
from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples that can be read in any order.

    records: each a dict with `image` (an encoded file as bytes), `label`, `path` (for messages), and whatever else is
        known of it.
    labels: `[n]` int, classes' numbers.
    sizes: `[n]` int, of the images in bytes, about.
    """

    records: Records
    labels: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What there is to prepare: the classes' names in the order of the labels, and name -> split."""

    class_names: tuple[str, ...]
    splits: dict[str, Split]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Images in memory, which are encoded as PNG when they are asked for.

    images: `[n, h, w]` or `[n, h, w, 3]` uint8.
    columns: name -> `[n]` int, one of them `label`.
    files: the file that each run of `len(images) / len(files)` images comes from.
    """

    images: np.ndarray
    columns: dict[str, np.ndarray]
    files: Sequence[str]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, record: int) -> dict[str, Any]:
        """`image`, `label`, the other columns, and `path`."""
        png = io.BytesIO()
        Image.fromarray(self.images[record]).save(png, format="PNG")
        file, place = divmod(int(record), len(self) // len(self.files))
        path = f"{self.files[file]}, image {place}"
        return {name: int(x[record]) for name, x in self.columns.items()} | {"image": png.getvalue(), "path": path}

    def split(self) -> Split:
        """All of them."""
        size = math.prod(self.images.shape[1:])
        return Split(self, self.columns["label"], np.full(len(self), size, np.int64))


@dataclasses.dataclass(frozen=True)
class _CifarArchive:
    """One of the official archives: its own name, the files in it, and the labels before or beside each image."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    class_names: str
    labels: tuple[str, ...]


_PYTHON_LABELS = {"label": b"fine_labels", "coarse_label": b"coarse_labels"}
_CIFAR = {
    "cifar10": (
        _CifarArchive(
            "cifar-10-python.tar.gz",
            tuple(f"data_batch_{batch}" for batch in range(1, 6)),
            ("test_batch",),
            "batches.meta",
            ("label",),
        ),
        _CifarArchive(
            "cifar-10-binary.tar.gz",
            tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
            ("test_batch.bin",),
            "batches.meta.txt",
            ("label",),
        ),
    ),
    "cifar100": (
        _CifarArchive("cifar-100-python.tar.gz", ("train",), ("test",), "meta", ("coarse_label", "label")),
        _CifarArchive(
            "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), "fine_label_names.txt", ("coarse_label", "label")
        ),
    ),
}


def read_cifar(path: pathlib.Path, name: str) -> Contents | None:
    """Read an official archive of CIFAR-10 or CIFAR-100, python or binary, as it is or unpacked.

    Args:
        path: the archive, or a folder that holds it or its files.
        name: `cifar10` or `cifar100`.

    Returns:
        None if nothing of either archive is there.

    Raises:
        InputError: some of the files are missing, or one is damaged or holds what such a file does not.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout".
    """
    for archive in _CIFAR[name]:
        file = path / archive.name if (path / archive.name).is_file() else path
        wanted = (*archive.train, *archive.test, archive.class_names)
        found = members(file, wanted)
        if not found.keys() & {*archive.train, *archive.test}:
            continue
        missing = [member for member in wanted if member not in found]
        if missing:
            raise InputError(f"{file} lacks {', '.join(missing)} of {archive.name}")
        read = _cifar_python if archive.class_names in ("batches.meta", "meta") else _cifar_binary
        splits = {}
        for split, files in (("train", archive.train), ("test", archive.test)):
            parts = [read(found[member], archive.labels, f"{file}: {member}") for member in files]
            if len({len(images) for images, _ in parts}) > 1:
                raise InputError(f"{file}: {', '.join(files)} hold different numbers of images; valid: the same")
            columns = {label: np.concatenate([labels[label] for _, labels in parts]) for label in archive.labels}
            images = np.concatenate([images for images, _ in parts])
            splits[split] = Pixels(images, columns, [f"{file}: {member}" for member in files]).split()
        return Contents(_cifar_class_names(found[archive.class_names], f"{file}: {archive.class_names}"), splits)
    return None


def _cifar_python(data: bytes, labels: Sequence[str], where: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    batch = _unpickle(data, where)
    names = _PYTHON_LABELS if len(labels) > 1 else {"label": b"labels"}
    try:
        rows = np.asarray(batch[b"data"])
        columns = {label: np.asarray(batch[names[label]], np.int64) for label in labels}
    except (KeyError, TypeError, ValueError):
        expected = ", ".join(["data", *(names[label].decode() for label in labels)])
        raise InputError(f"{where} is no batch of CIFAR; valid: a dict of {expected}") from None
    if rows.dtype != np.uint8 or rows.shape[1:] != (3072,) or any(x.shape != rows.shape[:1] for x in columns.values()):
        raise InputError(f"{where} has data of shape {rows.shape}, type {rows.dtype}; valid: [n, 3072] uint8, n labels")
    return _cifar_images(rows), columns


def _cifar_binary(data: bytes, labels: Sequence[str], where: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    row = len(labels) + 3072
    if not data or len(data) % row:
        raise InputError(f"{where} has {len(data)} bytes; valid: a multiple of {row}, labels and pixels of an image")
    rows = np.frombuffer(data, np.uint8).reshape(-1, row)
    return _cifar_images(rows[:, len(labels) :]), {label: rows[:, i].astype(int) for i, label in enumerate(labels)}


def _cifar_images(rows: np.ndarray) -> np.ndarray:
    """Rows `[n, 3072]`, the channels one after the other, to `[n, 32, 32, 3]`."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _cifar_class_names(data: bytes, where: str) -> tuple[str, ...]:
    if where.endswith(".txt"):
        return tuple(data.decode().split())
    meta = _unpickle(data, where)
    names = meta.get(b"label_names", meta.get(b"fine_label_names")) if isinstance(meta, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise InputError(f"{where} has no list of class names, label_names or fine_label_names")
    return tuple(name.decode() for name in names)


class _ArraysOnly(pickle.Unpickler):
    """Reads the few types of which CIFAR's batches are made: any other name in a pickle could run code."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self._ALLOWED:
            raise InputError(
                f"it asks for {module_name}.{global_name}, which no official batch holds; it is not read, since "
                "that could run code"
            )
        return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)


def _unpickle(data: bytes, where: str) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # whatever damaged bytes lead the unpickler to
        raise InputError(f"{where} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


_IDX = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
_IDX |= {"test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}


def read_idx(path: pathlib.Path) -> Contents | None:
    """Read the four idx files of MNIST and of datasets made like it, packed by gzip or not.

    Args:
        path: a folder that holds them, at most two levels down.

    Returns:
        None if none of them is there.

    Raises:
        InputError: some of them are missing, or one is damaged.

    Source: http://yann.lecun.com/exdb/mnist, "File formats".
    """
    wanted = [name for pair in _IDX.values() for name in pair]
    found = {}
    for file in _files_below(path):
        name = file.name.removesuffix(".gz").replace(".idx", "-idx")
        if name in wanted:
            found.setdefault(name, file)
    if not found:
        return None
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)} (or the same with .gz)")
    splits = {}
    for split, (image_name, label_name) in _IDX.items():
        images, labels = _idx_array(found[image_name], 3), _idx_array(found[label_name], 1).astype(int)
        if len(images) != len(labels):
            raise InputError(f"{found[image_name]} has {len(images):,} images, {found[label_name]} {len(labels):,}")
        splits[split] = Pixels(images, {"label": labels}, [str(found[image_name])]).split()
    return Contents((), splits)


def _idx_array(file: pathlib.Path, rank: int) -> np.ndarray:
    """Read an idx file of bytes: two zeros, 8 (for uint8), the rank, the big-endian shape, the values."""
    with damaged_as_input_error(file):
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    start = 4 + 4 * rank
    if len(data) < start or data[:4] != bytes([0, 0, 8, rank]):
        raise InputError(f"{file} is no idx file of {rank} axes: it starts with {data[:4].hex(' ') or 'nothing'}")
    shape = struct.unpack(f">{rank}I", data[4:start])
    if len(data) != start + math.prod(shape) or not shape[0]:
        raise InputError(f"{file} has {len(data):,} bytes; valid for its shape {shape}: {start + math.prod(shape):,}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def members(path: pathlib.Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Return the wanted files of a tar archive or of a folder, whichever folder in it they lie in: name -> contents.

    Raises:
        InputError: an archive that is damaged or has a member whose path leaves it.
    """
    found: dict[str, bytes] = {}
    if path.is_dir():
        for file in _files_below(path):
            if file.name in wanted:
                found.setdefault(file.name, file.read_bytes())
    elif is_tar(path):
        with open_tar(path) as tar:
            for member in tar:
                name = posixpath.basename(member_name(member.name, path))
                if name in wanted and (file := tar.extractfile(member)) is not None:
                    found.setdefault(name, file.read())
    return found


def _files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files in a folder and at most two levels down, the nearest first."""
    return [file for pattern in ("*", "*/*", "*/*/*") for file in sorted(folder.glob(pattern)) if file.is_file()]


def is_tar(path: pathlib.Path) -> bool:
    """Return whether a path is a tar archive, packed or not."""
    try:
        return path.is_file() and tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):
        return True  # of one of the packed kinds, and damaged


@contextlib.contextmanager
def open_tar(path: pathlib.Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, packed or not; what is wrong with it is an InputError."""
    with damaged_as_input_error(path), tarfile.open(path) as tar:
        yield tar


@contextlib.contextmanager
def damaged_as_input_error(path: str | pathlib.Path) -> Iterator[None]:
    """Turn what the readers of archives raise for one that is damaged or cut off into an InputError."""
    try:
        yield
    except (tarfile.ReadError, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} is damaged or cut off: {error}") from None


def member_name(name: str, archive: str | pathlib.Path) -> str:
    """Return the path of a member in its archive.

    Args:
        name: of the member, as the archive has it.
        archive: for messages.

    Raises:
        InputError: a path that leaves the folder that it would be unpacked to.
    """
    path = posixpath.normpath(name)
    if path.startswith(("/", "../")) or path == "..":
        raise InputError(f"{archive}: the path of member {name!r} leaves the folder; such archives are refused")
    return path
