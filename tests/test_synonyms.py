"""Which classes a name stands for."""

import pytest

from vit_jax.synonyms import are_numbers, imagenet_classes, numbers_of

WORDS = [names for _, names in imagenet_classes()]
NUMBERS = [number for number, _ in imagenet_classes()]


def test_every_class_of_imagenet_is_known_by_its_number_whichever_way_round():
    assert numbers_of(NUMBERS, WORDS) == [(i,) for i in range(1000)]
    ambiguous = [WORDS[i] for i, found in enumerate(numbers_of(WORDS, NUMBERS)) if found != (i,)]
    assert ambiguous == ["crane", "crane"]  # a bird and a machine


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("goldfish", (1,)),
        ("Carassius auratus", (1,)),
        ("great_white_shark", (2,)),
        ("Great-White Shark", (2,)),
        ("crane", (134, 517)),  # either
        ("n03126707", (517,)),
        ("maillot", (638,)),  # also among the names of 639
        ("Cardigan", (264,)),  # a dog
        ("cardigan", (474,)),  # a jacket
        ("gold", ()),
        ("", ()),
    ],
)
def test_names_of_imagenets_classes(name, numbers):
    assert numbers_of([name], WORDS) == [numbers]


def test_other_classes_have_their_own_names_alone():
    model = ["cat", "Cat", "caf\u00e9", "a_b", "0"]
    names = ["cat", "Cat", "CAT", "cafe\u0301", "a b", "a_b", "0", "n01440764"]
    assert numbers_of(names, model) == [(0,), (1,), (), (2,), (), (3,), (4,), ()]


def test_classes_that_only_have_numbers():
    assert are_numbers(["0", "1"]) and are_numbers(["LABEL_0"])
    assert not are_numbers(["0", "one"]) and not are_numbers(["label 0"])
