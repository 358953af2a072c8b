"""The labels of a whole dataset, without its images where they are known apart."""

import concurrent.futures
import os
import sys

import numpy as np
from tqdm import tqdm

from vit_jax.contracts import Source
from vit_jax.data.sources.examples import Examples
from vit_jax.data.sources.files import Files

_CHUNK = 256


def labels_of(source: Source, name: str) -> np.ndarray:
    """Return the labels of all examples, in their order.

    A folder's labels are known from its listing. Of other data every record is read once, in threads, without decoding
    its image; a progress bar appears if that takes longer than a second.

    Args:
        source: the examples.
        name: of a field of kind `label` or `labels`.

    Returns:
        `[n]` int64, or `[n, classes]` float32 of a field of kind `labels`.

    Raises:
        InputError: a record that cannot be read, or a class out of its range.
    """
    listed = source.records if isinstance(source, Examples) and source.fields[name].kind == "label" else None
    if isinstance(listed, Files) and listed.labels is not None and name == "label":
        return np.asarray(listed.labels, np.int64)
    chunks = [range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    seconds = 0.1 if sys.stderr.isatty() else 60.0
    values = []
    with (
        concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(source), desc=f"labels of {source.name}", unit=" examples", mininterval=seconds, delay=1) as bar,
    ):
        for chunk in pool.map(lambda records: [source[record][name] for record in records], chunks):
            values += chunk
            bar.update(len(chunk))
    return np.asarray(values, np.float32 if source.fields[name].kind == "labels" else np.int64)


def class_counts(labels: np.ndarray, num_classes: int) -> list[int]:
    """Count the examples of each class; of labels `[n, classes]` those with a number above 0.5.

    Example:
        >>> class_counts(np.array([1, 1, 0]), 3), class_counts(np.array([[1.0, 0.0], [1.0, 1.0]]), 2)
        ([1, 2, 0], [2, 1])
    """
    if labels.ndim == 2:
        return (labels > 0.5).sum(axis=0).tolist()
    return np.bincount(labels, minlength=num_classes).tolist()
