"""Intersection over union and Dice, by hand and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, recall_score
from streamed import figures, files
from tiny import classification

from vit_jax.errors import InputError
from vit_jax.evaluators import mean_iou
from vit_jax.tasks.segmentation import Segmentation
from vit_jax.types import Field

FIELDS = {"image": Field("image"), "mask": Field("mask", names=("sky", "road", "car"))}
# Two images: 3 pixels of sky are right and 1 is taken for road; 2 of road are right. No car.
ROWS = {"pixel_confusion": np.array([[[2, 1, 0], [0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 2, 0], [0, 0, 0]]], np.float32)}


def test_by_hand_a_class_that_does_not_occur_does_not_count():
    assert figures(mean_iou.create(FIELDS), ROWS) == {
        "mean_iou": pytest.approx((3 / 4 + 2 / 3) / 2),
        "mean_dice": pytest.approx((6 / 7 + 4 / 5) / 2),
        "mean_pixel_class_accuracy": pytest.approx((3 / 4 + 1) / 2),
    }


def test_a_class_that_is_only_predicted_counts_as_nothing_right():
    rows = {"pixel_confusion": np.array([[[3, 0, 1], [0, 0, 0], [0, 0, 0]]], np.float32)}
    found = figures(mean_iou.create(FIELDS), rows)
    assert (found["mean_iou"], found["mean_pixel_class_accuracy"]) == (3 / 4 / 2, 3 / 4)


def test_without_any_pixel_the_figures_are_nan():
    found = figures(mean_iou.create(FIELDS), {"pixel_confusion": np.zeros((2, 3, 3), np.float32)})
    assert all(math.isnan(value) for value in found.values())


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 50))
    predicted = np.where(rng.random((4, 50)) < 0.6, truth, rng.integers(0, 3, (4, 50)))
    matrices = np.stack([confusion_matrix(*pair, labels=range(3)) for pair in zip(truth, predicted, strict=True)])
    pixels = truth.ravel(), predicted.ravel()
    assert figures(mean_iou.create(FIELDS), {"pixel_confusion": matrices}) == {
        "mean_iou": pytest.approx(jaccard_score(*pixels, average="macro"), rel=1e-12),
        "mean_dice": pytest.approx(f1_score(*pixels, average="macro"), rel=1e-12),
        "mean_pixel_class_accuracy": pytest.approx(recall_score(*pixels, average="macro"), rel=1e-12),
    }


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        ([1, 1, 1], [1, 1, 1]),  # one class, all right
        ([0, 0, 0], [2, 2, 2]),  # nothing right, and a class that is only predicted
        ([0, 0, 1, 1], [0, 1, 1, 1]),  # a class that occurs nowhere
        ([-1, 0, -1, 2], [1, 0, 2, 2]),  # ignored pixels, whose predictions do not count
    ],
)
def test_agrees_with_scikit_learn_on_degenerate_pixels(truth, predicted):
    """From the logits on, as the task counts the pixels."""
    truth, predicted = np.array(truth), np.array(predicted)
    logits = np.eye(3, dtype=np.float32)[predicted][None, None]
    rows = {
        "pixel_confusion": np.asarray(Segmentation(FIELDS).rows["pixel_confusion"](logits, {"mask": truth[None, None]}))
    }
    found = figures(mean_iou.create(FIELDS), rows)
    pixels = truth[truth >= 0], predicted[truth >= 0]
    assert found["mean_iou"] == pytest.approx(jaccard_score(*pixels, average="macro"), rel=1e-12)
    assert found["mean_dice"] == pytest.approx(f1_score(*pixels, average="macro"), rel=1e-12)


def test_ignored_pixels_alone_have_no_figures():
    mask = np.full((2, 1, 4), -1)
    rows = {
        "pixel_confusion": np.asarray(
            Segmentation(FIELDS).rows["pixel_confusion"](np.zeros((2, 1, 4, 3)), {"mask": mask})
        )
    }
    assert all(math.isnan(value) for value in figures(mean_iou.create(FIELDS), rows).values())


def test_tables_and_picture():
    shown = files(mean_iou.create(FIELDS), ROWS)
    assert shown["iou.csv"] == [
        ["label", "class_name", "pixels", "predicted_pixels", "iou", "dice", "accuracy"],
        [0, "sky", 4, 3, 3 / 4, 6 / 7, 3 / 4],
        [1, "road", 2, 3, 2 / 3, 4 / 5, 1.0],
        [2, "car", 0, 0, "", "", ""],
    ]
    assert shown["pixel_confusion.csv"][1] == ["sky", 3, 1, 0]
    assert shown["pixel_confusion.png"].axes[0].get_ylabel() == "true class"


def test_it_judges_segmentation_and_refuses_other_tasks():
    mean_iou.create(FIELDS).check(Segmentation(FIELDS))
    with pytest.raises(InputError, match="'mean_iou' needs pixel_confusion of each example, which the task"):
        mean_iou.create(classification(2).fields).check(classification(2))
