"""Batches: the same from memory and streamed, for any share and start; every evaluation example once."""

import threading
import time

import numpy as np
import pytest

from vit_jax.build import plugins
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading.loader import Share
from vit_jax.data.loading.memory import InMemory
from vit_jax.data.loading.pipeline import Pipeline, bound
from vit_jax.data.loading.prefetch import Prefetch
from vit_jax.data.loading.streaming import Streaming
from vit_jax.data.sources import tfds as sources
from vit_jax.data.sources.examples import Examples
from vit_jax.errors import InputError
from vit_jax.types import Field, class_fields

PREPROCESSING = Preprocessing((8, 8), 1, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def source():
    return sources.open_source("digits", "test[:50]")


@pytest.fixture(params=[InMemory, Streaming], ids=["in memory", "streaming"])
def data(request, source):
    return request.param(Pipeline(source, PREPROCESSING))


def equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


def train(data, share, start=0, total=12):
    return list(data.train_batches(share, seed=3, start_step=start, total_steps=total))


def test_memory_and_streaming_agree(source):
    memory, streaming = (kind(Pipeline(source, PREPROCESSING)) for kind in (InMemory, Streaming))
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


@pytest.mark.parametrize("kind", [InMemory, Streaming])
def test_balanced_classes_come_equally_often_and_a_run_that_continues_sees_the_same(kind):
    """40 examples of one class, 8 of another and 2 of a third."""
    labels = np.repeat([0, 1, 2], [40, 8, 2])
    records = [{"image": np.full((8, 8, 1), i, np.uint8), "label": int(label)} for i, label in enumerate(labels)]
    source = Examples("unequal", class_fields(["a", "b", "c"]), records)
    data = kind(Pipeline(source, PREPROCESSING), balance="label")
    whole = train(data, Share(12), total=10)
    for batch in whole:
        assert np.bincount(batch["label"]).tolist() == [4, 4, 4]
        np.testing.assert_array_equal(labels[batch["image"][:, 0, 0, 0]], batch["label"])
    again = kind(Pipeline(source, PREPROCESSING), balance="label")
    for left, right in zip(whole[7:], train(again, Share(12), start=7, total=10), strict=True):
        equal(left, right)
    parts = [train(again, Share(12, index, 2), total=2) for index in range(2)]
    for batch, even, odd in zip(whole[:2], *parts, strict=True):
        equal({k: v[::2] for k, v in batch.items()}, even)
        equal({k: v[1::2] for k, v in batch.items()}, odd)
    assert sum(len(batch["index"]) for batch in data.eval_batches(Share(10))) == 50


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


def created(name, **options):
    return plugins.create("augmentation", name, options=options)


def test_random_crops_depend_on_the_position_alone(source):
    pipeline = Pipeline(source, PREPROCESSING, placing=created("random_crop"))
    whole = train(Streaming(pipeline, num_threads=3), Share(4))
    later = train(Streaming(pipeline, num_threads=1), Share(4), start=11)
    equal(whole[11], later[0])
    plain = train(Streaming(Pipeline(source, PREPROCESSING)), Share(4))
    assert not np.array_equal(plain[0]["image"], whole[0]["image"])


def test_random_crops_are_not_for_memory(source):
    with pytest.raises(InputError, match=r"random_crop .*valid with data.in_memory=false"):
        InMemory(Pipeline(source, PREPROCESSING, placing=created("random_crop")))


def augmented(source):
    """A pipeline that draws several random numbers for each image."""
    chosen = [
        created("randaugment", variant="timm_increasing", magnitude_std=0.5),
        created("color_jitter", brightness=0.3),
    ]
    return Pipeline(source, PREPROCESSING, policies=bound(chosen, PREPROCESSING))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_policies_do_the_same_from_memory_and_streamed(source, num_workers):
    memory = train(InMemory(augmented(source), repeats=3), Share(10))
    streamed = train(Streaming(augmented(source), repeats=3, num_workers=num_workers), Share(10))
    for left, right in zip(memory, streamed, strict=True):
        equal(left, right)
    plain = train(InMemory(Pipeline(source, PREPROCESSING), repeats=3), Share(10))
    assert not np.array_equal(plain[0]["image"], memory[0]["image"])


@pytest.mark.parametrize("kind", [InMemory, Streaming])
def test_policies_depend_on_the_position_alone(kind, source):
    data = kind(augmented(source), repeats=2)
    whole = train(data, Share(12))
    equal(whole[9], train(data, Share(12), start=9)[0])
    equal({k: v[1::3] for k, v in whole[2].items()}, train(data, Share(12, 1, 3))[2])
    other = next(data.train_batches(Share(12), seed=4, start_step=0, total_steps=1))
    assert not np.array_equal(other["image"], whole[0]["image"])


def test_repeats_come_in_a_row_each_augmented_in_its_own_way(source):
    batch = train(InMemory(augmented(source), repeats=3), Share(12))[0]
    np.testing.assert_array_equal(batch["label"], np.repeat(batch["label"][::3], 3))
    copies = batch["image"].reshape(4, 3, -1)
    assert all(len(np.unique(copy, axis=0)) > 1 for copy in copies)


def test_evaluation_is_never_augmented(source):
    for kind in (InMemory, Streaming):
        plain, other = kind(Pipeline(source, PREPROCESSING)), kind(augmented(source), repeats=3)
        for left, right in zip(plain.eval_batches(Share(16)), other.eval_batches(Share(16)), strict=True):
            equal(left, right)


@pytest.mark.parametrize("batch_size", [4, 32])
def test_streaming_reads_about_two_batches_ahead(source, batch_size):
    read = []

    class Counting:
        __len__ = lambda self: 10_000  # noqa: E731

        def __getitem__(self, record):
            read.append(record)
            return source[0]

    stream = Streaming(Pipeline(Examples("counting", source.fields, Counting()), PREPROCESSING), num_threads=2)
    next(stream.train_batches(Share(batch_size), seed=0, start_step=0, total_steps=100))
    time.sleep(0.3)
    assert len(read) <= 4 * batch_size


class Broken:
    def __len__(self):
        return 9

    def __getitem__(self, record):
        return {"image": b"no image" if record == 5 else np.zeros((8, 8), np.uint8), "label": 0}


def test_an_example_that_is_no_image_is_named():
    broken = Pipeline(Examples("broken set", class_fields(["a"]), Broken()), PREPROCESSING)
    with pytest.raises(InputError, match="example 5 of broken set"):
        InMemory(broken)
    with pytest.raises(InputError, match="example 5 of broken set"):
        list(Streaming(broken).eval_batches(Share(3)))


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


def test_a_blank_batch_fits_a_real_one(data, source):
    blank, real = Pipeline(source, PREPROCESSING).blank(10), train(data, Share(10))[0]
    assert {k: (v.shape, v.dtype) for k, v in blank.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}
    assert {name: field.shape for name, field in data.fields.items()} == {"image": (8, 8, 1), "label": ()}


SCENES = {
    "image": Field("image", (None, None, None), "uint8"),
    "mask": Field("mask", (None, None), names=("a", "b"), ignore=(255, 7)),
    "boxes": Field("boxes", (None, 6), "float32", ("a", "b")),
    "instances": Field("instances", (None, None), names=("a", "b")),
    "tags": Field("labels", (2,), "float32", ("a", "b")),
    "pose": Field("array", (3,), "float32"),
}


def scenes(count=11, **changes):
    """Scenes of 16 x 16 pixels; number i has i % 3 boxes, which fill up to four rows."""
    records = []
    for i in range(count):
        rng = np.random.default_rng(i)
        corners = np.sort(rng.integers(0, 17, (i % 3, 2, 2)), axis=1).reshape(-1, 4)
        records.append(
            {
                "image": rng.integers(0, 256, (16, 16, 1), np.uint8),
                "mask": rng.choice([0, 1, 7, 255], (16, 16)).astype(np.uint8),
                "boxes": np.concatenate([corners, rng.integers(0, 2, (i % 3, 1)), np.full((i % 3, 1), i)], axis=1),
                "instances": rng.integers(0, 5, (16, 16)).astype(np.uint16),
                "tags": [i % 2],
                "pose": [i, 0.5, 1.5],
            }
            | changes
        )
    return Examples("scenes", SCENES, records)


ROTATING = {"variant": "google", "num_ops": 3}


@pytest.mark.parametrize("num_workers", [None, 0, 2], ids=["in memory", "threads", "workers"])
@pytest.mark.parametrize("policies", [(), bound([created("randaugment", **ROTATING)], PREPROCESSING)], ids=len)
def test_every_kind_of_field_comes_in_batches(num_workers, policies):
    pipeline = Pipeline(scenes(), PREPROCESSING, 4, policies=policies)
    loader = InMemory(pipeline) if num_workers is None else Streaming(pipeline, num_workers=num_workers)
    batches = [*train(loader, Share(4), total=5), *loader.eval_batches(Share(4))]
    for batch in batches:
        assert {name: (x.shape, str(x.dtype)) for name, x in batch.items() if name not in ("index", "is_example")} == {
            "image": ((4, 8, 8, 1), "uint8"),
            "mask": ((4, 8, 8), "int32"),
            "boxes": ((4, 4, 6), "float32"),
            "instances": ((4, 8, 8), "int32"),
            "tags": ((4, 2), "float32"),
            "pose": ((4, 3), "float32"),
        }
        assert set(np.unique(batch["mask"])) <= {-1, 0, 1}
        there = batch["boxes"][..., 4] >= 0
        assert (there.sum(axis=1) <= batch["pose"][:, 0] % 3).all()
        np.testing.assert_array_equal(batch["boxes"][..., 5], there * batch["pose"][:, :1])  # carried along
        np.testing.assert_array_equal(batch["tags"][:, 1], batch["pose"][:, 0] % 2)
    last = batches[-1]
    assert last["is_example"].tolist() == [1, 1, 1, 0]
    assert (last["boxes"][3, :, 4] == -1).all() and not last["image"][3].any()  # blank


def test_kinds_agree_from_memory_and_streamed():
    pipeline = Pipeline(scenes(), PREPROCESSING, 4, policies=bound([created("randaugment", **ROTATING)], PREPROCESSING))
    memory, streaming = InMemory(pipeline), Streaming(pipeline, num_threads=2)
    for left, right in zip(train(memory, Share(6)), train(streaming, Share(6)), strict=True):
        equal(left, right)
    for left, right in zip(memory.eval_batches(Share(4)), streaming.eval_batches(Share(4)), strict=True):
        equal(left, right)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.tile([0.0, 0, 9, 9, 1, 0], (5, 1))}, "it has 5 rows of boxes; valid: at most data.max_boxes.* 4"),
        ({"boxes": np.zeros((2, 5))}, r"boxes has the shape \(2, 5\); valid: \[n, 6\]"),
        ({"mask": np.zeros((16, 15), int)}, "mask has 16x15 px, and the image 16x16 px; valid: the same size"),
        ({"mask": np.full((16, 16), 2)}, "mask has the value 2; valid: 0 to 1, or a value that the data ignore"),
        ({"mask": np.zeros((16, 16))}, "type float64; valid: whole numbers"),
        ({"instances": np.full((16, 16), -1)}, "instances has the value -1; valid: 0"),
        ({"pose": [1, 2]}, r"pose has the shape \(2,\); valid: \(3,\)"),
        ({"image": b"nothing"}, "the image is not an image in a format"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(InputError, match=f"example 0 of scenes: .*{message}"):
        Pipeline(scenes(1, **changes), PREPROCESSING, 4).exact(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image": SCENES["image"], "is_example": Field("label")},
            "a field 'is_example', which batches use themselves",
        ),
        ({"image": SCENES["image"], "index": Field("label")}, "has a field 'index', which batches use themselves"),
        ({"picture": SCENES["image"]}, "has the fields picture; valid: an image called 'image'"),
        ({"image": SCENES["image"], "text": Field("array", (None,))}, r"the field 'text' has the shape \(None,\)"),
    ],
)
def test_fields_that_no_batch_can_have_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        InMemory(Pipeline(Examples("odd", fields, []), PREPROCESSING))


