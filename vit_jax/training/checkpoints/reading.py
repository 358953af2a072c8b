"""Reads the model of a checkpoint, and writes one without a training state; no optimizer is needed for it."""

import dataclasses
import math
import os
import pathlib
import reprlib
import warnings
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax.errors import InputError
from vit_jax.info import KEYS, Info, upgraded
from vit_jax.system import alias, hosts
from vit_jax.system.atomic import named
from vit_jax.training.checkpoints import checksums, damage, layout
from vit_jax.training.checkpoints.checksums import Checksums
from vit_jax.training.checkpoints.damage import Damaged
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
        UserWarning: the checkpoint is damaged, and the one before it, or the next best, is used.

    Raises:
        InputError: no such step, none that is whole, or one that cannot be read for another reason than damage.
    """
    directory = workdir / "checkpoints"
    candidates, broken = _candidates(workdir, step)
    for candidate in candidates:
        try:
            model = _read_model(directory / str(candidate))
        except Exception as error:
            broken.append(
                f"checkpoint {candidate} is incomplete or damaged ({damage_in(directory / str(candidate), error)})"
            )
            continue
        if broken:
            warnings.warn(f"{'; '.join(broken)}; using checkpoint {candidate} of {workdir}", stacklevel=3)
        return model
    raise InputError(f"no checkpoint in {directory} can be read: {'; '.join(broken)}")


def damage_in(folder: pathlib.Path, error: Exception) -> str:
    """Return what is damaged, by the error that reading a checkpoint raised.

    Args:
        folder: `<workdir>/checkpoints/<step>`.
        error: any.

    Raises:
        InputError: the error says nothing of what the checkpoint holds.
        Exception: the error itself, where another process is lost.
    """
    if hosts.is_loss(error):
        raise error
    if isinstance(error, InputError):
        raise InputError(f"{folder} cannot be read: {error}") from None
    if not damage.is_damage(error):
        raise damage.hindrance(folder, error) from error
    return damage.brief(error)


def _candidates(workdir: pathlib.Path, step: int | str) -> tuple[list[int], list[str]]:
    """Return the steps to try, in order, and a line for each that is known to be damaged."""
    directory = workdir / "checkpoints"
    steps = steps_in(directory)
    if not steps:
        raise InputError(f"{workdir} is no work directory: it holds no checkpoints/<step>; train one with train.py")
    if step == "last":
        return steps[::-1], []
    if step == "best":
        scores, broken = _scores(directory)
        if not scores and not broken:
            raise InputError(f"no checkpoint of {workdir} was saved with a metric to be best by; valid: {steps}")
        return sorted(scores, key=lambda step: scores[step], reverse=True), broken
    if step not in steps:
        raise InputError(f"{workdir} has no checkpoint of step {step!r}; valid: last, best, {steps}")
    return [int(step)], []


def steps_in(directory: pathlib.Path) -> list[int]:
    """List the steps that have a checkpoint, ascending; half-written ones have other names and are left out."""
    if not directory.is_dir():
        return []
    steps = [layout.step_of(path) for path in directory.iterdir() if path.is_dir()]
    return sorted(step for step in steps if step is not None)


def best_step(directory: pathlib.Path) -> int | None:
    """Find the step that is best by the run's `best_metric`; None if no checkpoint was saved with it."""
    scores, _ = _scores(directory)
    return max(scores, key=lambda step: scores[step], default=None)


def _scores(directory: pathlib.Path) -> tuple[dict[int, float], list[str]]:
    """Return the scores of the steps that have one, and a line for each step whose score is damaged."""
    scores, broken = {}, []
    for step in steps_in(directory):
        folder = directory / str(step)
        try:
            score = read_score(folder)
        except Exception as error:
            broken.append(f"checkpoint {step} is incomplete or damaged ({damage_in(folder, error)})")
        else:
            scores |= {} if score is None else {step: score}
    return scores, broken


