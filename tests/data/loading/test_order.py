"""The order of examples is a function of seed and position."""

import numpy as np
import pytest

from vit_jax.data.loading import order


@pytest.mark.parametrize("num_examples", [1, 2, 7, 100])
def test_each_epoch_shows_every_example_once(num_examples):
    records = order.records_at(np.arange(3 * num_examples), num_examples, seed=5).reshape(3, num_examples)
    for epoch in records:
        assert sorted(epoch) == list(range(num_examples))


def test_epochs_and_seeds_differ():
    first, second = order.records_at(np.arange(100), 50, seed=0).reshape(2, 50)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, order.records_at(np.arange(50), 50, seed=1))


def test_any_slice_at_once_equals_one_by_one():
    positions = np.array([149, 3, 50, 77, 1_000_000_007])
    together = order.records_at(positions, 50, seed=2)
    assert [order.records_at(np.array([p]), 50, seed=2)[0] for p in positions] == together.tolist()


def test_the_order_stays_what_it_was():
    """Old runs resume exactly only as long as these numbers do not change."""
    assert order.records_at(np.arange(10), 10, seed=0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]


@pytest.mark.parametrize("repeats", [1, 3])
def test_with_repeats_each_example_comes_so_often_in_a_row(repeats):
    once = order.records_at(np.arange(20), 10, seed=4)
    repeated = order.records_at(np.arange(20 * repeats), 10, seed=4, repeats=repeats)
    np.testing.assert_array_equal(repeated, np.repeat(once, repeats))


LABELS = np.array([5, 0, 5, 5, 2, 5, 0, 5, 5])  # six of class 5, two of class 0, one of class 2


def test_balanced_every_class_comes_once_a_round():
    records = order.Balanced(LABELS).records_at(np.arange(300), seed=3)
    rounds = np.sort(LABELS[records].reshape(100, 3), axis=1)
    np.testing.assert_array_equal(rounds, np.broadcast_to([0, 2, 5], (100, 3)))
    firsts = np.bincount(LABELS[records].reshape(100, 3)[:, 0], minlength=6)
    assert (firsts[[0, 2, 5]] > 15).all()  # each class is first in about a third of the rounds


def test_balanced_all_of_a_class_come_before_one_comes_again():
    records = order.Balanced(LABELS).records_at(np.arange(3 * 12), seed=3)
    common = records[LABELS[records] == 5].reshape(2, 6)
    for turn in common:
        assert sorted(turn) == np.flatnonzero(LABELS == 5).tolist()
    assert common[0].tolist() != common[1].tolist()
    rare = records[LABELS[records] == 0].reshape(6, 2)
    assert all(sorted(turn) == [1, 6] for turn in rare)


def test_balanced_any_slice_at_once_equals_one_by_one_whatever_was_asked_before():
    positions = np.array([149, 3, 50, 77, 1_000_000_007])
    used = order.Balanced(LABELS)
    used.records_at(np.arange(100), seed=2)
    together = used.records_at(positions, seed=2)
    fresh = [order.Balanced(LABELS).records_at(np.array([p]), seed=2)[0] for p in positions]
    assert fresh == together.tolist()
    assert together.tolist() != order.Balanced(LABELS).records_at(positions, seed=9).tolist()


def test_balanced_order_stays_what_it_was():
    """Old runs resume exactly only as long as these numbers do not change."""
    found = order.Balanced(LABELS, repeats=2).records_at(np.arange(12), seed=0)
    assert found.tolist() == [4, 4, 1, 1, 2, 2, 3, 3, 6, 6, 4, 4]


def test_generators_depend_on_seed_and_position_alone():
    draws = {(s, p): order.generator(s, p).random(4).tolist() for s in range(3) for p in (0, 1, 7, 2**33)}
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert order.generator(2, 7).random(4).tolist() == draws[2, 7]


def test_generators_do_not_share_bits_with_the_permutations():
    permutation = set(np.random.Philox(key=[3, 5]).random_raw(10_000).tolist())
    assert not permutation & set(order.generator(3, 5).bit_generator.random_raw(10_000).tolist())
