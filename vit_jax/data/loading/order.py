"""The order of training examples: a function of the seed and the position alone.

Position p of the endless stream is example p % n of epoch p // n, and each epoch has its own permutation.
Nothing about an iterator has to be saved: a run can start at any position at once. With repeated augmentation
each example takes several positions in a row.
"""

import functools

import numpy as np


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
