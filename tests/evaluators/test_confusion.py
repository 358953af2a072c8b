"""The confusion matrix: counts, the classes' accuracies, and a picture of any number of classes."""

import io

import numpy as np
import pytest
from PIL import Image
from streamed import figures, files
from tiny import classification

from vit_jax.errors import InputError
from vit_jax.evaluators import confusion
from vit_jax.figures.confusion import confusion_figure
from vit_jax.types import class_fields

FIELDS = class_fields(["cat", "dog", "eel"])
ROWS = {"label": np.array([0, 0, 0, 0, 1, 1]), "prediction": np.array([0, 0, 0, 2, 1, 0])}


def test_rows_are_the_truth_and_columns_the_prediction():
    matrix = confusion.confusion_matrix(ROWS["label"], ROWS["prediction"], 3)
    np.testing.assert_array_equal(matrix, [[3, 0, 1], [1, 1, 0], [0, 0, 0]])


def test_each_class_with_examples_counts_the_same():
    assert figures(confusion.create(FIELDS), ROWS) == {"mean_class_accuracy": (3 / 4 + 1 / 2) / 2}


def test_tables():
    tables = files(confusion.create(FIELDS), ROWS)
    assert tables["confusion.csv"] == [
        ["true \\ predicted", "cat", "dog", "eel"],
        ["cat", 3, 0, 1],
        ["dog", 1, 1, 0],
        ["eel", 0, 0, 0],
    ]
    assert tables["per_class.csv"] == [
        ["label", "class_name", "examples", "correct", "accuracy"],
        [0, "cat", 4, 3, 0.75],
        [1, "dog", 2, 1, 0.5],
        [2, "eel", 0, 0, ""],
    ]


@pytest.mark.parametrize(
    ("num_classes", "names", "counts"), [(2, True, True), (10, True, True), (50, True, False), (1000, False, False)]
)
def test_a_picture_has_names_and_numbers_as_long_as_they_can_be_read(num_classes, names, counts):
    figure = confusion_figure(
        np.eye(num_classes, dtype=int),
        tuple(f"${i}" if i else "a name of more than twenty" for i in range(num_classes)),
    )
    axes = figure.axes[0]
    assert ("a name of more than…" in [tick.get_text() for tick in axes.get_yticklabels()]) == names
    assert ([text.get_text() for text in axes.texts] == ["1"] * num_classes) == counts
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    width, height = Image.open(file).size
    assert 300 < height < width < 1500


def test_white_is_none_and_colours_are_shares_of_the_true_class():
    shares = confusion_figure(np.array([[2, 2], [0, 0]]), ("a", "b")).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shares.filled(-1), [[0.5, 0.5], [-1, -1]])


def test_it_refuses_several_labels_for_an_image():
    confusion.create(classification(2).fields).check(classification(2))
    task = classification(2, several=True, loss_type="sigmoid")
    with pytest.raises(
        InputError, match="'confusion' needs one label for each image, and the field 'label' has several"
    ):
        confusion.create(task.fields).check(task)