def read_score(folder: pathlib.Path) -> float | None:
    """Read what a checkpoint is the best by; None if it was saved without.

    Raises:
        Damaged: it is not what was saved.
        OSError: it cannot be read.
    """
    saved, file = checksums.read(folder), folder / "metrics" / "metrics"
    if not file.parent.exists() and (saved is None or saved.score is None):
        return None
    metrics = damage.read_json(file)
    score = metrics.get(layout.SCORE) if isinstance(metrics, dict) else None
    if not isinstance(score, float | int) or (saved is not None and saved.score != score):
        raise Damaged("its metrics are not what was saved")
    return score


def last_info(directory: pathlib.Path) -> Info | None:
    """Read the info of the newest checkpoint whose info is whole; None if there is none.

    Raises:
        InputError: one cannot be read for another reason than damage.
    """
    for step in reversed(steps_in(directory)):
        try:
            return read_info(directory, step)
        except Exception as error:
            damage_in(directory / str(step), error)
    return None


def read_info(directory: pathlib.Path, step: int) -> Info:
    """Read what a checkpoint says of its model, in the newest format.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
        InputError: it is of a later version.
    """
    folder = directory / str(step)
    return _checked_info(folder, checksums.read(folder))


def _checked_info(folder: pathlib.Path, saved: Checksums | None) -> Info:
    info = damage.read_json(folder / "info" / "metadata")
    if saved is not None:
        saved.check_info(info)
    return upgraded(info)


def read_params(directory: pathlib.Path, step: int) -> Params:
    """Read the parameters to use for inference as NumPy arrays: the moving average where there is one."""
    return _read_model(directory / str(step)).params


def _read_model(folder: pathlib.Path) -> SavedModel:
    damage.check_files(folder)
    saved = checksums.read(folder)
    info = _checked_info(folder, saved)
    there = saved.items() if saved else {path.name for path in folder.iterdir() if path.is_dir()}
    params = "ema_params" if "ema_params" in there else "params"
    names = [params, *(["variables"] if "variables" in there else [])]
    items = _read_items(folder, names, saved)
    _check_depth(info, len(jax.tree.leaves(items)))
    return SavedModel(int(folder.name), info, items[params], items.get("variables", {}))


def _read_items(folder: pathlib.Path, names: list[str], saved: Checksums | None) -> dict[str, Any]:
    """Read items of a checkpoint as NumPy arrays."""
    items = {}
    with alias.plain(folder.absolute()) as plain, layout.open_items() as reader:
        for name in names:
            shapes = reader.shapes(plain / name)
            if saved is not None:
                saved.check_types(name, shapes)
            _check_size(folder / name, shapes)
            items[name] = reader.restore(plain / name, jax.tree.map(layout.empty, shapes))
    if saved is not None:
        saved.check_arrays(items)
    return items


def _check_depth(info: Info, num_arrays: int) -> None:
    """Raise Damaged if a model of this info has more blocks than there are arrays; building it might not end."""
    for section in (info["model"], info["task"] or {}):
        for name, value in section.get("options", {}).items():
            blocks = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, int)]
            if ("depth" in name or "stages" in name) and sum(blocks) > num_arrays:
                raise Damaged(f"its info has {name} {reprlib.repr(value)}, but there are {num_arrays} arrays")


def _check_size(item: pathlib.Path, shapes: Any) -> None:
    """Raise InputError if the arrays would not fit into memory, as those that a file only claims to hold."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise InputError(f"its {item.name} take {size / 2**30:,.0f} GiB; this machine has {memory / 2**30:,.0f}")


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
    parts = jax.tree.map(np.asarray, parts)
    info = {key: info[key] for key in KEYS}
    items: dict[str, Any] = {name: ocp.args.StandardSave(part) for name, part in parts.items()}
    items["info"] = ocp.args.JsonSave(info)
    items[checksums.ITEM] = ocp.args.JsonSave(Checksums.of(step, parts, info, None).json())
    folder = directory.absolute() / str(step)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        named(folder),
        alias.plain(directory.absolute()) as plain,
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer,
    ):
        checkpointer.save(plain / folder.name, args=ocp.args.Composite(**items))
