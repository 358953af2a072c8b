"""Segmentation: cross-entropy and Dice by hand, ignored pixels, masks in the original's pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import TINY
from PIL import Image
from tiny import IMAGE_FIELD, TaskRow, classification

from vit_jax.build import plugins
from vit_jax.errors import InputError
from vit_jax.tasks.segmentation import UNSEEN, Segmentation, upsampled
from vit_jax.types import IGNORED, Field, Placement

QUARTERS = np.random.default_rng(0).integers(-1, 3, (8, 2, 2))  # a class for each patch; -1 is ignored
ROW = TaskRow(
    IMAGE_FIELD | {"mask": Field("mask", (8, 8), names=("a", "b", "c"))},
    {"mask": QUARTERS.repeat(4, axis=1).repeat(4, axis=2).astype(np.int32)},
    {"dice_weight": 0.5, "class_weights": (1.0, 2.0, 0.5)},
    falls_to=0.3,
)
FIELDS = {"image": Field("image"), "mask": Field("mask", names=("sky", "road"))}
LOG = np.log
# One image of 1x3 pixels; probabilities of the first class 1/4, 1/2, 1/8.
LOGITS = jnp.log(jnp.array([[[[1.0, 3.0], [1.0, 1.0], [1.0, 7.0]]]]))
MASK = jnp.array([[[0, 1, IGNORED]]])


def test_the_loss_is_summed_over_the_pixels_that_count():
    task, batch = Segmentation(FIELDS), {"image": LOGITS, "mask": MASK}
    np.testing.assert_allclose(task.loss(LOGITS, batch), [-LOG(1 / 4) - LOG(1 / 2)], rtol=1e-6)
    np.testing.assert_array_equal(task.weight(batch), [2.0])


def test_label_smoothing_by_hand():
    task = Segmentation(FIELDS, label_smoothing=0.2)
    expected = -0.9 * LOG(1 / 4) - 0.1 * LOG(3 / 4) - LOG(1 / 2)
    np.testing.assert_allclose(task.loss(LOGITS, {"mask": MASK}), [expected], rtol=1e-6)


def test_weighted_pixels_by_hand():
    task, batch = Segmentation(FIELDS, label_smoothing=0.2, class_weights={"road": 3.0}), {"mask": MASK}
    expected = -0.9 * LOG(1 / 4) - 0.1 * 3 * LOG(3 / 4) - 0.9 * 3 * LOG(1 / 2) - 0.1 * LOG(1 / 2)
    np.testing.assert_allclose(task.loss(LOGITS, batch), [expected], rtol=1e-6)
    np.testing.assert_array_equal(task.weight(batch), [4.0])
    plain = task.evaluation()
    np.testing.assert_allclose(plain.loss(LOGITS, batch), [-LOG(1 / 4) - LOG(1 / 2)], rtol=1e-6)
    np.testing.assert_array_equal(plain.weight(batch), [2.0])


def test_dice_by_hand():
    task = Segmentation(FIELDS, dice_weight=0.5)
    # Of the two pixels that count: p = 1/4, 1/2 of class 0 and 3/4, 1/2 of class 1; each class has one.
    dice = 1 - ((2 * 0.25 + 1) / (0.75 + 1 + 1) + (2 * 0.5 + 1) / (1.25 + 1 + 1)) / 2
    expected = -LOG(1 / 4) - LOG(1 / 2) + 0.5 * 2 * dice
    np.testing.assert_allclose(task.loss(LOGITS, {"mask": MASK}), [expected], rtol=1e-6)


def test_dice_counts_the_classes_that_an_image_has():
    task = Segmentation(FIELDS, dice_weight=1.0)
    mask = jnp.array([[[0, IGNORED, IGNORED]]])
    np.testing.assert_allclose(
        task.loss(LOGITS, {"mask": mask}), [-LOG(1 / 4) + 1 - (2 * 0.25 + 1) / (0.25 + 1 + 1)], rtol=1e-6
    )


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
def test_an_image_whose_pixels_are_all_ignored_costs_nothing_and_has_no_gradient(dice_weight):
    task = Segmentation(FIELDS, dice_weight=dice_weight)
    batch = {"mask": jnp.full((1, 1, 3), IGNORED)}
    value, gradient = jax.value_and_grad(lambda logits: task.loss(logits, batch).sum())(LOGITS)
    assert value == 0.0 and task.weight(batch) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_beyond_the_patches_the_last_logits_are_repeated():
    """Two patches of 2x2 pixels in 3x5, then in 1x3, of which they reach beyond."""
    logits = jnp.array([1.0, 5.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(upsampled(logits, (3, 5), (2, 4))[0, :, :, 0], [[1, 2, 4, 5, 5]] * 3, rtol=1e-6)
    np.testing.assert_allclose(upsampled(logits, (1, 3), (2, 4))[0, :, :, 0], [[1, 2, 4]], rtol=1e-6)


def test_metrics_leave_out_ignored_pixels_and_masked_rows():
    logits, mask = (jnp.concatenate([x, x]) for x in (LOGITS, MASK))
    batch = {"mask": mask, "is_example": jnp.array([1.0, 0.0])}
    metrics = Segmentation(FIELDS).metrics(logits.at[1].set(jnp.nan), batch, train=False)
    assert metrics == {"pixel_accuracy": (0.0, 2.0)}


def test_pixels_are_counted_by_truth_and_prediction():
    row = Segmentation(FIELDS).rows["pixel_confusion"](LOGITS, {"mask": MASK})
    np.testing.assert_array_equal(row, [[[0, 1], [1, 0]]])  # the first of equals is predicted


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family_has_logits_of_the_inputs_size(family):
    tiny = TINY[family]
    model = Segmentation(FIELDS).wrap(plugins.create_encoder(family, tiny.variant, **tiny.options))
    for size in tiny.sizes:
        images = jnp.zeros((2, *size, 3))
        logits = jax.eval_shape(lambda images=images: model.init_with_output(jax.random.key(0), images, train=False)[0])
        assert logits.shape == (2, *size, 2) and logits.dtype == jnp.float32


class TestInTheOriginalImage:
    """Results: the left half of the input is sky, the right half road."""

    logits = np.broadcast_to(np.repeat(np.eye(2, dtype=np.float32) * 4, 4, axis=0), (1, 6, 8, 2))

    def result(self, placement):
        [result] = Segmentation(FIELDS).results(self.logits, [placement])
        return result

    def test_a_resized_image_that_is_not_square(self):
        result = self.result(Placement((30, 80), (0, 0, 80, 30), (6, 8)))
        np.testing.assert_array_equal(result.mask, np.repeat([[0] * 40 + [1] * 40], 30, axis=0))
        assert result.line() == "sky 50.0%  road 50.0%"
        assert result.json() == {"height": 30, "width": 80, "shares": {"sky": 0.5, "road": 0.5}}

    def test_outside_a_crop_nothing_is_said(self):
        result = self.result(Placement((6, 20), (2, 0, 10, 6), (6, 8)))
        expected = [IGNORED] * 2 + [0] * 4 + [1] * 4 + [IGNORED] * 10
        np.testing.assert_array_equal(result.mask, np.repeat([expected], 6, axis=0))
        assert result.shares() == {"sky": 0.5, "road": 0.5}

    def test_padding_is_cut_off(self):
        result = self.result(Placement((6, 6), (-2, 0, 6, 6), (6, 8)))
        np.testing.assert_array_equal(result.mask, np.repeat([[0, 0, 1, 1, 1, 1]], 6, axis=0))

    def test_of_a_strip_one_pixel_is_said(self):
        result = self.result(Placement((1, 200), (99.5, 0.0, 100.5, 1.0), (6, 8)))
        assert np.flatnonzero(result.mask != IGNORED).tolist() == [100] and result.mask.shape == (1, 200)

    def test_the_written_mask_holds_the_classes_numbers(self):
        result = self.result(Placement((6, 20), (2, 0, 10, 6), (6, 8)))
        written = result.files()["mask.png"]
        assert written.mode == "P"
        np.testing.assert_array_equal(np.asarray(written)[0], [UNSEEN] * 2 + [0] * 4 + [1] * 4 + [UNSEEN] * 10)

    def test_the_picture_is_at_least_as_large_as_the_image(self):
        result = self.result(Placement((300, 800), (0, 0, 800, 300), (6, 8)))
        picture = result.draw(Image.new("RGB", (800, 300)))
        assert picture.width >= 800 and picture.height >= 300


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        (
            classification(3).fields,
            {},
            r"a field of kind mask, and the data has image \(image\), label \(label\)",
        ),
        ({"mask": Field("mask", names=("all",))}, {}, "needs at least 2 classes, and the data has 1"),
        (FIELDS, {"class_weights": "balanced"}, "class_weights is 'balanced', but the pixels of masks are not counted"),
        (FIELDS, {"label_smoothing": 1.0}, "task.options.label_smoothing is 1.0; valid"),
        (FIELDS, {"dice_weight": -1.0}, "task.options.dice_weight is -1.0; valid: 0 or more"),
        (FIELDS, {"dice_weight": float("nan")}, "task.options.dice_weight is nan; valid: 0 or more"),
    ],
)
def test_what_it_refuses(fields, options, message):
    with pytest.raises(InputError, match=message):
        Segmentation(fields, **options)
