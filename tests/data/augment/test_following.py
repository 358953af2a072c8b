"""Masks, instances and boxes follow the image, on the host and in the step."""

import jax
import numpy as np
import pytest

from vit_jax.build import plugins
from vit_jax.data.augment.operations import OPS
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading import order
from vit_jax.data.loading.pipeline import Pipeline, bound
from vit_jax.data.sources.examples import Examples
from vit_jax.errors import InputError
from vit_jax.ops.augment import make_prepare
from vit_jax.types import Field

SIDE = 48
FIELDS = {
    "image": Field("image", (None, None, None), "uint8"),
    "mask": Field("mask", (None, None), names=("ground", "thing")),
    "boxes": Field("boxes", (None, 5), "float32", ("thing",)),
    "instances": Field("instances", (None, None), names=("thing",)),
    "label": Field("label", names=("a", "b")),
}
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXPx", "TranslateYPx")


def example(left=16, top=18, right=30, bottom=26):
    """A bright rectangle, and what is to be known of it."""
    inside = np.zeros((SIDE, SIDE), np.int32)
    inside[top:bottom, left:right] = 1
    return {
        "image": (inside * 200 + 20).astype(np.uint8)[:, :, None].repeat(3, axis=2),
        "mask": inside,
        "boxes": np.array([[left, top, right, bottom, 0]], np.float32),
        "instances": inside,
        "label": 1,
    }


def pipeline_of(*augmentations, records=None, fields=FIELDS, size=(SIDE, SIDE), **options):
    preprocessing = Preprocessing(size, mean=(0.5,) * 3, std=(0.5,) * 3)
    source = Examples("rectangles", fields, records or [example()])
    return Pipeline(source, preprocessing, 3, policies=bound(augmentations, preprocessing), **options)


def created(name, **options):
    return plugins.create("augmentation", name, options=options)


def hull(inside):
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def assert_agree(row, pixels=1.0, share=0.9):
    """Image, mask, instances and box of the rectangle lie in the same place."""
    thing = row["mask"] == 1
    np.testing.assert_array_equal(thing, row["instances"] == 1)
    assert set(np.unique(row["instances"])) <= {0, 1} and set(np.unique(row["mask"])) <= {-1, 0, 1}
    there = row["boxes"][row["boxes"][:, 4] >= 0]
    if not thing.any():
        assert not len(there) or (there[:, 2:4] - there[:, :2]).min() < 1.5
        return False
    np.testing.assert_allclose(there[0, :4], hull(thing), atol=pixels)
    return True


@pytest.mark.parametrize("name", MOVING)
def test_what_moves_pixels_moves_masks_and_boxes(name, monkeypatch):
    family = next(f for f in ("timm", "trivial") if getattr(OPS[name], f) is not None)
    for position in range(20):
        rng = np.random.default_rng(position)
        strength = rng.uniform(0, 0.4 if family == "trivial" else 1)

        def policy(image, rng, moves, strength=strength):
            from vit_jax.data.augment.operations import Brush

            return OPS[name](image, family=family, strength=strength, brush=Brush(rng, 220, moves=moves))

        pipeline = pipeline_of()
        pipeline = Pipeline(pipeline.source, pipeline.preprocessing, 3, policies=(policy,))
        row = pipeline.augmented(pipeline.exact(0), rng)
        assert_agree(row)
        # The bright pixels of the image (fill is no less bright) are those of the mask, but for rounding.
        thing = row["mask"] == 1
        assert (row["image"][:, :, 0][thing] > 150).mean() > 0.9
        assert ((row["image"][:, :, 0] == 20) == (row["mask"] == 0)).mean() > 0.95


