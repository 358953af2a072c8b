"""Gives an evaluator its rows as an evaluation does, in several splits into batches."""

import numpy as np

from vit_jax.types import class_fields

FIELDS = class_fields(["a", "b", "c"])


def state_of(evaluator, rows, reference=None, *, batches=((0, None),), order=None):
    """The state after the rows, which come in slices `batches` of `order`."""
    rows = {name: np.asarray(x) for name, x in rows.items()}
    number = len(next(iter(rows.values())))
    rows.setdefault("index", np.arange(number))
    order = np.arange(number) if order is None else order
    state = evaluator.start(reference or {})
    for start, stop in batches:
        state = evaluator.add(state, {name: x[order[start:stop]] for name, x in rows.items()})
    return state


def figures(evaluator, rows, reference=None):
    """The figures, which have to be the same in any split into batches and in any order."""
    whole = evaluator.figures(state_of(evaluator, rows, reference))
    number = len(next(iter(rows.values())))
    shuffled = np.random.default_rng(0).permutation(number)
    for batches in ([(i, i + 1) for i in range(number)], [(0, 1), (1, None)]):
        for order in (None, shuffled):
            parts = evaluator.figures(state_of(evaluator, rows, reference, batches=batches, order=order))
            np.testing.assert_equal(parts, whole)
    assert list(whole) == list(evaluator.metrics)
    return whole


def files(evaluator, rows):
    """The files."""
    return evaluator.files(state_of(evaluator, rows))
