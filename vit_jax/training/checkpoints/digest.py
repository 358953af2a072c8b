"""A 64-bit digest of an array that does not depend on how the array is cut into shards.

The bytes of a row (all of the last axis) are little-endian words of 64 bits, filled up with zeros. The digest is the
sum of all words modulo 2**64, each times an odd number for its row and one for its place in the row. A shard's digest
counts its own words alone, so that the digests of the shards add up to that of the array.

A change of a single word always changes the digest, since an odd number has an inverse; any other change does but for
about one in 2**64. This reads memory as fast as it comes, which zlib.crc32 does not.

Source: Lemire and Kaser, Strongly universal string hashing is fast, 2014 (MULTILINEAR); the numbers are those of
SplitMix64 (Steele et al., Fast splittable pseudorandom number generators, 2014).
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

WORD_BYTES = 8
_ROWS = 1 << 40
"""Index of the first row's number; those below are of places in a row."""


def digests(leaves: Sequence[Any]) -> np.ndarray:
    """Compute the digests of this process's share of arrays.

    Args:
        leaves: NumPy or JAX arrays.

    Returns:
        `[len(leaves)]` uint64. Of an array that several processes hold in shards, each process gives the sum of those
        that it has to count; the sum over the processes is the array's.
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # NumPy works without Python's lock
        return np.array(list(pool.map(_digest, leaves)), np.uint64)


def is_shared(leaf: Any) -> bool:
    """Return whether other processes hold parts of an array."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def _digest(leaf: Any) -> int:
    if not isinstance(leaf, jax.Array):
        leaf = np.asarray(leaf)
        return part_digest(leaf, (0,) * leaf.ndim, leaf.shape)
    total = 0
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            start = tuple(index.start or 0 for index in shard.index)
            total += part_digest(np.asarray(shard.data), start, leaf.shape)
    return total % 2**64


def part_digest(part: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Compute what a part of an array adds to the array's digest.

    Args:
        part: of any type and shape.
        start: index in the array of the part's first element.
        shape: of the array.

    Example:
        >>> array = np.arange(12, dtype=np.float32).reshape(3, 4)
        >>> parts = part_digest(array[:, :1], (0, 0), (3, 4)) + part_digest(array[:, 1:], (0, 1), (3, 4))
        >>> parts % 2**64 == part_digest(array, (0, 0), (3, 4))
        True
    """
    if not part.size:
        return 0
    if not shape:
        part, start, shape = part.reshape(1), (0,), (1,)
    rows = np.ascontiguousarray(part).reshape(-1, part.shape[-1]).view(np.uint8)
    first = start[-1] * part.itemsize
    before = first % WORD_BYTES
    after = -(before + rows.shape[1]) % WORD_BYTES
    if before or after:
        rows = np.pad(rows, ((0, 0), (before, after)))
    words = rows.view(np.uint64)
    places = _numbers_of_places(first // WORD_BYTES, words.shape[1])
    sums = np.einsum("ij,j->i", words, places)
    return int(np.dot(sums, _numbers_of_rows(part.shape[:-1], start[:-1], shape[:-1])))


@functools.lru_cache(maxsize=64)
def _numbers_of_places(first: int, count: int) -> np.ndarray:
    return _odd_numbers(np.arange(first, first + count))


@functools.lru_cache(maxsize=64)
def _numbers_of_rows(sizes: tuple[int, ...], start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    indices = np.zeros(1, np.int64)
    for size, first, of in zip(sizes, start, shape, strict=True):
        indices = (indices[:, None] * of + np.arange(first, first + size)).reshape(-1)
    return _odd_numbers(_ROWS + indices)


def _odd_numbers(indices: np.ndarray) -> np.ndarray:
    """Return an odd number of 64 bits for each index: SplitMix64's."""
    z = (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)
