"""Refusals of unknown and unusable datasets."""

import pytest

from vit_jax.data import sources
from vit_jax.errors import InputError


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digts", "train", "unknown dataset 'digts'; nearest: digits"),
        ("digits", "tran", "no split 'tran'; valid: train, test"),
        ("digits", "train[:0%]", "no split|is empty"),
        ("cifar10", "train", "not prepared.*cifar10/3.0.2.*array_record"),
        ("cifar10:9.9.9", "train", "cannot be opened.*only: 3.0.2"),
    ],
)
def test_refusals(name, split, message, tmp_path):
    with pytest.raises(InputError, match=message):
        sources.open_source(name, split, str(tmp_path))


def test_slices_and_class_names():
    source = sources.open_source("digits", "train[:10%]")
    assert len(source) == 144
    assert source.class_names == tuple("0123456789")
    assert source.name == "digits train[:10%]"


def test_a_sample_is_some_of_the_examples_and_always_the_same():
    whole = sources.open_source("digits", "test[:40]")
    sample = whole.sample(7)
    assert (len(sample), sample.class_names) == (7, whole.class_names)
    images = [whole[record]["image"] for record in range(40)]
    places = [images.index(sample[record]["image"]) for record in range(7)]
    assert places == sorted(set(places)) and places != list(range(7))
    assert [sample[record] for record in range(7)] == [whole.sample(7)[record] for record in range(7)]
    assert len(whole.sample(100)) == 40
