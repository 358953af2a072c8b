"""Batches of NumPy arrays: in memory or streamed, for training without end or for one exact evaluation."""

import concurrent.futures
import dataclasses
import functools
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import jax
import numpy as np

from vit_jax.data.augment import policies
from vit_jax.data.augment.policies import Policy
from vit_jax.data.images.decoding import Reading
from vit_jax.data.images.transforms import EXACTLY, Preprocessing, RandomResizedCrop
from vit_jax.data.loading import order
from vit_jax.data.loading.workers import batches_from_workers
from vit_jax.data.sources.tfds import Source
from vit_jax.errors import InputError
from vit_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of each global batch this process reads.

    Example i of a global batch belongs to process i % count, so that the global batches do not depend on
    the number of processes.
    """

    batch_size: int
    index: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls, batch_size: int) -> "Share":
        """The share of a global batch that falls to this JAX process; the processes must divide it."""
        return cls(batch_size, jax.process_index(), jax.process_count())


class Loader(Protocol):
    """A dataset that gives batches of NumPy arrays.

    multi_label: whether an example can have several labels, or none.
    """

    multi_label: bool

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def train_batches(self, share: Share, *, seed: int, start_step: int, total_steps: int) -> Iterator[Batch]:
        """The batches of steps start_step .. total_steps - 1, functions of seed, step and batch size alone."""
        ...

    def eval_batches(self, share: Share) -> Iterator[Batch]:
        """Each example once over all processes; the last batch is filled up with rows whose mask is 0."""
        ...


class InMemory:
    """A dataset that was decoded once; a batch is gathered from arrays.

    For whatever fits in memory and needs no random change of shape.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        *,
        augment: Sequence[Policy] = (),
        repeats: int = 1,
        reading: Reading = EXACTLY,
    ) -> None:
        """Decodes every example of source.

        Args:
            source: encoded examples.
            preprocessing: for all of them.
            augment: for training, one policy after the other.
            repeats: how often in a row an example comes in training, augmented anew each time.
            reading: the largest image; every pixel is decoded.

        Raises:
            InputError: an example that cannot be decoded, named by its path or its record number.
        """
        self.multi_label = source.multi_label
        self._augment, self._repeats = tuple(augment), repeats
        self._images = np.empty((len(source), *preprocessing.image_size, preprocessing.channels), np.uint8)
        self._labels = np.empty((len(source), *source.label_shape), np.float32 if source.multi_label else np.int32)

        transform = functools.partial(preprocessing, reading=reading.exact())

        def fill(record: int) -> None:
            example = source[record]
            self._images[record] = _decoded(transform, example, source, record)
            self._labels[record] = example["label"]

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, range(len(source))):  # raises what a thread raised
                pass

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._labels)

    def train_batches(self, share: Share, *, seed: int, start_step: int, total_steps: int) -> Iterator[Batch]:
        """The batches of steps start_step .. total_steps - 1."""
        for step in range(start_step, total_steps):
            positions = np.arange(step * share.batch_size + share.index, (step + 1) * share.batch_size, share.count)
            batch = self._gather(order.records_at(positions, len(self), seed=seed, repeats=self._repeats), positions)
            if self._augment:
                batch["image"] = np.stack(
                    [
                        policies.apply(self._augment, image, order.generator(seed, position))
                        for image, position in zip(batch["image"], positions.tolist(), strict=True)
                    ]
                )
            yield batch

    def eval_batches(self, share: Share) -> Iterator[Batch]:
        """Each example once over all processes."""
        for start in range(0, len(self), share.batch_size):
            records = np.arange(start + share.index, min(start + share.batch_size, len(self)), share.count)
            yield _padded(self._gather(records, records), share)

    def _gather(self, records: np.ndarray, index: np.ndarray) -> Batch:
        return {
            "image": self._images.take(records, axis=0),
            "label": self._labels.take(records, axis=0),
            "index": index.astype(np.uint32),
        }