def test_frames_of_a_clip_are_placed_alike():
    fields = {"image": Field("image", (3, None, None, None), "uint8")}
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    source = Examples("clips", fields, [{"image": np.stack([frame, 255 - frame, frame])}])
    pipeline = Pipeline(source, PREPROCESSING, placing=created("random_crop"))
    for position in range(5):
        clip = pipeline.drawn(0, np.random.default_rng(position))["image"].astype(int)
        assert clip.shape == (3, 8, 8, 1)
        np.testing.assert_array_equal(clip[0], clip[2])
        np.testing.assert_allclose(clip[0] + clip[1], 255, atol=2)
    short = Examples("clips", fields, [{"image": np.stack([frame] * 2)}])
    with pytest.raises(InputError, match=r"image is \(2, 20, 30, 3\); valid: an array \[3, H, W, C\]"):
        Pipeline(short, PREPROCESSING).exact(0)


def test_some_of_what_is_in_memory_is_a_loader_of_its_own_without_a_copy(source):
    whole = InMemory(Pipeline(source, PREPROCESSING))
    part = whole.chosen(np.array([3, 7, 40]))
    of_source = InMemory(Pipeline(Examples("some", source.fields, [source[i] for i in (3, 7, 40)]), PREPROCESSING))
    assert len(part) == 3 and len(whole.chosen()) == len(whole) == 50
    for left, right in zip(part.eval_batches(Share(2)), of_source.eval_batches(Share(2)), strict=True):
        equal(left, right)
