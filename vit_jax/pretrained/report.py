"""Fitting a checkpoint's arrays to a model, and the account of what became of each of them."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax.errors import InputError
from vit_jax.layers.roles import Roles, role_of
from vit_jax.ops import posemb, windows
from vit_jax.options import short


@dataclasses.dataclass(frozen=True)
class Report:
    """An account of all tensors of a checkpoint and all parameters of a model.

    source: what was loaded.
    loaded: parameter -> the tensor that it was read from unchanged.
    resized: parameter -> (old grid, new grid), each (rows, columns); it was read and resized.
    adapted: parameter -> (old number of image channels, new one); it was read, and summed or repeated.
    initialised: parameters that the checkpoint lacks; they have new random values.
    unused: tensors that the model has no place for.
    buffers: tensors that are no weights but follow from the geometry; the model computes them itself.
    prefix: what all tensors' names began with in the file, and was taken off here; mostly empty.
    notes: what else there is to say, in lines.
    """

    source: str
    loaded: dict[str, str] = dataclasses.field(hash=False)
    resized: dict[str, tuple[tuple[int, int], tuple[int, int]]] = dataclasses.field(hash=False)
    adapted: dict[str, tuple[int, int]] = dataclasses.field(hash=False)
    initialised: tuple[str, ...]
    unused: tuple[str, ...]
    buffers: tuple[str, ...] = ()
    prefix: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return one line of counts, and one for each leaf that was not loaded unchanged."""
        counts = {
            "loaded": self.loaded,
            "resized": self.resized,
            "adapted": self.adapted,
            "newly initialised": self.initialised,
            "unused": self.unused,
        }
        counts |= {"buffers": self.buffers} if self.buffers else {}
        lines = [f"{self.source}: {', '.join(f'{len(leaves)} {what}' for what, leaves in counts.items())}"]
        lines += [f"  {self.prefix!r} was taken off the names of all tensors"] if self.prefix else []
        lines += [f"  {name}: resized from {_by(old)} to {_by(new)}" for name, (old, new) in self.resized.items()]
        lines += [f"  {name}: adapted from {old} to {new} channels" for name, (old, new) in self.adapted.items()]
        lines += [f"  {name}: newly initialised" for name in self.initialised]
        lines += [f"  {printable(name)}: unused" for name in self.unused]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint's arrays under our names.

    arrays: parameter -> float32 array, position embeddings on the checkpoint's own grid.
    tensors: parameter -> name of the tensor that holds it in this format, whether it is there or not.
    names: all tensors that the checkpoint has, without its buffers.
    buffers: see `Report`.
    prefix: see `Report`.
    """

    arrays: Mapping[str, np.ndarray]
    tensors: Mapping[str, str]
    names: Sequence[str]
    buffers: tuple[str, ...] = ()
    prefix: str = ""


def fit(
    found: Found,
    template: Mapping[str, Any],
    *,
    roles: Roles,
    source: str,
    antialias: bool,
    allow: Sequence[str] = (),
    key: str = "allow",
) -> tuple[dict[str, np.ndarray], Report]:
    """Make a model's parameters of a checkpoint's arrays.

    Position grids and bias tables are resized, and stems adapted to the image's channels, as their roles say.

    Args:
        found: the checkpoint.
        template: path -> anything with the `shape` that the model's parameter has.
        roles: path -> role of the model's parameters; `layers.roles.trace` gives template and roles at once.
        source: for messages.
        antialias: how the position embedding is resized; see `resize_grid`.
        allow: tensors that may be unused and parameters that may be missing: names, with `*` and `?`, or what a name
            starts with up to a `.` or `/`.
        key: name of `allow` in messages.

    Returns:
        Path -> float32 array of every parameter that is not missing, and the report.

    Raises:
        InputError: a leaf is missing or unused and not in `allow`, or its shape does not fit.
    """
    resized, adapted, params = {}, {}, {}
    allow = [name.removeprefix(found.prefix) for name in allow]
    for path in template:
        if path not in found.arrays:
            continue
        array, shape, kind = found.arrays[path], tuple(template[path].shape), role_of(roles, path).kind
        if kind in _RESIZE and array.shape[:2] != shape[:2]:
            resized[path] = (array.shape[:2], shape[:2])
            array = np.asarray(_RESIZE[kind](jnp.asarray(array), shape[:2], antialias))
        if kind == "stem" and array.shape[2] != shape[2]:
            adapted[path] = (array.shape[2], shape[2])
            array = adapt_channels(array, shape[2])
        if array.shape != shape:
            tensor = found.tensors[path]
            what = f"{tensor} gives {path}" if tensor != path else f"{path} is"
            raise InputError(f"{source}: {what} {list(array.shape)}, not {list(shape)}")
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
        prefix=found.prefix,
    )
    return params, report


_RESIZE = {
    "position_grid": lambda array, size, antialias: posemb.resize_grid(array, size, antialias=antialias),
    "bias_table": lambda array, size, antialias: windows.resize_table(array, size),
}
"""Kind of parameter -> how it is resized to other rows and columns."""


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt a stem's kernel `[h, w, C, D]` to another number of image channels.

    A single channel gets the sum of all, so that a grey image gives what its RGB copy gave. Several channels get the
    old ones in turn, scaled so that the response to a constant image with equal channels is about the same.

    Args:
        kernel: `[h, w, C, D]`.
        channels: of the images.

    Returns:
        `[h, w, channels, D]`.

    Source: timm's `adapt_input_conv` (models/_manipulate.py).
    """
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeats = -(-channels // old)
    return np.tile(kernel, (1, 1, repeats, 1))[:, :, :channels] * np.float32(old / channels)


def matches(name: str, allow: Sequence[str]) -> bool:
    """Tell whether `allow`, as `fit` takes it, names a tensor or parameter."""
    return any(fnmatch.fnmatchcase(name, p) or name.startswith((f"{p}.", f"{p}/")) for p in allow)


def _refuse_unexpected(
    source: str, missing: list[tuple[str, str]], unused: list[str], allow: Sequence[str], key: str
) -> None:
    """Raise InputError for missing (tensor, parameter) and unused tensors that `allow` does not name."""
    problems = []
    bad = [tensor for tensor, path in missing if not (matches(tensor, allow) or matches(path, allow))]
    if bad:
        problems.append(f"it lacks {_listed(bad)}")
    extra = [name for name in unused if not matches(name, allow)]
    if extra:
        problems.append(f"the model has no place for {_listed(extra)}")
    if problems:
        names = ", ".join(short(name, 200) for name in (bad + extra)[:2])
        raise InputError(f"{source}: {'; '.join(problems)}; to load it all the same, name them: {key}=({names}, ...)")


def printable(name: str) -> str:
    """Return a name from a file for a message or report, in which it stays part of its line."""
    return name if name.isprintable() and len(name) <= 200 else short(name, 200)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(printable, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
