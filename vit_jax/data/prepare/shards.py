"""Writes array_record files as TFDS lays them out, so that an interrupted writer continues where it stopped."""

import concurrent.futures
import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # type: ignore[attr-defined]
from tqdm import tqdm

from vit_jax.errors import InputError
from vit_jax.system.atomic import named


@contextlib.contextmanager
def new_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Return a folder beside `target` to write in, which becomes `target` at the end.

    It is removed if the input is refused, and kept for the next time if the writer is interrupted in any other way.

    Raises:
        InputError: `target` is there, or another process is at work on it.
    """
    if target.exists():
        raise InputError(f"{target} is there already; to prepare it again, remove it first")
    incomplete = target.with_name(f"{target.name}.incomplete")
    incomplete.mkdir(parents=True, exist_ok=True)
    lock = incomplete / ".lock"
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is writing {incomplete}; valid: wait for it") from None
        try:
            with named(incomplete):
                yield incomplete
        except InputError:
            shutil.rmtree(incomplete)
            with contextlib.suppress(OSError):  # the dataset's folder, unless it has other versions
                incomplete.parent.rmdir()
            raise
        lock.unlink()
        incomplete.rename(target)


def same_as_before(folder: pathlib.Path, plan: str) -> None:
    """Remove the files that an interrupted writer left of another plan than this."""
    file = folder / "plan"
    if not file.exists() or file.read_text() != plan:
        for shard in folder.glob("*.array_record-*"):
            shard.unlink()
        file.write_text(plan)


def write_split(
    folder: pathlib.Path,
    name: str,
    split: str,
    shards: Sequence[np.ndarray],
    load: Callable[[int], bytes],
    bar: tqdm,
) -> tfds.core.SplitInfo:
    """Write what is not there yet of the files of a split.

    Args:
        folder: where to.
        name: of the dataset.
        split: its name.
        shards: for each file the numbers of its records, in their order in it.
        load: gives a record by its number; called in threads.
        bar: counts records.

    Returns:
        What TFDS's metadata say of the split.
    """
    template = tfds.core.ShardedFileTemplate(
        tfds.core.Path(folder), dataset_name=name, split=split, filetype_suffix="array_record"
    )
    size = 0
    for shard, records in enumerate(shards):
        file = pathlib.Path(template.sharded_filepath(shard_index=shard, num_shards=len(shards)))
        if _num_records(file) == len(records):
            bar.update(len(records))
        else:
            _write_file(file, records, load, bar)
        size += file.stat().st_size
    lengths = [len(records) for records in shards]
    return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template)


def _write_file(file: pathlib.Path, records: np.ndarray, load: Callable[[int], bytes], bar: tqdm) -> None:
    # In the order of the input, which a hard disk reads fastest, whatever their order in the file.
    numbers = np.sort(records).tolist()
    loaded = {}
    pool = concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    try:
        for number, data in zip(numbers, pool.map(load, numbers), strict=True):
            loaded[number] = data
            bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
    new = file.with_name("unfinished")
    # Images are compressed already.
    writer = array_record_module.ArrayRecordWriter(str(new), "group_size:1,uncompressed")
    for number in records.tolist():
        writer.write(loaded[number])
    writer.close()
    if _num_records(new) != len(records):
        raise OSError(f"{new} was not written as a whole")
    new.rename(file)


def _num_records(file: pathlib.Path) -> int:
    """Count the records of a file; 0 if it is not there or not whole."""
    if not file.exists():
        return 0
    reader = array_record_module.ArrayRecordReader(str(file))
    try:
        return reader.num_records()
    finally:
        reader.close()


def write_metadata(
    folder: pathlib.Path,
    features: Any,
    splits: Sequence[tfds.core.SplitInfo],
    *,
    version: str,
    description: str,
    homepage: str,
) -> None:
    """Write what TFDS needs to open the dataset; the folder then holds nothing else but the records."""
    for file in folder.glob("*"):
        if "array_record" not in file.name and file.name != ".lock":
            file.unlink()
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=splits,
        version=version,
        check_data=False,  # that would need TensorFlow
        supervised_keys=("image", "label") if "label" in features else None,
        description=description,
        homepage=homepage,
    )
