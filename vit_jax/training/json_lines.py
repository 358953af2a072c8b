"""Files with a JSON object for each step, `{"step": 500, "train/loss": 0.3}`."""

import json
import math
import os
import pathlib
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
    """Remove the lines of later steps, and a last line that is incomplete; the file need not exist."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:
            break  # a kill left the line unfinished: nothing comes after it
    with writing(file) as part:
        part.write_text("".join(f"{line}\n" for line in kept))


def last_values(file: pathlib.Path) -> dict[str, Any]:
    """Read the newest value of each metric; empty if the file does not exist."""
    values: dict[str, Any] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            values |= json.loads(line)
    return values
