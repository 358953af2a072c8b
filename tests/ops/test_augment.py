"""Augmentation by brute force: what comes out is one of the possible images, and depends on the index alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.data.augment.erase import Erase
from vit_jax.data.augment.flip import Flip
from vit_jax.data.augment.mix import Mix
from vit_jax.data.augment.shift import Shift
from vit_jax.ops.augment import make_prepare, normalize, random_erase, renormalize
from vit_jax.ops.keys import example_keys
from vit_jax.types import Field, class_fields

KEY = jax.random.key(0)
INDEX = jnp.arange(1000, dtype=jnp.uint32)


def many(image, count=1000):
    """The same image `count` times: `[count, H, W, C]`."""
    return jnp.broadcast_to(jnp.asarray(image), (count, *image.shape))


def applied(augmentation, images):
    """What the augmentation makes of `[B, H, W, C]`."""
    fields = {"image": Field("image", images.shape[1:], str(images.dtype))}
    index = jnp.arange(len(images), dtype=jnp.uint32)
    return augmentation(KEY, {"image": images, "index": index}, fields, None)["image"]


def all_shifts(image, padding_px):
    """Every crop of the zero-padded image, `[(2 p + 1)**2, H, W, C]`."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding_px, padding_px), (padding_px, padding_px), (0, 0)))
    places = range(2 * padding_px + 1)
    return np.stack([padded[top : top + height, left : left + width] for top in places for left in places])


def matches(images, candidates):
    """Which candidate each image equals, `[B, candidates]` bool."""
    return (np.asarray(images)[:, None] == np.asarray(candidates)[None]).all(axis=(2, 3, 4))


def test_example_keys_depend_on_key_and_index_alone():
    index = jnp.array([7, 3, 2**32 - 1], jnp.uint32)
    data = jax.random.key_data(example_keys(KEY, index))
    for i, key in zip(index, data, strict=True):
        np.testing.assert_array_equal(key, jax.random.key_data(jax.random.fold_in(KEY, i)))
    reordered = jax.random.key_data(example_keys(KEY, index[::-1]))
    np.testing.assert_array_equal(reordered, data[::-1])
    assert (jax.random.key_data(example_keys(jax.random.key(1), index)) != data).any(axis=1).all()


def test_example_keys_differ():
    assert len(np.unique(jax.random.key_data(example_keys(KEY, INDEX)), axis=0)) == len(INDEX)


@pytest.mark.parametrize("padding_px", [1, 2])
def test_random_shift_gives_every_shift_equally_often(padding_px):
    image = np.arange(1, 25, dtype=np.uint8).reshape(3, 4, 2)
    shifted = applied(Shift(padding_px), many(image))
    chex.assert_shape(shifted, (len(INDEX), 3, 4, 2))
    which = matches(shifted, all_shifts(image, padding_px))
    assert (which.sum(axis=1) == 1).all()
    expected = len(INDEX) / (2 * padding_px + 1) ** 2
    np.testing.assert_allclose(which.sum(axis=0), expected, atol=5 * expected**0.5)


def test_random_shift_by_nothing_is_the_identity():
    images = jnp.arange(24.0).reshape(2, 3, 4, 1)
    np.testing.assert_array_equal(applied(Shift(0), images), images)


def test_random_flip_gives_the_image_or_its_mirror_equally_often():
    image = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    which = matches(applied(Flip(), many(image)), np.stack([image, image[:, ::-1]]))
    assert (which.sum(axis=1) == 1).all()
    np.testing.assert_allclose(which.mean(axis=0), 0.5, atol=0.08)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32])
def test_augmentation_keeps_the_dtype(dtype):
    images = jnp.ones((2, 4, 4, 3), dtype)
    chex.assert_type([applied(Shift(1), images), applied(Flip(), images)], dtype)


def erased(count=400, height=40, width=30, probability=1.0):
    """Where images of sevens were erased, `[count, height, width]` bool, and the images."""
    erase = jax.jit(lambda keys, images: random_erase(keys, images, probability))
    images = erase(example_keys(KEY, INDEX[:count]), jnp.full((count, height, width, 3), 7.0))
    return np.asarray(images != 7.0).all(axis=3), np.asarray(images)


def test_random_erase_replaces_a_rectangle_of_the_area_and_aspect_of_its_source():
    where, images = erased()
    rows, columns = where.any(axis=2).sum(axis=1), where.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(where.sum(axis=(1, 2)), rows * columns)  # a full rectangle, all channels
    np.testing.assert_array_equal((images != 7.0).any(axis=3), where)
    assert rows.min() >= 1 and rows.max() < 40 and columns.max() < 30
    # Each side is rounded by at most half a pixel.
    area = 40 * 30
    assert ((rows + 0.5) * (columns + 0.5) >= 0.02 * area).all() and ((rows - 0.5) * (columns - 0.5) <= area / 3).all()
    assert ((rows + 0.5) / (columns - 0.5) >= 0.3).all() and ((rows - 0.5) / (columns + 0.5) <= 1 / 0.3).all()
    share = rows * columns / area
    assert share.min() < 0.05 and share.max() > 0.28 and share.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    # Places reach every edge.
    assert where[:, 0].any() and where[:, -1].any() and where[:, :, 0].any() and where[:, :, -1].any()


def test_random_erase_fills_with_standard_normal_noise():
    where, images = erased()
    noise = images[where]
    assert noise.mean() == pytest.approx(0, abs=0.02) and noise.std() == pytest.approx(1, abs=0.02)
    assert len(np.unique(noise)) > 0.9 * noise.size


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_random_erase_has_its_probability(probability):
    where, images = erased(1000, 8, 8, probability)
    assert where.any(axis=(1, 2)).mean() == pytest.approx(probability, abs=0.06)
    chex.assert_type(images, jnp.float32)


def test_random_erase_leaves_an_image_that_no_rectangle_fits_into():
    where, _ = erased(100, 1, 1)
    assert not where.any()


def test_normalize_by_hand():
    images = np.array([[[[0, 255], [51, 102]]]], np.uint8)
    expected = [[[[-0.5 / 0.25, 0.75 / 0.5], [-0.3 / 0.25, 0.15 / 0.5]]]]
    normalized = normalize(images, (0.5, 0.25), (0.25, 0.5))
    chex.assert_type(normalized, jnp.float32)
    np.testing.assert_allclose(normalized, expected, rtol=1e-6)


def test_normalize_takes_one_number_for_all_channels():
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(normalize(images, (0.4,), (0.3,)), normalize(images, (0.4,) * 3, (0.3,) * 3))


def random_batch(size=64):
    images = np.random.default_rng(0).integers(0, 256, (size, 4, 4, 3), np.uint8)
    return {"image": images, "label": np.arange(size), "index": np.arange(100, 100 + size, dtype=np.uint32)}


def test_prepare_without_a_key_only_normalises():
    batch = random_batch()
    original = batch["image"].copy()
    prepared = make_prepare((0.5,), (0.25,), augmentations=[Flip(), Shift(2)])(None, batch)
    np.testing.assert_array_equal(prepared["image"], normalize(original, (0.5,), (0.25,)))
    assert prepared.keys() == batch.keys()
    assert prepared["label"] is batch["label"]
    np.testing.assert_array_equal(batch["image"], original)


def test_prepare_with_a_key_but_nothing_to_do_only_normalises():
    batch = random_batch()
    prepare = make_prepare((0.5,), (0.25,))
    np.testing.assert_array_equal(prepare(KEY, batch)["image"], prepare(None, batch)["image"])


@pytest.mark.parametrize("options", [{"flip": Flip()}, {"shift": Shift(1)}, {"flip": Flip(), "shift": Shift(1)}])
def test_prepare_gives_possible_images_and_not_always_the_same(options):
    image = np.random.default_rng(0).integers(1, 256, (3, 3, 1), np.uint8)
    batch = {"image": many(image), "index": INDEX}
    mirrors = [image, image[:, ::-1]] if "flip" in options else [image]
    possible = np.concatenate([all_shifts(x, "shift" in options) for x in mirrors])
    prepared = make_prepare((0.0,), (1 / 255,), augmentations=list(options.values()))(KEY, batch)["image"]
    which = matches(np.rint(prepared), possible)
    assert (which.sum(axis=1) == 1).all()
    assert which.any(axis=0).all()


@pytest.mark.parametrize("splits", [[32], [1, 33]])
def test_prepare_does_not_depend_on_how_the_batch_is_split(splits):
    batch = random_batch()
    prepare = jax.jit(make_prepare((0.5,), (0.25,), augmentations=[Erase(0.5), Flip(), Shift(1)]))
    pieces = {name: np.split(value, splits) for name, value in batch.items()}
    parts = [prepare(KEY, {name: piece[i] for name, piece in pieces.items()})["image"] for i in range(len(splits) + 1)]
    np.testing.assert_array_equal(np.concatenate(parts), prepare(KEY, batch)["image"])


def test_prepare_erases_and_then_mixes_the_normalised_images():
    batch, mix = random_batch(), Mix(mixup_alpha=1.0)
    fields, options = class_fields([str(label) for label in range(64)]), [Erase(0.5), Flip()]
    prepare = make_prepare((0.5,), (0.25,), fields=fields, augmentations=[mix, *options])
    prepared = jax.jit(prepare)(KEY, batch)
    unmixed = jax.jit(make_prepare((0.5,), (0.25,), augmentations=options))(KEY, batch)["image"]
    share = prepared["label"][0, 0]
    expected = share * unmixed + (1 - share) * unmixed[::-1]
    np.testing.assert_allclose(prepared["image"], expected, atol=1e-5)
    assert 0 < share < 1
    assert prepare(None, batch)["label"] is batch["label"]


def test_prepare_depends_on_the_key():
    batch = random_batch()
    prepare = make_prepare((0.5,), (0.25,), augmentations=[Shift(1)])
    assert (prepare(KEY, batch)["image"] != prepare(jax.random.key(1), batch)["image"]).any()


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_flip_has_its_probability(probability):
    image = np.arange(24, dtype=np.uint8).reshape(3, 4, 2)
    mirrored = (np.asarray(applied(Flip(probability), many(image))) != image).any(axis=(1, 2, 3))
    assert mirrored.mean() == pytest.approx(probability, abs=0.06)


def test_renormalize_equals_normalising_again():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    before, after = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)), ((0.5,), (0.5,))
    again = renormalize(normalize(images, *before), mean=before[0], std=before[1], new_mean=after[0], new_std=after[1])
    np.testing.assert_allclose(again, normalize(images, *after), atol=1e-5)


def test_every_image_is_normalised_and_nothing_else():
    fields = {
        "image": Field("image", (2, 2, 1), "uint8"),
        "target": Field("image", (2, 2, 1), "uint8"),
        "mask": Field("mask", (2, 2)),
        "boxes": Field("boxes", (1, 5), "float32"),
    }
    batch = {name: np.stack([field.blank()]) for name, field in fields.items()}
    prepared = make_prepare((0.5,), (0.25,), fields=fields)(None, batch)
    assert (prepared["image"] == -2).all() and (prepared["target"] == -2).all()
    assert prepared["mask"] is batch["mask"] and prepared["boxes"] is batch["boxes"]