@pytest.mark.parametrize(
    "augmentation",
    [
        *[created("randaugment", variant=variant, magnitude=5.0) for variant in ("paper", "timm_increasing")],
        created("autoaugment"),
        created("trivialaugment"),
    ],
    ids=str,
)
def test_masks_and_boxes_follow_policies(augmentation):
    pipeline, moved = pipeline_of(augmentation), 0
    before = pipeline.exact(0)
    for position in range(60):
        row = pipeline.augmented(before, order.generator(0, position))
        thing, [box] = row["mask"] == 1, row["boxes"][:1]
        np.testing.assert_array_equal(thing, row["instances"] == 1)
        if thing.any():
            # The hull of a turned hull may be larger, never smaller.
            there = hull(thing)
            assert (box[:2] <= there[:2] + 1).all() and (box[2:4] >= there[2:] - 1).all()
        moved += not np.array_equal(row["mask"], before["mask"])
        assert row["label"] == 1
        assert row["boxes"].shape == (3, 5) and (row["boxes"][1:] == [0, 0, 0, 0, -1]).all()
    assert moved > 5
    np.testing.assert_array_equal(before["mask"], pipeline.exact(0)["mask"])


def test_photometric_policies_leave_them_alone():
    pipeline = pipeline_of(created("three_augment"), created("color_jitter", brightness=0.5))
    before = pipeline.exact(0)
    row = pipeline.augmented(before, order.generator(0, 0))
    assert (row["image"] != before["image"]).any()
    for name in ("mask", "boxes", "instances"):
        np.testing.assert_array_equal(row[name], before[name])


def test_all_frames_of_a_clip_and_both_of_a_pair_change_alike():
    frame = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    fields = {
        "image": Field("image", (3, None, None, None), "uint8"),
        "target": Field("image", (None, None, None), "uint8"),
    }
    records = [{"image": np.stack([frame] * 3), "target": frame}]
    augmentations = [
        created("randaugment", variant="google", num_ops=3),
        created("three_augment"),
        created("color_jitter", brightness=0.5, hue=0.2),
    ]
    pipeline = pipeline_of(*augmentations, records=records, fields=fields)
    assert pipeline.fields["image"].shape == (3, SIDE, SIDE, 3)
    for position in range(10):
        row = pipeline.augmented(pipeline.exact(0), order.generator(0, position))
        assert row["image"].shape == (3, SIDE, SIDE, 3)
        for image in row["image"]:
            np.testing.assert_array_equal(image, row["target"])
        assert (row["target"] != frame).any()


def test_a_random_crop_is_the_same_for_all_that_has_a_place():
    crop = created("random_crop", min_area=0.2)
    pipeline, seen = pipeline_of(placing=crop, size=(40, 56)), 0
    for position in range(40):
        seen += assert_agree(pipeline.drawn(0, order.generator(0, position)), pixels=2.5)
    assert seen > 20


STEP = [
    [created("flip")],
    [created("shift", pixels=7)],
    [created("shift", pixels=20), created("flip", probability=1.0)],
    [created("shift", pixels=3), created("flip"), created("erase", probability=1.0)],
]


@pytest.mark.parametrize("augmentations", STEP, ids=str)
def test_masks_and_boxes_follow_in_the_step(augmentations):
    pipeline = pipeline_of()
    prepare = jax.jit(make_prepare((0.0,), (1 / 255,), fields=pipeline.fields, augmentations=augmentations))
    row = pipeline.exact(0)
    batch = {name: np.stack([value] * 40) for name, value in row.items()} | {"index": np.arange(40, dtype=np.uint32)}
    result = jax.device_get(prepare(jax.random.key(0), batch))
    moved = 0
    for i in range(40):
        each = {name: value[i] for name, value in result.items()}
        assert_agree(each, pixels=0)
        moved += not np.array_equal(each["mask"], row["mask"])
        if len(augmentations) < 3:  # none of it erased
            shown = np.rint(each["image"][:, :, 0])
            np.testing.assert_array_equal(shown == 220, each["mask"] == 1)
            np.testing.assert_array_equal(shown == 0, each["mask"] == -1)
        assert (each["boxes"][1:, 4] == -1).all()
    assert moved > 10
    only = jax.device_get(prepare(None, batch))
    for name in ("mask", "boxes", "instances"):
        np.testing.assert_array_equal(only[name], batch[name])


def test_a_box_that_leaves_the_image_fills_the_array():
    pipeline = pipeline_of(records=[example(left=0, right=4)])
    prepare = jax.jit(make_prepare((0.5,), (0.5,), fields=pipeline.fields, augmentations=[created("shift", pixels=20)]))
    row = pipeline.exact(0)
    batch = {name: np.stack([value] * 60) for name, value in row.items()} | {"index": np.arange(60, dtype=np.uint32)}
    result = jax.device_get(prepare(jax.random.key(0), batch))
    there = (result["mask"] == 1).any(axis=(1, 2))
    np.testing.assert_array_equal(result["boxes"][:, 0, 4] == 0, there)
    assert 5 < there.sum() < 55


