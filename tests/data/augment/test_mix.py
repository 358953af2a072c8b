"""Mixup and cutmix: by hand, by their definition, and the same whatever devices hold the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from vit_jax.data.augment.mix import Mix
from vit_jax.errors import InputError
from vit_jax.ops.mixing import cut_box, mirrored
from vit_jax.tasks.classification import Classification
from vit_jax.types import class_fields

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 400)


def batch(size=24, side=6):
    """Image i holds i + 1 everywhere."""
    images = np.broadcast_to(np.arange(1.0, size + 1)[:, None, None, None], (size, side, side, 1)).astype(np.float32)
    return {
        "image": images,
        "label": (np.arange(size) % 5).astype(np.int32),
        "index": np.arange(100, 100 + size, dtype=np.uint32),
    }


def draws(mixing, height, width, keys=KEYS):
    """Each key's shares, `[keys, height, width]`."""
    return np.array(jax.jit(jax.vmap(lambda key: mixing.draw(key, height, width)))(keys))


def mixing_of(num_classes, mix=Mix, **options):
    """A function of key, batch and axis that mixes images with `num_classes` classes."""
    fields = class_fields([str(label) for label in range(num_classes)])
    return lambda key, given, axis_name=None: mix(**options)(key, given, fields, axis_name)


def known(num_classes, share, **options):
    """The same with each pixel's own share given instead of drawn."""

    class Known(Mix):
        def draw(self, key, height_px, width_px):
            return jnp.broadcast_to(jnp.asarray(share, jnp.float32), (height_px, width_px))

    return mixing_of(num_classes, Known, **options)


def test_a_row_that_is_no_example_is_nobodys_partner():
    """Of four rows the last is NaN: the first, its mirror, stays; the other two are mixed as ever."""
    given = batch(4) | {"label": np.eye(5, dtype=np.float32)[:4]}
    expected = known(5, 0.75, mixup_alpha=1.0)(KEY, given)
    given["is_example"] = np.array([1, 1, 1, 0], np.float32)
    for name in ("image", "label"):
        given[name] = given[name].copy()
        given[name][3] = np.nan
    mixed = known(5, 0.75, mixup_alpha=1.0)(KEY, given)
    for name in ("image", "label"):
        np.testing.assert_array_equal(mixed[name][0], given[name][0])
        np.testing.assert_array_equal(mixed[name][1:3], expected[name][1:3])


def test_a_row_that_is_no_example_changes_no_draw():
    given = batch(6) | {"is_example": np.array([1, 1, 1, 1, 0, 0], np.float32)}
    other = given | {"index": np.where(given["is_example"] > 0, given["index"], 0).astype(np.uint32)}
    first, second = (mixing_of(5, mixup_alpha=1.0)(KEY, each) for each in (given, other))
    np.testing.assert_array_equal(first["image"][:4], second["image"][:4])


def test_mixup_of_two_images_by_hand():
    two = {
        "image": np.array([10.0, 20.0], np.float32).reshape(2, 1, 1, 1),
        "label": np.array([2, 0]),
        "index": np.array([8, 9], np.uint32),
    }
    mixed = known(3, 0.75, mixup_alpha=1.0)(KEY, two)
    np.testing.assert_allclose(mixed["image"].ravel(), [12.5, 17.5])
    np.testing.assert_allclose(mixed["label"], [[0.25, 0, 0.75], [0.75, 0, 0.25]])
    np.testing.assert_array_equal(mixed["index"], two["index"])


def test_cutmix_of_two_images_by_hand():
    two = {
        "image": np.array([10.0, 20.0], np.float32).reshape(2, 1, 1, 1) * np.ones((1, 2, 2, 1), np.float32),
        "label": np.array([2, 0]),
        "index": np.array([8, 9], np.uint32),
    }
    mixed = known(3, [[1, 1], [0, 1]], cutmix_alpha=1.0)(KEY, two)
    np.testing.assert_array_equal(mixed["image"][:, :, :, 0], [[[10, 10], [20, 10]], [[20, 20], [10, 20]]])
    np.testing.assert_allclose(mixed["label"], [[0.25, 0, 0.75], [0.75, 0, 0.25]])


