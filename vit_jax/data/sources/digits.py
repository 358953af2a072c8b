"""1,797 real handwritten digits as a TFDS dataset, prepared without a network.

The images are those that scikit-learn carries (`sklearn.datasets.load_digits`), from "Optical Recognition of
Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998
(doi:10.24432/C50P49, CC BY 4.0).
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

TEST_SIZE = 360
_SPLIT_SEED = 0


class Digits(tfds.core.GeneratorBasedBuilder):
    """8x8 grey images of the digits 0 to 9, PNG-encoded: 1,437 to train on and 360 to test on."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First version."}  # noqa: RUF012 - TFDS's own interface

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 43 people, 8x8 pixels of 17 levels.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits  # imported here: it takes a second, once

        digits: Any = load_digits()
        # 17 levels, 0 to 16, spread over a byte.
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        test = stratified_test_records(digits.target, TEST_SIZE, seed=_SPLIT_SEED)
        train = np.setdiff1d(np.arange(len(images)), test)
        return {
            "train": self._generate_examples(images, digits.target, train),
            "test": self._generate_examples(images, digits.target, test),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray, records: np.ndarray) -> Iterator:
        for record in records:
            png = io.BytesIO()
            Image.fromarray(images[record]).save(png, format="PNG")
            png.seek(0)
            # Bytes, not an array: TFDS would need TensorFlow to encode one.
            yield int(record), {"image": png, "label": int(labels[record])}


def stratified_test_records(labels: np.ndarray, test_size: int, *, seed: int) -> np.ndarray:
    """Choose test examples so that each class has its share, to within one example.

    Args:
        labels: `[n]` int.
        test_size: how many to choose, at most n.
        seed: of the permutation.

    Returns:
        `[test_size]` int record numbers, ascending.
    """
    # The raw bits of a generator, unlike its permutations, are the same in every NumPy version.
    rank = np.argsort(np.random.Philox(seed).random_raw(len(labels)), kind="stable")
    by_class = rank[np.argsort(labels[rank], kind="stable")]
    # Every (n / test_size)-th of the examples in the order of their class.
    chosen = (np.arange(test_size) * len(labels)) // test_size
    return np.sort(by_class[chosen])
