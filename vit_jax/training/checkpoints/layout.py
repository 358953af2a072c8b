"""How a checkpoint lies in its folder, in every format.

`<workdir>/checkpoints/<step>/` has a folder for each item: the PARTS that the state has, `rest`, which is everything
else of the state, and `info`, which is the JSON of `vit_jax.info`. A converted model has `params`, `variables` where
there are any, and `info` alone.

Format 1 had an item `teacher`, which is now `companions["teacher"]`, and no variables.
"""

import dataclasses
import functools
import logging
import pathlib
import sys
from collections.abc import Mapping
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


def saved_shapes(checkpointer: ocp.StandardCheckpointer, item: pathlib.Path) -> Any:
    """Read a saved tree's shapes and types, without its arrays.

    Raises:
        FileNotFoundError: the item has none.
    """
    metadata: Any = checkpointer.metadata(item).item_metadata
    if metadata is None:
        raise FileNotFoundError(f"{item.name} cannot be read")
    return metadata.tree


def empty(leaf: Any) -> np.ndarray:
    """Make an array of a leaf's shape and type that takes no memory; what Orbax restores into it is NumPy."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def brief(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@functools.cache  # once in a process
def quiet() -> None:
    """Make Orbax log nothing: whoever catches an error reports it.

    Orbax logs each item that it reads or writes, and the traceback of errors that it then raises. It closes its
    event loop at the first file that it cannot read or write, upon which each of TensorStore's other requests
    prints a traceback of its own about the closed loop.
    """
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook
