"""How a checkpoint lies in its folder, in every format.

`<workdir>/checkpoints/<step>/` has a folder for each item: the PARTS that the state has, `rest`, which is everything
else of the state, `info`, which is the JSON of `vit_jax.info`, and `checksums` of all of these. A converted model has
`params`, `variables` where there are any, `info` and `checksums` alone.

Format 1 had an item `teacher`, which is now `companions["teacher"]`, and no variables.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from vit_jax.types import TrainState

PARTS = ("params", "ema_params", "variables", "companions")
"""Fields of the state that are items of their own where they are not empty."""
TEACHER = "teacher"
"""Item of format 1: the parameters of the companion of that name."""
SCORE = "score"
"""Key of the metric by which a checkpoint is the best, in the item `metrics`; the greatest is the best."""


def items_of(state: TrainState) -> dict[str, Any]:
    """Split a state into the items that are saved: name -> tree."""
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    parts = {name: rest.pop(name) for name in PARTS}
    return {name: part for name, part in parts.items() if part is not None and part != {}} | {"rest": rest}


def state_of(items: Mapping[str, Any], like: TrainState) -> TrainState:
    """Put a state together again; undoes `items_of`.

    Args:
        items: name -> tree.
        like: a state whose empty parts are the same.
    """
    return like.replace(**items["rest"], **{name: items.get(name, getattr(like, name)) for name in PARTS})


def is_format_1(folder: pathlib.Path) -> bool:
    """Return whether a checkpoint keeps its companion in the item of format 1."""
    return (folder / TEACHER).is_dir()


MOST_STEPS = 2**31 - 1
"""The state counts steps in 32 bits."""


def step_of(path: pathlib.Path) -> int | None:
    """Return the step that a folder is named after; None for any other name."""
    name = path.name
    if not (name.isascii() and name.isdecimal()) or len(name) > 10:
        return None
    return int(name) if str(int(name)) == name and int(name) <= MOST_STEPS else None


@contextlib.contextmanager
def open_items() -> Iterator["Items"]:
    """Open what reads the trees of a checkpoint."""
    quiet()
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        yield Items(handler)


class Items:
    """Reads trees that Orbax has saved.

    Not by a Checkpointer, which would wait for the other processes, of which one may have failed, and would take any
    error for missing metadata.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def shapes(self, item: pathlib.Path) -> Any:
        """Read a tree's shapes and types, without its arrays."""
        return self._handler.metadata(item).tree

    def restore(self, item: pathlib.Path, targets: Any) -> Any:
        """Read a tree, each leaf as its target says: sharded, or NumPy as of `empty`."""
        return self._handler.restore(item, args=ocp.args.StandardRestore(targets))


def empty(leaf: Any) -> np.ndarray:
    """Make an array of a leaf's shape and type that takes no memory; what Orbax restores into it is NumPy."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


@functools.cache  # once in a process
def quiet() -> None:
    """Make Orbax log nothing: whoever catches an error reports it.

    Orbax logs each item that it reads or writes, and the traceback of errors that it then raises. It closes its
    event loop at the first file that it cannot read or write, upon which each of TensorStore's other requests
    prints a traceback of its own about the closed loop or the shard, and asyncio one for each other file that failed.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not any(text in str(unraisable.exc_value) for text in ("Event loop is closed", "reading array index")):
            before(unraisable)

    sys.unraisablehook = hook
