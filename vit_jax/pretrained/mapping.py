"""Tables of parameters' names and layouts in other libraries' files, for reading and writing.

A format is one table: for each parameter of ours the tensor that holds it, and how its axes are arranged there.
Reading and writing follow the same rows, so that what is written is what was read, bit for bit.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError

Grid = tuple[int, int]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Name:
    """One parameter's place in a checkpoint; `{i}` in both names is a block's number.

    param: our path, `encoder/block_{i}/mlp/fc1/kernel`.
    tensor: its name there. Where several rows name one tensor, it holds them one after the other in the table's
        order: along the second axis for a position embedding, otherwise along the first in equal parts.
    layout: a row of LAYOUTS.
    grid: rows and columns of a table by position, in the checkpoint; None for other parameters.
    """

    param: str
    tensor: str
    layout: str = "same"
    grid: Grid | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a parameter's axes are arranged in a tensor.

    read: a tensor, the shape of the model's parameter (of which it takes how the heads divide an axis) and the row's
        grid -> the parameter.
    write: the inverse.
    """

    read: Callable[[np.ndarray, Shape, Grid], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
    "same": Layout(lambda x, shape, grid: x, lambda x: x),
    # PyTorch's matrices are [outputs, inputs], its convolutions [outputs, inputs, height, width].
    "linear": Layout(lambda x, shape, grid: x.T, lambda x: x.T),
    "conv": Layout(lambda x, shape, grid: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    # [heads * d, D] <-> [D, heads, d], [heads * d] <-> [heads, d], [D, heads * d] <-> [heads, d, D]
    "heads_in": Layout(
        lambda x, shape, grid: x.T.reshape(x.shape[1], *shape[1:]), lambda x: x.reshape(x.shape[0], -1).T
    ),
    "heads_bias": Layout(lambda x, shape, grid: x.reshape(shape), lambda x: x.reshape(-1)),
    "heads_out": Layout(
        lambda x, shape, grid: x.T.reshape(*shape[:-1], x.shape[0]), lambda x: x.reshape(-1, x.shape[-1]).T
    ),
    # Google's arrays have our axes; some files have the heads' two axes in one.
    "google_in": Layout(lambda x, shape, grid: x.reshape(x.shape[0], *shape[1:]), lambda x: x),
    "google_bias": Layout(lambda x, shape, grid: x.reshape(shape), lambda x: x),
    "google_out": Layout(lambda x, shape, grid: x.reshape(*shape[:-1], x.shape[-1]), lambda x: x),
    # The two parts of a position embedding [1, P + h * w, D].
    "prefix": Layout(lambda x, shape, grid: x[0], lambda x: x[None]),
    "grid": Layout(lambda x, shape, grid: x.reshape(*grid, x.shape[-1]), lambda x: x.reshape(1, -1, x.shape[-1])),
    # [rows * columns, heads] <-> [rows, columns, heads]; [heads, 1, 1] <-> [heads]
    "table": Layout(lambda x, shape, grid: x.reshape(*grid, x.shape[-1]), lambda x: x.reshape(-1, x.shape[-1])),
    "column": Layout(lambda x, shape, grid: x.reshape(-1), lambda x: x[:, None, None]),
}


def expand(table: Iterable[Name], depth: int, prefix: str = "", grid: Grid | None = None) -> list[Name]:
    """Return the table a row for each block, and fills in its tensors' `{prefix}` and the position embedding's grid.

    Example:
        >>> [row.tensor for row in expand([Name("block_{i}/scale", "{prefix}layer.{i}.weight")], 2, "vit.")]
        ['vit.layer.0.weight', 'vit.layer.1.weight']
    """
    rows = []
    for row in table:
        for i in range(depth) if "{i}" in row.param else [0]:
            changes = {"param": row.param.format(i=i), "tensor": row.tensor.format(i=i, prefix=prefix)}
            rows.append(dataclasses.replace(row, **changes, grid=grid if row.layout == "grid" else row.grid))
    return rows


def read(names: Iterable[Name], tensors: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Turn tensors of another library into our parameters.

    Args:
        names: the expanded table; rows of other parameters than `params` are passed over.
        tensors: name there -> array.
        params: path -> anything with the `shape` that the model's parameter has.

    Returns:
        Path -> float32 array, of those whose tensors are there; tables by position on the checkpoint's own grid.

    Raises:
        InputError: a tensor that cannot be arranged so.
    """
    found = {}
    for tensor, rows in grouped(names, params).items():
        if tensor not in tensors:
            continue
        try:
            parts = _split(tensors[tensor], rows)
            for row, part in zip(rows, parts, strict=True):
                array = LAYOUTS[row.layout].read(part, tuple(params[row.param].shape), row.grid or (0, 0))
                found[row.param] = np.ascontiguousarray(array, np.float32)
        except (ValueError, IndexError):
            wanted = (f"{row.param} {list(params[row.param].shape)}" for row in rows)
            on_grid = "".join(f" on a grid of {row.grid[0]}x{row.grid[1]}" for row in rows if row.grid)
            raise InputError(
                f"tensor {tensor!r} of shape {list(tensors[tensor].shape)} does not fit the model's "
                f"{', '.join(wanted)}{on_grid}"
            ) from None
    return found


def write(names: Iterable[Name], params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn our parameters into tensors of another library, the inverse of `read`.

    Args:
        names: the expanded table; rows of parameters that the model lacks are passed over.
        params: arrays by path.

    Raises:
        InputError: a parameter for which the format has no name.
    """
    unnamed = sorted(params.keys() - {row.param for row in names})
    if unnamed:
        raise InputError(f"the format has no name for {', '.join(unnamed)}")
    tensors = {}
    for tensor, rows in grouped(names, params).items():
        parts = [LAYOUTS[row.layout].write(np.asarray(params[row.param])) for row in rows]
        tensors[tensor] = np.ascontiguousarray(np.concatenate(parts, axis=_axis(rows)) if len(rows) > 1 else parts[0])
    return tensors


def grouped(names: Iterable[Name], params: Iterable[str]) -> dict[str, list[Name]]:
    """Group the rows of the given parameters by tensor, in the table's order."""
    wanted, groups = set(params), {}
    for row in names:
        if row.param in wanted:
            groups.setdefault(row.tensor, []).append(row)
    return groups


def _axis(rows: list[Name]) -> int:
    return 1 if rows[0].layout in ("prefix", "grid") else 0


def _split(array: np.ndarray, rows: list[Name]) -> list[np.ndarray]:
    if len(rows) == 1:
        return [array]
    if _axis(rows) == 1:
        rows_there, columns_there = rows[-1].grid or (0, 0)
        return np.split(array, [array.shape[1] - rows_there * columns_there], axis=1)
    return np.split(array, len(rows), axis=0)
