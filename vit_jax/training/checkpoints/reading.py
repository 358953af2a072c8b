"""Reads the model of a checkpoint, and writes one without a training state; no optimizer is needed for it."""

import contextlib
import dataclasses
import json
import pathlib
import warnings
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax.errors import InputError
from vit_jax.info import KEYS, Info, upgraded
from vit_jax.training.checkpoints import layout
from vit_jax.types import Params, Variables


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """What a checkpoint holds for inference.

    step: of the checkpoint.
    info: what it says of its model, see `vit_jax.info`.
    params: NumPy arrays; the moving average where there is one.
    variables: the model's other collections, NumPy arrays; empty for most.
    """

    step: int
    info: Info
    params: Params
    variables: Variables = dataclasses.field(default_factory=dict)


def read_model(workdir: pathlib.Path, step: int | str = "last") -> SavedModel:
    """Read the model of a work directory.

    Args:
        workdir: with `checkpoints/` in it, which is all that is read of it.
        step: `last`, `best` (by the run's `checkpoint.best_metric`), or the number of a step.

    Warns:
        UserWarning: the last checkpoint cannot be read, and the one before it is used.

    Raises:
        InputError: no such step, or none that can be read.
    """
    directory = workdir / "checkpoints"
    broken = []
    for candidate in _candidates(workdir, step):
        try:
            info, params = read_info(directory, candidate), read_params(directory, candidate)
            model = SavedModel(candidate, info, params, read_variables(directory, candidate))
        except Exception as error:  # anything may follow from a truncated or missing file
            broken.append(f"checkpoint {candidate} is incomplete ({layout.brief(error)})")
            continue
        if broken:
            warnings.warn(f"{'; '.join(broken)}; using checkpoint {candidate} of {workdir}", stacklevel=3)
        return model
    raise InputError(f"no checkpoint in {directory} can be read: {'; '.join(broken)}")


def _candidates(workdir: pathlib.Path, step: int | str) -> list[int]:
    """Return the steps to try, in order."""
    directory = workdir / "checkpoints"
    steps = steps_in(directory)
    if not steps:
        raise InputError(f"{workdir} is no work directory: it holds no checkpoints/<step>; train one with train.py")
    if step == "last":
        return steps[::-1]
    if step == "best":
        best = best_step(directory)
        if best is None:
            raise InputError(f"no checkpoint of {workdir} was saved with a metric to be best by; valid: {steps}")
        return [best]
    if step not in steps:
        raise InputError(f"{workdir} has no checkpoint of step {step!r}; valid: last, best, {steps}")
    return [int(step)]


def steps_in(directory: pathlib.Path) -> list[int]:
    """List the steps that have a checkpoint, ascending; half-written ones have other names and are left out."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def best_step(directory: pathlib.Path) -> int | None:
    """Find the step that is best by the run's `best_metric`; None if no checkpoint was saved with it."""
    scores = {}
    for step in steps_in(directory):
        file = directory / str(step) / "metrics" / "metrics"
        if file.is_file():
            scores[step] = json.loads(file.read_text())[layout.SCORE]
    return max(scores, key=lambda step: scores[step], default=None)


def last_info(directory: pathlib.Path) -> Info | None:
    """Read the info of the newest checkpoint whose info can be read; None if there is none."""
    for step in reversed(steps_in(directory)):
        with contextlib.suppress(OSError, ValueError):
            return read_info(directory, step)
    return None


def read_info(directory: pathlib.Path, step: int) -> Info:
    """Read what a checkpoint says of its model, in the newest format.

    Raises:
        OSError: there is no such file.
        ValueError: it is incomplete, or of a later version.
    """
    return upgraded(json.loads((directory / str(step) / "info" / "metadata").read_text()))


def read_params(directory: pathlib.Path, step: int) -> Params:
    """Read the parameters to use for inference as NumPy arrays: the moving average where there is one."""
    folder = directory.absolute() / str(step)
    return _read(folder / ("ema_params" if (folder / "ema_params").is_dir() else "params"))


def read_variables(directory: pathlib.Path, step: int) -> Variables:
    """Read the model's collections besides `params` as NumPy arrays; empty where there are none."""
    item = directory.absolute() / str(step) / "variables"
    return _read(item) if item.is_dir() else {}


def _read(item: pathlib.Path) -> Any:
    layout.quiet()
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(item, jax.tree.map(layout.empty, layout.saved_shapes(checkpointer, item)))


def write_params(
    directory: pathlib.Path, step: int, params: Params, info: Info, *, variables: Variables | None = None
) -> None:
    """Write a checkpoint that `read_model` reads, without the state that training needs.

    Args:
        directory: `<workdir>/checkpoints`.
        step: names the checkpoint's folder.
        params: of the model.
        info: what describes the model; what only concerns a run is left out.
        variables: the model's other collections; None or empty where there are none.
    """
    layout.quiet()
    parts = {"params": params} | ({"variables": variables} if variables else {})
    items: dict[str, Any] = {
        name: ocp.args.StandardSave(jax.tree.map(np.asarray, part)) for name, part in parts.items()
    }
    items["info"] = ocp.args.JsonSave({key: info[key] for key in KEYS})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(directory.absolute() / str(step), args=ocp.args.Composite(**items))