def test_the_step_moves_all_frames_of_a_clip_alike():
    fields = {"image": Field("image", (3, 6, 6, 1), "uint8")}
    frame = np.arange(1, 37, dtype=np.uint8).reshape(6, 6, 1)
    batch = {"image": np.tile(frame, (20, 3, 1, 1, 1)), "index": np.arange(20, dtype=np.uint32)}
    moving = [created("shift", pixels=2), created("flip")]
    prepare = make_prepare((0.0,), (1 / 255,), fields=fields, augmentations=moving)
    images = np.rint(prepare(jax.random.key(0), batch)["image"])
    assert images.shape == (20, 3, 6, 6, 1)
    np.testing.assert_array_equal(images, images[:, :1].repeat(3, axis=1))
    alone = make_prepare((0.0,), (1 / 255,), augmentations=moving)  # a field `image` is understood
    single = alone(jax.random.key(0), {"image": batch["image"][:, 0], "index": batch["index"]})["image"]
    np.testing.assert_array_equal(images[:, 0], np.rint(single))
    erased = make_prepare((0.0,), (1 / 255,), fields=fields, augmentations=[created("erase", probability=1.0)])
    where = np.asarray(erased(jax.random.key(0), batch)["image"]) != batch["image"]
    np.testing.assert_array_equal(where, where[:, :1].repeat(3, axis=1))
    assert where.any(axis=(1, 2, 3, 4)).all()


def test_both_images_of_a_pair_move_and_are_normalised_but_one_is_erased():
    fields = {name: Field("image", (8, 8, 3), "uint8") for name in ("image", "target")}
    image = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    batch = {"image": image, "target": image, "index": np.arange(30, dtype=np.uint32)}
    prepare = make_prepare((0.5,), (0.5,), fields=fields, augmentations=[created("flip"), created("shift", pixels=2)])
    moved = prepare(jax.random.key(0), batch)
    np.testing.assert_array_equal(moved["image"], moved["target"])
    assert moved["target"].dtype == np.float32


def test_erasing_leaves_what_is_to_be_restored():
    fields = {name: Field("image", (8, 8, 3), "uint8") for name in ("image", "target")}
    batch = {name: np.zeros((5, 8, 8, 3), np.uint8) for name in fields} | {"index": np.arange(5, dtype=np.uint32)}
    prepare = make_prepare((0.5,), (0.5,), fields=fields, augmentations=[created("erase", probability=1.0)])
    after = prepare(jax.random.key(0), batch)
    assert (after["target"] == -1).all() and (after["image"] != -1).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", ["mask", "boxes", "instances"])
def test_mix_refuses_by_name_what_it_cannot_blend(name):
    fields = {key: FIELDS[key] for key in ("image", name)}
    kind = FIELDS[name].kind
    with pytest.raises(
        InputError, match=f"data.augment.mix cannot move the field '{name}' of kind {kind}; valid without"
    ):
        created("mix", mixup_alpha=1.0).fields(fields)


def test_mix_refuses_arrays_and_labels_without_names():
    mix = created("mix", mixup_alpha=1.0)
    with pytest.raises(InputError, match="cannot move the field 'text' of kind array"):
        mix.fields({"image": FIELDS["image"], "text": Field("array", (3,))})
    with pytest.raises(InputError, match="needs the names of the classes of 'label'"):
        mix.fields({"image": FIELDS["image"], "label": Field("label")})


def test_mix_makes_rows_of_numbers_of_labels():
    given = {"image": FIELDS["image"], "label": FIELDS["label"]}
    assert created("mix", mixup_alpha=1.0).fields(given)["label"] == Field("labels", (2,), "float32", ("a", "b"))


def test_each_augmentation_of_the_step_has_a_random_stream_of_its_own():
    orders = [created(name).order for name in ("shift", "flip", "erase", "mix")]
    assert orders == [0, 1, 2, 3]  # runs resume exactly only as long as these stay
