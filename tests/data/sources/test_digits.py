"""The digits as a TFDS dataset."""

import io
import subprocess
import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from vit_jax.data.sources import tfds as sources
from vit_jax.data.sources.digits import stratified_test_records


def test_splits_hold_every_digit_once_and_pixels_survive(data_dir):
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    expected = sorted((image.tobytes(), int(label)) for image, label in zip(pixels, digits.target, strict=True))
    found = []
    for split, size in (("train", 1437), ("test", 360)):
        source = sources.open_source("digits", split)
        assert len(source) == size
        for record in range(size):
            example = source[record]
            image = np.asarray(Image.open(io.BytesIO(example["image"])))
            found.append((image.tobytes(), example["label"]))
    assert sorted(found) == expected
    assert (data_dir / "digits" / "1.0.0" / "digits-test.array_record-00000-of-00001").is_file()


def test_each_class_has_its_share_of_the_test_split():
    labels = load_digits().target
    test = stratified_test_records(labels, 360, seed=0)
    assert len(set(test.tolist())) == 360
    share = np.bincount(labels[test]) - np.bincount(labels) * 360 / len(labels)
    assert np.abs(share).max() <= 1.0


def test_two_processes_may_prepare_at_once_without_tensorflow(tmp_path):
    code = (
        "import sys\nfrom vit_jax.data.sources import tfds as sources\n"
        f"print(len(sources.open_source('digits', 'test', {str(tmp_path)!r})), 'tensorflow' in sys.modules)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.strip()) == (0, "360 False"), err
