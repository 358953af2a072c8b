"""Batches: the same from memory and streamed, for any share and start; every evaluation example once."""

import threading
import time

import numpy as np
import pytest

from vit_jax.data.augment import policies
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.data.loading import loader
from vit_jax.data.loading.loader import InMemory, Prefetch, Share, Streaming
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError

PREPROCESSING = Preprocessing((8, 8), 1, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def source():
    return sources.open_source("digits", "test[:50]")


@pytest.fixture(params=[InMemory, Streaming], ids=["in memory", "streaming"])
def data(request, source):
    return request.param(source, PREPROCESSING)


def equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


def train(data, share, start=0, total=12):
    return list(data.train_batches(share, seed=3, start_step=start, total_steps=total))


def test_memory_and_streaming_agree(source):
    memory, streaming = InMemory(source, PREPROCESSING), Streaming(source, PREPROCESSING)
    for left, right in zip(train(memory, Share(10)), train(streaming, Share(10)), strict=True):
        equal(left, right)
    for left, right in zip(memory.eval_batches(Share(16)), streaming.eval_batches(Share(16)), strict=True):
        equal(left, right)


def test_batches_have_the_promised_types(data):
    batch = train(data, Share(10))[0]
    assert {name: (x.shape, str(x.dtype)) for name, x in batch.items()} == {
        "image": ((10, 8, 8, 1), "uint8"),
        "label": ((10,), "int32"),
        "index": ((10,), "uint32"),
    }


def test_starting_later_continues_where_the_whole_run_would_be(data):
    whole, rest = train(data, Share(10)), train(data, Share(10), start=7)
    assert len(rest) == 5
    for left, right in zip(whole[7:], rest, strict=True):
        equal(left, right)


def test_two_processes_see_the_global_batches_of_one(data):
    parts = [train(data, Share(10, index, 2)) for index in range(2)]
    for whole, even, odd in zip(train(data, Share(10)), *parts, strict=True):
        equal({k: v[::2] for k, v in whole.items()}, even)
        equal({k: v[1::2] for k, v in whole.items()}, odd)


def test_an_epoch_shows_every_example_once(data):
    batches = train(data, Share(10), total=5)
    counts = np.bincount(np.concatenate([b["label"] for b in batches]), minlength=10)
    evaluated = next(data.eval_batches(Share(50)))["label"]
    np.testing.assert_array_equal(counts, np.bincount(evaluated, minlength=10))


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
@pytest.mark.parametrize("count", [1, 3])
def test_evaluation_counts_every_example_once(data, batch_size, count):
    seen, lengths = [], set()
    for index in range(count):
        batches = list(data.eval_batches(Share(batch_size * count, index, count)))
        lengths.add(len(batches))
        for batch in batches:
            assert all(len(x) == batch_size for x in batch.values())
            seen += batch["index"][batch["is_example"] > 0].tolist()
    assert sorted(seen) == list(range(50))
    assert len(lengths) == 1  # or the processes would wait for one another for ever


def test_random_crops_depend_on_the_position_alone(source):
    crop = RandomResizedCrop(PREPROCESSING)
    whole = train(Streaming(source, PREPROCESSING, random_crop=crop, num_threads=3), Share(4))
    later = train(Streaming(source, PREPROCESSING, random_crop=crop, num_threads=1), Share(4), start=11)
    equal(whole[11], later[0])
    plain = train(Streaming(source, PREPROCESSING), Share(4))
    assert not np.array_equal(plain[0]["image"], whole[0]["image"])


AUGMENT = policies.create(
    "randaugment", mean=(0.5,), color_jitter=(0.3, 0.0, 0.0, 0.0), variant="timm_increasing", magnitude_std=0.5
)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_policies_do_the_same_from_memory_and_streamed(source, num_workers):
    options = {"augment": AUGMENT, "repeats": 3}
    memory = train(InMemory(source, PREPROCESSING, **options), Share(10))
    streamed = train(Streaming(source, PREPROCESSING, num_workers=num_workers, **options), Share(10))
    for left, right in zip(memory, streamed, strict=True):
        equal(left, right)
    plain = train(InMemory(source, PREPROCESSING, repeats=3), Share(10))
    assert not np.array_equal(plain[0]["image"], memory[0]["image"])


@pytest.mark.parametrize("kind", [InMemory, Streaming])
def test_policies_depend_on_the_position_alone(kind, source):
    data = kind(source, PREPROCESSING, augment=AUGMENT, repeats=2)
    whole = train(data, Share(12))
    equal(whole[9], train(data, Share(12), start=9)[0])
    equal({k: v[1::3] for k, v in whole[2].items()}, train(data, Share(12, 1, 3))[2])
    other = next(data.train_batches(Share(12), seed=4, start_step=0, total_steps=1))
    assert not np.array_equal(other["image"], whole[0]["image"])


def test_repeats_come_in_a_row_each_augmented_anew(source):
    batch = train(InMemory(source, PREPROCESSING, augment=AUGMENT, repeats=3), Share(12))[0]
    np.testing.assert_array_equal(batch["label"], np.repeat(batch["label"][::3], 3))
    copies = batch["image"].reshape(4, 3, -1)
    assert all(len(np.unique(copy, axis=0)) > 1 for copy in copies)


def test_evaluation_is_never_augmented(source):
    for kind in (InMemory, Streaming):
        plain, augmented = kind(source, PREPROCESSING), kind(source, PREPROCESSING, augment=AUGMENT, repeats=3)
        for left, right in zip(plain.eval_batches(Share(16)), augmented.eval_batches(Share(16)), strict=True):
            equal(left, right)


@pytest.mark.parametrize("batch_size", [4, 32])
def test_streaming_reads_about_two_batches_ahead(source, batch_size):
    read = []

    class Counting:
        __len__ = lambda self: 10_000  # noqa: E731

        def __getitem__(self, record):
            read.append(record)
            return source[0]

    stream = Streaming(sources.Source("counting", source.class_names, Counting()), PREPROCESSING, num_threads=2)
    next(stream.train_batches(Share(batch_size), seed=0, start_step=0, total_steps=100))
    time.sleep(0.3)
    assert len(read) <= 4 * batch_size


class Broken:
    def __len__(self):
        return 9

    def __getitem__(self, record):
        return {"image": b"no image" if record == 5 else np.zeros((8, 8), np.uint8), "label": 0}


def test_an_example_that_is_no_image_is_named():
    broken = sources.Source("broken set", ("a",), Broken())
    with pytest.raises(InputError, match="example 5 of broken set"):
        InMemory(broken, PREPROCESSING)
    with pytest.raises(InputError, match="example 5 of broken set"):
        list(Streaming(broken, PREPROCESSING).eval_batches(Share(3)))


def test_prefetch_keeps_the_order_and_applies_the_transform():
    with Prefetch(iter(range(3)), lambda x: 2 * x) as items:
        assert list(items) == [0, 2, 4]


def test_prefetch_raises_where_it_happened():
    def failing():
        yield 1
        raise InputError("bad")

    with Prefetch(failing()) as items:
        assert next(items) == 1
        for _ in range(2):
            with pytest.raises(InputError, match="bad"):
                next(items)


def test_prefetch_is_no_more_than_its_size_ahead_and_ends_its_thread():
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield i

    with Prefetch(endless(), size=2) as items:
        next(items)
        time.sleep(0.2)
        assert len(taken) <= 5
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_blank_batch_fits_a_real_one(data, source):
    blank = loader.blank_batch(PREPROCESSING, source, 10)
    real = train(data, Share(10))[0]
    assert {k: (v.shape, v.dtype) for k, v in blank.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}