class Streaming:
    """A dataset that is decoded as it is read, in threads, by Grain, or in worker processes."""

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        *,
        random_crop: RandomResizedCrop | None = None,
        augment: Sequence[Policy] = (),
        repeats: int = 1,
        reading: Reading = EXACTLY,
        num_workers: int = 0,
        num_threads: int = 8,
    ) -> None:
        """Takes what examples are made of and with.

        Args:
            source: encoded examples.
            preprocessing: for evaluation, and for training without a random crop.
            random_crop: for training.
            augment: for training, after the crop, one policy after the other.
            repeats: how often in a row an example comes in training, augmented anew each time.
            reading: for training; evaluation shares the limit alone, and decodes every pixel.
            num_workers: processes that read and decode, a batch each at a time; 0 is threads of this process.
            num_threads: examples read and decoded at once without workers.
        """
        self.multi_label = source.multi_label
        self._source, self._preprocessing, self._random_crop = source, preprocessing, random_crop
        self._augment, self._repeats, self._reading = tuple(augment), repeats, reading
        self._num_workers, self._num_threads = num_workers, num_threads

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._source)

    def train_batches(self, share: Share, *, seed: int, start_step: int, total_steps: int) -> Iterator[Batch]:
        """The batches of steps start_step .. total_steps - 1."""
        transform = self._random_crop or self._preprocessing
        load = _LoadTrain(self._source, transform, self._reading, self._augment, seed=seed, repeats=self._repeats)
        first, end = start_step * share.batch_size + share.index, total_steps * share.batch_size
        return self._read(load, range(first, end, share.count), share)

    def eval_batches(self, share: Share) -> Iterator[Batch]:
        """Each example once over all processes."""
        load = _LoadEval(self._source, self._preprocessing, self._reading.exact())
        batches = self._read(load, range(share.index, len(self), share.count), share)
        for _ in range(0, len(self), share.batch_size):
            yield _padded(next(batches, None) or blank_batch(self._preprocessing, self._source, 0), share)

    def _read(self, load: Callable[[int], dict[str, Any]], numbers: range, share: Share) -> Iterator[Batch]:
        """Batches of examples in order, no more than about two of them read ahead (two a worker)."""
        size = share.batch_size // share.count
        if not self._num_workers:
            options = grain.ReadOptions(self._num_threads, max(2 * size, self._num_threads))
            examples = grain.MapDataset.range(numbers.start, max(numbers.stop, numbers.start), numbers.step).map(load)
            return iter(examples.to_iter_dataset(options).batch(size, drop_remainder=False))
        blank = blank_batch(self._preprocessing, self._source, size)
        return batches_from_workers(load, numbers, blank=blank, num_workers=self._num_workers)


def blank_batch(preprocessing: Preprocessing, source: Source, size: int) -> Batch:
    """A batch of `size` black images of class 0 (or of none, if the source has several labels), without a mask."""
    return {
        "image": np.zeros((size, *preprocessing.image_size, preprocessing.channels), np.uint8),
        "label": np.zeros((size, *source.label_shape), np.float32 if source.multi_label else np.int32),
        "index": np.zeros(size, np.uint32),
    }


@dataclasses.dataclass(frozen=True)
class _LoadTrain:
    """Position in the training stream -> example; a class, so that workers can get it."""

    source: Source
    transform: Preprocessing | RandomResizedCrop
    reading: Reading
    augment: tuple[Policy, ...]
    _: dataclasses.KW_ONLY
    seed: int
    repeats: int

    def __call__(self, position: int) -> dict[str, Any]:
        where = np.array([position])
        record = int(order.records_at(where, len(self.source), seed=self.seed, repeats=self.repeats)[0])
        rng = order.generator(self.seed, position)
        transform = functools.partial(self.transform, reading=self.reading)
        if isinstance(self.transform, RandomResizedCrop):
            transform = functools.partial(transform, rng=rng)
        example = _example(transform, self.source, record, position)
        return example | {"image": policies.apply(self.augment, example["image"], rng)}


@dataclasses.dataclass(frozen=True)
class _LoadEval:
    """Record number -> example."""

    source: Source
    transform: Preprocessing
    reading: Reading

    def __call__(self, record: int) -> dict[str, Any]:
        return _example(functools.partial(self.transform, reading=self.reading), self.source, record, record)


def _example(transform: Callable[[bytes], np.ndarray], source: Source, record: int, index: int) -> dict[str, Any]:
    example = source[record]
    image = _decoded(transform, example, source, record)
    label = example["label"] if source.multi_label else np.int32(example["label"])
    return {"image": image, "label": label, "index": np.uint32(index % 2**32)}


def _decoded(transform: Callable[[bytes], np.ndarray], example: dict, source: Source, record: int) -> np.ndarray:
    try:
        return transform(example["image"])
    except InputError as error:
        where = example.get("path") or f"example {record} of {source.name}"
        raise InputError(f"{where}: {error}") from None


def _padded(batch: Batch, share: Share) -> Batch:
    """Fills each array up to this process's share of a batch with zeros, and adds the mask."""
    size = share.batch_size // share.count
    missing = size - len(batch["label"])
    padded = {name: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for name, x in batch.items()}
    return padded | {"mask": (np.arange(size) < size - missing).astype(np.float32)}


class Prefetch:
    """Takes items from an iterator in a thread of its own, a few ahead.

    An error in the iterator is raised at the item where it happened.
    """

    def __init__(self, items: Iterator, transform: Callable = lambda item: item, *, size: int = 2) -> None:
        """Starts at once.

        Args:
            items: what to take from.
            transform: applied to each item in the thread, such as the copy to a device.
            size: how many items to be ahead.
        """
        self._queue: queue.Queue = queue.Queue(maxsize=size)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items, transform), daemon=True, name="prefetch")
        self._thread.start()

    def __iter__(self) -> "Prefetch":
        """Itself."""
        return self

    def __next__(self):
        """The next item, as soon as it is there."""
        item, error = self._queue.get()
        if error is not None:
            self._put((None, error))  # and at every later call
            raise error
        return item

    def __enter__(self) -> "Prefetch":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the thread, taking nothing more."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self, items: Iterator, transform: Callable) -> None:
        try:
            for item in items:
                if not self._put((transform(item), None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:  # it belongs to whoever takes the items
            self._put((None, error))

    def _put(self, entry: tuple) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
