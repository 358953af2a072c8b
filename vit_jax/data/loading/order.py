"""The order of training examples: a function of the seed and the position alone.

Position p of the endless stream is example p % n of epoch p // n, and each epoch has its own permutation.
Nothing about an iterator has to be saved: a run can start at any position at once. With repeated augmentation
each example takes several positions in a row. With balanced classes an epoch is as many positions as there are
examples, in which those of a rare class come more than once and those of a common one not all.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Order(Protocol):
    """Which example comes when: a function of the seed and the position alone."""

    def records_at(self, positions: np.ndarray, *, seed: int) -> np.ndarray:
        """Record numbers `[k]` int64 at positions `[k]` int64 of the training stream, 0 or more."""
        ...


@dataclasses.dataclass(frozen=True)
class Shuffled(Order):
    """Every example once an epoch.

    num_examples: of the dataset.
    repeats: how many positions in a row show the same example.
    """

    num_examples: int
    repeats: int = 1

    def records_at(self, positions: np.ndarray, *, seed: int) -> np.ndarray:
        """See `Order`."""
        return records_at(positions, self.num_examples, seed=seed, repeats=self.repeats)


class Balanced(Order):
    """Every class equally often.

    The stream consists of rounds, in each of which every class that has examples comes once, in an order of its own.
    The examples of a class come in turn, all of them before the first one comes again, each time in another order.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, *, repeats: int = 1) -> None:
        """Take the examples' classes.

        Args:
            labels: `[n]` int, 0 or more.
            repeats: how many positions in a row show the same example.
        """
        labels = np.asarray(labels)
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self._repeats = repeats
        # The order of a class that was used last; threads may replace it, each by one that is right.
        self._last: dict[int, tuple[tuple[int, int], np.ndarray]] = {}

    def records_at(self, positions: np.ndarray, *, seed: int) -> np.ndarray:
        """See `Order`."""
        rounds, places = np.divmod(np.asarray(positions, np.int64) // self._repeats, len(self._members))
        records = np.empty_like(places)
        for number in np.unique(rounds).tolist():
            here = np.flatnonzero(rounds == number)
            classes = _sorted_bits(len(self._members), seed, number, stream=2)[places[here]]
            records[here] = [self._record(each, seed, number) for each in classes.tolist()]
        return records

    def _record(self, number: int, seed: int, turn: int) -> int:
        """Return the example of a class that its `turn`-th position shows."""
        members = self._members[number]
        epoch, place = divmod(turn, len(members))
        last = self._last.get(number)
        if last is None or last[0] != (seed, epoch):
            last = (seed, epoch), _sorted_bits(len(members), seed, epoch, stream=3, part=number)
            self._last[number] = last
        return int(members[last[1][place]])


def create(num_examples: int, labels: np.ndarray | None, *, repeats: int) -> Order:
    """Make the order of a dataset: balanced by the labels `[n]` int of its examples, or shuffled without any."""
    return Shuffled(num_examples, repeats) if labels is None else Balanced(labels, repeats=repeats)


def _sorted_bits(length: int, seed: int, number: int, *, stream: int, part: int = 0) -> np.ndarray:
    """Return a permutation, `[length]` int64, of a stream that no other generator here reaches; see below."""
    bits = np.random.Philox(key=[seed, number], counter=[0, part, 0, stream]).random_raw(length)
    return np.argsort(bits, kind="stable")


@functools.lru_cache(maxsize=4)
def epoch_permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of the record numbers, `[num_examples]` int64; do not write to it.

    Made by sorting the raw bits of a counter-based generator, which, unlike `Generator.permutation`, are
    promised to stay the same across NumPy versions.
    """
    bits = np.random.Philox(key=[seed, epoch]).random_raw(num_examples)
    permutation = np.argsort(bits, kind="stable")
    permutation.flags.writeable = False
    return permutation


def records_at(positions: np.ndarray, num_examples: int, *, seed: int, repeats: int = 1) -> np.ndarray:
    """Record numbers at positions of the training stream.

    Args:
        positions: `[k]` int64, 0 or more.
        num_examples: of the dataset.
        seed: of the shuffling, 0 or more.
        repeats: how many positions in a row show the same example.

    Returns:
        `[k]` int64 in [0, num_examples).
    """
    epochs, places = np.divmod(np.asarray(positions, np.int64) // repeats, num_examples)
    records = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        records[here] = epoch_permutation(num_examples, seed, int(epoch))[places[here]]
    return records


def sample(num_examples: int, size: int) -> np.ndarray:
    """Choose record numbers at random, always the same ones: `[size]` int64, ascending; all if there are fewer."""
    return np.sort(epoch_permutation(num_examples, seed=0, epoch=0)[:size])


def generator(seed: int, position: int) -> np.random.Generator:
    """Return the generator of all that is drawn on the host for the example at a position of the training stream."""
    # A counter that the permutations' generators never reach.
    return np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1]))
