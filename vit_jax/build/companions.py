"""Trained models that a run's task learns with: opened when a run starts, rebuilt when it continues."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from vit_jax.build.info import from_info, initialise
from vit_jax.build.warm_start import open_trained
from vit_jax.contracts import Task
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.pretrained.load import Opened
from vit_jax.pretrained.report import fit
from vit_jax.training.companions import Companion
from vit_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Companions:
    """Models that a task uses in training.

    models: name -> companion.
    info: name -> what a checkpoint of the run says of it: `source`, `about` and `info`.
    """

    models: Mapping[str, Companion]
    info: dict[str, dict[str, Any]]


def open_companions(
    task: Task, ours: Preprocessing, *, saved: Mapping[str, dict[str, Any]] | None, dtype: str | None
) -> Companions:
    """Open the models that a task names.

    Args:
        task: says which.
        ours: preprocessing of the run.
        saved: `companions` of the info of the run's own checkpoint; None for a run that starts. The sources are then
            not needed any more.
        dtype: of their products; None leaves it to them.

    Raises:
        InputError: a model that cannot be read or used, or is another than the run began with.
    """
    models, infos = {}, {}
    for name, wanted in task.companions().items():
        before = None if saved is None else saved.get(name)
        opened = None
        if before is None:
            opened = _opened(name, wanted)
            keys = ("model", "task", "fields", "preprocessing", "version", "format")
            info = {key: opened.info[key] for key in keys}
            before = {"source": wanted["source"], "about": opened.source, "info": info}
        elif before["source"] != wanted["source"]:
            raise InputError(
                f"task.options.{name} is {wanted['source']!r}, but the run began with {before['source']!r}, which its "
                "checkpoint holds; valid: that, or another --workdir"
            )
        models[name] = _companion(name, before, ours, {} if dtype is None else {"dtype": dtype})
        if opened is not None:
            models[name] = dataclasses.replace(models[name], params=_params(name, task, opened, models[name]))
        infos[name] = before
    return Companions(models, infos)


def _opened(name: str, wanted: Mapping[str, Any]) -> Opened:
    step = str(wanted.get("step") or "last")
    return open_trained(
        wanted["source"],
        step=int(step) if step.isdigit() else step,
        revision=wanted.get("revision"),
        keys=f"task.options.{name}_",
    )


def _companion(name: str, saved: Mapping[str, Any], ours: Preprocessing, execution: dict[str, Any]) -> Companion:
    model, task, theirs = from_info(saved["info"], **execution)
    if theirs.channels != ours.channels:
        raise InputError(
            f"task.options.{name} {saved['about']} takes images of {theirs.channels} channels; valid with "
            f"data.channels {ours.channels}: one of {ours.channels}"
        )
    return Companion(model, functools.partial(initialise, model, task), theirs, ours, None, saved["about"])


def _params(name: str, task: Task, opened: Opened, companion: Companion) -> Params:
    arrays = task.accept_companion(name, opened.info, dict(opened.found.arrays))
    found = dataclasses.replace(opened.found, arrays=arrays)
    traced = roles.trace(companion.initial_params)
    template = flax.traverse_util.flatten_dict(traced.shapes, sep="/")
    key = "--allow of vit-jax convert --to workdir"
    params, _ = fit(found, template, roles=traced.roles, source=opened.source, antialias=opened.antialias, key=key)
    return jax.tree.map(np.asarray, flax.traverse_util.unflatten_dict(params, sep="/"))
