"""Files with a JSON object for each step, `{"step": 500, "train/loss": 0.3}`."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from vit_jax.system.atomic import writing


def append(file: pathlib.Path, step: int, values: dict[str, float]) -> None:
    """Append the line of a step, which is on disk when this returns; numbers that are not finite become null."""
    clean = {key: value if math.isfinite(value) else None for key, value in values.items()}
    with file.open("a") as stream:
        stream.write(json.dumps({"step": step} | clean, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def cut_after(file: pathlib.Path, step: int) -> None:
    """Remove the lines of later steps, and lines that are damaged or incomplete; the file need not exist."""
    kept = [line for line, values in _lines(file) if values["step"] <= step]
    if file.exists():
        with writing(file) as part:
            part.write_bytes(b"".join(line + b"\n" for line in kept))


def last_values(file: pathlib.Path) -> dict[str, Any]:
    """Read the newest value of each metric; empty if the file does not exist."""
    values: dict[str, Any] = {}
    for _, line in _lines(file):
        values |= line
    return values


def _lines(file: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Read the lines that are whole, as text and as values."""
    if not file.is_file():
        return
    for line in file.read_bytes().split(b"\n"):
        with contextlib.suppress(RecursionError, ValueError):
            values = json.loads(line)
            if isinstance(values, dict) and isinstance(values.get("step"), int):
                yield line, values
