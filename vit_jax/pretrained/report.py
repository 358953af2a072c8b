"""What became of every leaf when a checkpoint was loaded."""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.ops import posemb, windows
from vit_jax.types import Params

GRID = re.compile(r"pos_embedding(_\d+)?/grid$")
"""How the path of a position embedding by row and column ends; a pyramid has one a stage."""
BIAS_TABLE = re.compile(r"attention/bias_table$")
"""How that of biases by relative position does."""
STEMS = ("encoder/patch_embed/kernel", "encoder/resnet/conv_root/kernel")
"""The convolutions that see the image, `[h, w, C, D]`."""
HEADS = ("head/kernel", "head_distillation/kernel")


@dataclasses.dataclass(frozen=True)
class Report:
    """An account of a checkpoint's tensors and a model's parameters; every one of them is in it.

    source: what was loaded.
    loaded: parameter -> the tensor it was read from, as it is.
    resized: parameter -> (the grid it had, the grid it has), both (rows, columns); read and resized.
    adapted: parameter -> (the image channels it had, those it has); read, and summed or repeated.
    initialised: parameters that the checkpoint lacks; they have new random values.
    unused: tensors that the model has no place for.
    buffers: tensors that hold no weights but what follows from the geometry, which is worked out anew.
    """

    source: str
    loaded: dict[str, str]
    resized: dict[str, tuple[tuple[int, int], tuple[int, int]]]
    adapted: dict[str, tuple[int, int]]
    initialised: tuple[str, ...]
    unused: tuple[str, ...]
    buffers: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line of counts, and one for each leaf that is not simply loaded."""
        counts = {
            "loaded": self.loaded,
            "resized": self.resized,
            "adapted": self.adapted,
            "newly initialised": self.initialised,
            "unused": self.unused,
        }
        counts |= {"buffers": self.buffers} if self.buffers else {}
        lines = [f"{self.source}: {', '.join(f'{len(leaves)} {what}' for what, leaves in counts.items())}"]
        lines += [f"  {name}: resized from {_by(old)} to {_by(new)}" for name, (old, new) in self.resized.items()]
        lines += [f"  {name}: adapted from {old} to {new} channels" for name, (old, new) in self.adapted.items()]
        lines += [f"  {name}: newly initialised" for name in self.initialised]
        lines += [f"  {name}: unused" for name in self.unused]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint's arrays under our names.

    arrays: parameter -> float32 array, position embeddings on the checkpoint's own grid.
    tensors: parameter -> the tensor that holds it, or would.
    names: all tensors that the checkpoint has, but for its buffers.
    buffers: see `Report`.
    """

    arrays: Mapping[str, np.ndarray]
    tensors: Mapping[str, str]
    names: Sequence[str]
    buffers: tuple[str, ...] = ()


def fit(
    found: Found,
    template: Mapping[str, Any],
    *,
    source: str,
    antialias: bool,
    allow: Sequence[str] = (),
    key: str = "allow",
) -> tuple[dict[str, np.ndarray], Report]:
    """Makes a model's parameters of a checkpoint's arrays.

    Args:
        found: the checkpoint.
        template: path -> anything with the `shape` that the model's parameter has.
        source: for the messages.
        antialias: how the position embedding is resized; see `resize_grid`.
        allow: what may be unused or missing: names of tensors or parameters, with `*` and `?`, or what such a name
            starts with up to a `.` or `/`.
        key: what the user calls `allow`.

    Returns:
        Path -> float32 array of every parameter that is not missing, and the report.

    Raises:
        InputError: a missing or unused leaf that `allow` does not name, or one whose shape does not fit.
    """
    resized, adapted, params = {}, {}, {}
    for path in template:
        if path not in found.arrays:
            continue
        array, shape = found.arrays[path], tuple(template[path].shape)
        if GRID.search(path) and array.shape[:2] != shape[:2]:
            resized[path] = (array.shape[:2], shape[:2])
            array = np.asarray(posemb.resize_grid(jnp.asarray(array), shape[:2], antialias=antialias))
        if BIAS_TABLE.search(path) and array.shape[:2] != shape[:2]:
            resized[path] = (array.shape[:2], shape[:2])
            array = np.asarray(windows.resize_table(jnp.asarray(array), shape[:2]))
        if path in STEMS and array.shape[2] != shape[2]:
            adapted[path] = (array.shape[2], shape[2])
            array = adapt_channels(array, shape[2])
        if array.shape != shape:
            raise InputError(f"{source}: {found.tensors[path]} gives {path} {list(array.shape)}, not {list(shape)}")
        params[path] = array
    missing = [path for path in template if path not in params]
    used = {found.tensors[path] for path in params}
    unused = [name for name in found.names if name not in used]
    _refuse_unexpected(source, [(found.tensors.get(path, path), path) for path in missing], unused, allow, key)
    changed = resized.keys() | adapted.keys() | set(missing)
    report = Report(
        source=source,
        loaded={path: found.tensors[path] for path in template if path not in changed},
        resized=resized,
        adapted=adapted,
        initialised=tuple(missing),
        unused=tuple(unused),
        buffers=found.buffers,
    )
    return params, report


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A stem's kernel `[h, w, C, D]` for another number of image channels, `[h, w, channels, D]`.

    One channel has the sum of all, so that a grey image gives what its RGB copy gave; more have the old ones in
    turn, scaled so that the response to a constant image of equal channels is kept on the whole.

    Source: timm's `adapt_input_conv` (models/_manipulate.py).
    """
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeats = -(-channels // old)
    return np.tile(kernel, (1, 1, repeats, 1))[:, :, :channels] * np.float32(old / channels)


def matches(name: str, allow: Sequence[str]) -> bool:
    """Whether one of the patterns of `fit` names this tensor or parameter."""
    return any(fnmatch.fnmatchcase(name, p) or name.startswith((f"{p}.", f"{p}/")) for p in allow)


def zero_heads(params: Params) -> list[str]:
    """The classification heads whose kernel is zero throughout: they tell no class from another."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return [name for name in HEADS if name in flat and not np.any(np.asarray(flat[name]))]


def _refuse_unexpected(
    source: str, missing: list[tuple[str, str]], unused: list[str], allow: Sequence[str], key: str
) -> None:
    """Raises InputError for what `allow` does not name; missing holds (tensor, parameter)."""
    problems = []
    bad = [tensor for tensor, path in missing if not (matches(tensor, allow) or matches(path, allow))]
    if bad:
        problems.append(f"it lacks {_listed(bad)}")
    extra = [name for name in unused if not matches(name, allow)]
    if extra:
        problems.append(f"the model has no place for {_listed(extra)}")
    if problems:
        names = ", ".join(repr(name) for name in (bad + extra)[:2])
        raise InputError(f"{source}: {'; '.join(problems)}; to load it all the same, name them: {key}=({names}, ...)")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