def test_each_example_is_mixed_with_its_mirror():
    mixed = known(5, 0.0, mixup_alpha=1.0)(KEY, batch(5))
    np.testing.assert_array_equal(mixed["image"][:, 0, 0, 0], [5, 4, 3, 2, 1])
    np.testing.assert_array_equal(mixed["label"].argmax(axis=1), [4, 3, 2, 1, 0])


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_the_share_in_mixup_follows_beta(alpha):
    shares = draws(Mix(mixup_alpha=alpha), 2, 3)
    assert (shares == shares[:, :1, :1]).all()
    assert scipy.stats.kstest(shares[:, 0, 0], scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_the_share_in_cutmix_follows_beta_before_the_edges_cut_the_box_off():
    # With alpha 1 the share is uniform, and the box's sides are at most the rounded-down root of the rest.
    masks = draws(Mix(cutmix_alpha=1.0), 32, 32)
    assert set(np.unique(masks)) == {0.0, 1.0}
    rest = 1 - masks.mean(axis=(1, 2))
    # E[rest] without the cut would be 1/2; over all centres a side of s of 1 keeps s - s**2 / 4 on average.
    s = np.sqrt(np.linspace(0, 1, 10_001))
    assert rest.mean() == pytest.approx(((s - s**2 / 4) ** 2).mean(), abs=0.04)


@pytest.mark.parametrize(("share", "sides"), [(0.75, (8, 16)), (0.0, (16, 32)), (1.0, (0, 0)), (0.5, (11, 22))])
def test_the_box_has_its_share_of_the_area_where_no_edge_cuts_it_off(share, sides):
    boxes = np.array(jax.vmap(lambda key: cut_box(key, jnp.float32(share), 16, 32))(KEYS))
    rows, columns = boxes.any(axis=2).sum(axis=1), boxes.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(boxes.sum(axis=(1, 2)), rows * columns)  # a full rectangle
    assert (rows.max(), columns.max()) == sides
    # The centre is uniform, so that a box is cut off as often as it comes near an edge.
    whole = (rows == sides[0]) & (columns == sides[1])
    expected = np.prod([(n - side + 1) / n if side else 1 for n, side in zip((16, 32), sides, strict=True)])
    assert whole.mean() == pytest.approx(expected, abs=0.08)


def test_labels_weigh_as_much_as_their_pixels():
    mixing, seen = jax.jit(mixing_of(24, mixup_alpha=0.8, cutmix_alpha=1.0)), set()
    for key in KEYS[:40]:
        given = batch() | {"label": np.arange(24)}
        mixed = mixing(key, given)
        # Pixels of image i are i + 1, of its mirror 24 - i: the mean tells the share.
        means = np.asarray(mixed["image"]).mean(axis=(1, 2, 3))
        expected = np.asarray(mixed["label"]) @ np.arange(1, 25)
        np.testing.assert_allclose(means, expected, rtol=1e-5)
        np.testing.assert_allclose(mixed["label"].sum(axis=1), 1.0, rtol=1e-5)
        seen.add(len(np.unique(mixed["image"][0])))
    assert seen == {1, 2}  # blended, or of two parts


@pytest.mark.parametrize(("switch", "expected"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_switching_between_the_two(switch, expected):
    mixing = Mix(mixup_alpha=0.8, cutmix_alpha=1.0, switch_probability=switch)
    shares = draws(mixing, 8, 8)
    cut = np.isin(shares, [0.0, 1.0]).all(axis=(1, 2))
    assert cut.mean() == pytest.approx(expected, abs=0.07)


def test_a_batch_is_mixed_with_its_probability():
    mixing = Mix(mixup_alpha=1.0, probability=0.3)
    shares = draws(mixing, 2, 2)
    assert (shares < 1).all(axis=(1, 2)).mean() == pytest.approx(0.3, abs=0.07)
    never = mixing_of(5, mixup_alpha=1.0, probability=0.0)(KEY, batch())
    np.testing.assert_array_equal(never["image"], batch()["image"])
    np.testing.assert_array_equal(never["label"], np.eye(5)[batch()["label"]])


def test_soft_labels_are_mixed_as_they_are():
    hard, mixing = batch(), mixing_of(5, mixup_alpha=1.0)
    soft = hard | {"label": np.eye(5, dtype=np.float32)[hard["label"]]}
    np.testing.assert_allclose(mixing(KEY, soft)["label"], mixing(KEY, hard)["label"], rtol=1e-6)


def test_smoothing_before_or_after_mixing_is_the_same():
    mixing, given = mixing_of(5, mixup_alpha=1.0), batch()
    smooth = np.eye(5, dtype=np.float32)[given["label"]] * 0.9 + 0.02
    logits = jax.random.normal(KEY, (24, 5))
    # timm smooths the labels and then mixes them; here the task smooths them in its loss.
    before = optax.softmax_cross_entropy(logits, mixing(KEY, given | {"label": smooth})["label"])
    after = Classification(class_fields(list("abcde")), label_smoothing=0.1).loss(logits, mixing(KEY, given))
    np.testing.assert_allclose(before, after, rtol=1e-5)


def test_each_batch_has_a_share_of_its_own_which_its_first_index_decides():
    mixing = mixing_of(5, mixup_alpha=1.0)
    first, again = (mixing(KEY, batch())["image"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = mixing(KEY, batch() | {"index": np.arange(124, 148, dtype=np.uint32)})["image"]
    assert not np.allclose(first, other)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("local_devices", [1, 3])
def test_the_layout_on_processes_and_devices_makes_no_difference(processes, local_devices):
    mixing, given = mixing_of(5, mixup_alpha=0.8, cutmix_alpha=1.0), batch()
    spread_out = jax.jit(jax.vmap(lambda key, part: mixing(key, part, "batch"), (None, 0), axis_name="batch"))
    # Process p has examples p, p + processes, ...; its devices have consecutive parts of these, in process order.
    layout = np.concatenate([np.arange(24)[p::processes] for p in range(processes)])
    slices = {name: x[layout].reshape(processes * local_devices, -1, *x.shape[1:]) for name, x in given.items()}
    for key in KEYS[:4]:
        spread = spread_out(key, slices)
        whole = jax.jit(mixing)(key, given)
        for name, x in spread.items():
            np.testing.assert_allclose(x.reshape(24, *x.shape[2:]), whole[name][layout], rtol=1e-6)
        # The same where one program sees the batch in the order of the processes.
        ordered = jax.jit(mixing)(key, {name: x[layout] for name, x in given.items()})
        np.testing.assert_array_equal(ordered["image"], whole["image"][layout])


def test_mirrored_without_devices_reverses():
    np.testing.assert_array_equal(mirrored(jnp.arange(5), None), [4, 3, 2, 1, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": -0.1}, "data.augment.mix.mixup_alpha is -0.1; valid: 0"),
        ({"cutmix_alpha": float("nan")}, "data.augment.mix.cutmix_alpha is nan"),
        ({"cutmix_alpha": float("inf")}, "data.augment.mix.cutmix_alpha is inf"),
        ({"probability": 1.1}, "data.augment.mix.probability is 1.1; valid: 0 to 1"),
        ({"switch_probability": -1.0}, "data.augment.mix.switch_probability is -1.0"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Mix(**options)


def test_every_label_is_blended_and_what_is_missing_is_left_out():
    fields = class_fields(list("abcde")) | {"tags": class_fields(list("xy"), several=True)["label"]}
    given = batch(4) | {"tags": np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]}
    share = Mix(mixup_alpha=1.0).draw(jax.random.fold_in(KEY, 100), 6, 6)[0, 0]
    mixed = Mix(mixup_alpha=1.0)(KEY, given, fields, None)
    np.testing.assert_allclose(mixed["tags"][0], [share, 1 - share], rtol=1e-6)
    np.testing.assert_allclose(mixed["label"][0], np.eye(5)[0] * share + np.eye(5)[3] * (1 - share), rtol=1e-6)
    del given["tags"]
    assert "tags" not in Mix(mixup_alpha=1.0)(KEY, given, fields, None)


def test_a_clip_is_blended_frame_by_frame():
    fields = class_fields(list("abcde"))
    clips = batch(4) | {"image": np.tile(batch(4)["image"][:, None], (1, 3, 1, 1, 1))}
    for options in ({"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}):
        mixed, alone = (Mix(**options)(KEY, given, fields, None)["image"] for given in (clips, batch(4)))
        assert mixed.shape == (4, 3, 6, 6, 1)
        for frame in np.moveaxis(mixed, 1, 0):
            np.testing.assert_allclose(frame, alone, rtol=1e-6)


def test_without_an_alpha_the_batch_stays():
    given = batch()
    assert Mix()(KEY, given, class_fields(list("abcde")), None) is given
