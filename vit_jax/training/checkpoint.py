"""Saving and restoring, by Orbax: asynchronous, atomic, the last few and the best."""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import math
import pathlib
import shutil
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vit_jax.errors import InputError
from vit_jax.ops.trees import leaf_names
from vit_jax.types import Params, TrainState

_SCORE = "score"
_PARTS = ("params", "ema_params", "variables", "companions")
INFO_KEYS = ("model", "task", "fields", "preprocessing", "version")


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` found.

    step: whose checkpoint it is.
    state: arrays in the template's form: NumPy, or sharded where the template says how.
    notes: one line for each thing the user should know, such as a half-written step that was passed over.
    """

    step: int
    state: TrainState
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """What a checkpoint holds for inference.

    step: whose checkpoint it is.
    info: what it says about its model, INFO_KEYS.
    params: NumPy arrays; the moving average where there is one.
    """

    step: int
    info: dict[str, Any]
    params: Params


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints/<step>/`.

    Each holds `params`, `ema_params` and `teacher` where there are any, `rest` (all else of the training state), and
    `info`, the JSON that inference needs: model, task, class names, preprocessing and the library's version.

    A context manager: the directory is open inside `with`.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep_last: int = 1,
        best_metric: str | None = None,
        best_mode: str = "max",
        known_metrics: Iterable[str] = (),
    ) -> None:
        """Takes the options; `with` opens the directory, making it if need be.

        Args:
            directory: `<workdir>/checkpoints`.
            keep_last: how many of the newest stay.
            best_metric: the best by this metric stays as well, `test/accuracy`; None is no such one.
            best_mode: `max` or `min`.
            known_metrics: those that `best_metric` may name.

        Raises:
            InputError: a value out of its range.
        """
        if keep_last < 1:
            raise InputError(f"checkpoint.keep_last is {keep_last}; valid: 1 or more")
        if best_metric and best_metric not in known_metrics:
            raise InputError(f"checkpoint.best_metric is {best_metric!r}; valid: {', '.join(known_metrics)}")
        if best_mode not in ("max", "min"):
            raise InputError(f"checkpoint.best_mode is {best_mode!r}; valid: max, min")
        _quiet()
        self._directory = directory.absolute()
        self._best_metric = best_metric
        self._sign = 1.0 if best_mode == "max" else -1.0
        best = preservation_policy.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        policies = [preservation_policy.LatestN(keep_last), *([best] if best_metric else [])]
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            best_fn=_score if best_metric else None,
            enable_async_checkpointing=True,
            create=True,
        )

    def save(self, step: int, state: TrainState, info: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Starts to save, in the background; a failure of the previous save is raised here.

        Args:
            step: of the state.
            state: NumPy arrays, or sharded arrays of which each process writes its own shards.
            info: what inference needs, INFO_KEYS.
            metrics: of an evaluation at this step, by which it may become the best.
        """
        if step in self._manager.all_steps():
            return
        items: dict = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        items["info"] = ocp.args.JsonSave(info)
        score = None
        value = (metrics or {}).get(self._best_metric or "")
        if value is not None and math.isfinite(value):  # Orbax would hold NaN to be the best
            score = {_SCORE: self._sign * value}
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=score)

    def restore(self, template: TrainState, info: dict[str, Any], *, max_step: int) -> Restored | None:
        """Restores the newest complete checkpoint.

        A step that cannot be read is put aside under another name, and the one before it is taken.

        Args:
            template: arrays, or their shapes and types, of the state to restore into. A leaf of a
                `jax.ShapeDtypeStruct` with a sharding is read in its shards.
            info: of the model about to be trained.
            max_step: the run's length.

        Returns:
            None if there is no checkpoint.

        Raises:
            InputError: the checkpoint is of another model or from beyond the run's end, or none can be read.
        """
        broken: dict[int, str] = {}
        while (step := _newest(set(steps_in(self._directory)) - broken.keys())) is not None:
            try:
                saved_info = read_info(self._directory, step)
                differences = _differences(self._saved_leaves(step), _leaves(template))
                state = None if differences else self._read(step, template)
            except Exception as error:  # whatever a truncated or missing file leads to
                broken[step] = brief(error)
            # Each process reads its own shards, and a file that is broken may be another's alone.
            if failed := _processes_with(step in broken):
                broken.setdefault(step, f"process {failed[0]} cannot read it")
                continue
            if not (self._directory / str(step) / "rest").is_dir():
                raise InputError(
                    f"{self._directory} holds the parameters of a converted model, but no training to continue; "
                    "valid: another --workdir"
                )
            if state is None:
                raise InputError(self._other_model(step, saved_info, info, differences))
            if saved_info["fields"] != info["fields"]:
                raise InputError(
                    f"{self._directory} holds checkpoint {step} of other classes: {_difference(saved_info, info)}; "
                    "valid: the data that it was trained on, or another --workdir, with init.source for its weights"
                )
            if step > max_step:
                raise InputError(
                    f"{self._directory} holds checkpoint {step}, but the config ends at step {max_step}; "
                    f"valid: num_steps of {step} or more, or another --workdir"
                )
            notes = self._tidy(broken)
            before, now = saved_info.get("num_examples"), info.get("num_examples")
            if before != now and before is not None:
                notes.append(
                    f"there are {now} examples to train on, not {before}: their order is another one from here"
                )
            return Restored(step, state, tuple(notes))
        if broken:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in broken.items())
            raise InputError(f"no checkpoint in {self._directory} can be read ({reasons}); valid: another --workdir")
        self._tidy({})
        return None

    def wait(self) -> None:
        """Waits for the save in the background and raises its failure."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def __enter__(self) -> "Checkpoints":
        """Opens the directory."""
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends Orbax's threads."""
        self._manager.close()

    def _saved_leaves(self, step: int) -> dict[str, str]:
        item = self._directory / str(step)
        names = [name for name in (*_PARTS, "rest") if (item / name).is_dir()]
        with ocp.StandardCheckpointer() as checkpointer:
            trees = {name: _shapes(checkpointer, item / name) for name in names}
        return _described(trees)

    def _read(self, step: int, template: TrainState) -> TrainState:
        # Not by a Checkpointer, which would wait for the other processes, of which one may have failed.
        folder: Any = self._directory / str(step)
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            read: dict[str, Any] = {
                name: handler.restore(folder / name, args=ocp.args.StandardRestore(jax.tree.map(_target, item)))
                for name, item in _items(template).items()
            }
        empty = {"ema_params": None, "variables": {}, "companions": {}}
        return template.replace(**read["rest"], **{name: read.get(name, empty.get(name)) for name in _PARTS})

    def _tidy(self, broken: dict[int, str]) -> list[str]:
        """Removes half-written saves, and renames steps that cannot be read so that they can be saved again.

        Args:
            broken: step -> why it cannot be read.

        Returns:
            A line for each.
        """
        half_written = sorted(self._directory.glob("*orbax-checkpoint-tmp*"))
        aside = {step: _free_name(self._directory / f"unreadable-{step}") for step in broken}
        _wait_for_all_processes()
        if jax.process_index() == 0:
            for path in half_written:
                shutil.rmtree(path)
            for step, path in aside.items():
                (self._directory / str(step)).rename(path)
        _wait_for_all_processes()
        self._manager.reload()
        notes = [f"removed the half-written checkpoint {path.name}" for path in half_written]
        for step, path in aside.items():
            notes.append(f"checkpoint {step} is incomplete ({broken[step]}); moved it to {path.name}")
        return notes

    def _other_model(self, step: int, saved: dict, wanted: dict, leaves: list[str]) -> str:
        old, new = ({key: flat(info).get(key) for key in flat(saved) | flat(wanted)} for info in (saved, wanted))
        keys = [
            f"{key.replace('.options.', '.')} is {old.get(key)} there and {new.get(key)} here"
            for key in sorted(old.keys() | new.keys())
            if key.startswith(("model.", "optimizer")) and old.get(key) != new.get(key)
        ]
        return (
            f"{self._directory} holds checkpoint {step} of another model or optimizer: {'; '.join([*keys, leaves[0]])}"
            "; valid: the config that made it, or another --workdir"
        )


def read_info(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """What a checkpoint says about its model (INFO_KEYS)."""
    text = (directory / str(step) / "info" / "metadata").read_text()
    info = json.loads(text)
    missing = [key for key in INFO_KEYS if key not in info]
    if missing:
        raise ValueError(f"info lacks {', '.join(missing)}")
    return info


def read_params(directory: pathlib.Path, step: int) -> Params:
    """The parameters to use for inference as NumPy arrays: the moving average where there is one."""
    item = directory.absolute() / str(step)
    name = "ema_params" if (item / "ema_params").is_dir() else "params"
    _quiet()
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(item / name, jax.tree.map(_empty, _shapes(checkpointer, item / name)))


def read_model(workdir: pathlib.Path, step: int | str = "last") -> SavedModel:
    """Reads a work directory's model.

    Args:
        workdir: with `checkpoints/` in it; nothing else is needed of it.
        step: `last`, `best` (by the run's `checkpoint.best_metric`), or a step's number.

    Warns:
        UserWarning: the last checkpoint cannot be read, and the one before it is used.

    Raises:
        InputError: no such step, or none that can be read.
    """
    directory = workdir / "checkpoints"
    steps = steps_in(directory)
    if not steps:
        raise InputError(f"{workdir} is no work directory: it holds no checkpoints/<step>; train one with train.py")
    if step == "best":
        best = best_step(directory)
        if best is None:
            raise InputError(f"no checkpoint of {workdir} was saved with a metric to be best by; valid: {steps}")
        candidates = [best]
    elif step == "last":
        candidates = steps[::-1]
    elif step in steps:
        candidates = [int(step)]
    else:
        raise InputError(f"{workdir} has no checkpoint of step {step!r}; valid: last, best, {steps}")
    broken = []
    for candidate in candidates:
        try:
            model = SavedModel(candidate, read_info(directory, candidate), read_params(directory, candidate))
        except Exception as error:  # whatever a truncated or missing file leads to
            broken.append(f"checkpoint {candidate} is incomplete ({brief(error)})")
            continue
        if broken:
            warnings.warn(f"{'; '.join(broken)}; using checkpoint {candidate} of {workdir}", stacklevel=3)
        return model
    raise InputError(f"no checkpoint in {directory} can be read: {'; '.join(broken)}")


def last_info(directory: pathlib.Path) -> dict[str, Any] | None:
    """What the newest readable checkpoint says about its model; None if there is none."""
    for step in reversed(steps_in(directory)):
        with contextlib.suppress(OSError, ValueError):
            return read_info(directory, step)
    return None


def write_params(directory: pathlib.Path, step: int, params: Params, info: dict[str, Any]) -> None:
    """Writes a checkpoint that `read_params` and `read_info` read, without the state that training needs."""
    _quiet()
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(jax.tree.map(np.asarray, params)),
        info=ocp.args.JsonSave({key: info[key] for key in INFO_KEYS}),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(directory.absolute() / str(step), args=items)


def steps_in(directory: pathlib.Path) -> list[int]:
    """Steps with a checkpoint, ascending; half-written ones have other names and are left out."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def best_step(directory: pathlib.Path) -> int | None:
    """The step that is best by the run's `best_metric`, or None if none was saved with it."""
    scores = {}
    for step in steps_in(directory):
        file = directory / str(step) / "metrics" / "metrics"
        if file.is_file():
            scores[step] = json.loads(file.read_text())[_SCORE]
    return max(scores, key=lambda step: scores[step], default=None)


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def brief(error: Exception) -> str:
    """An error's type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _shapes(checkpointer: ocp.StandardCheckpointer, item: pathlib.Path) -> Any:
    """A saved tree with the shape and type of each leaf."""
    metadata: Any = checkpointer.metadata(item).item_metadata
    if metadata is None:
        raise FileNotFoundError(f"{item.name} cannot be read")
    return metadata.tree


def _newest(steps: Iterable[int]) -> int | None:
    """The last of the steps, or None; what process 0 sees, since the others may see a folder later."""
    step = max(steps, default=-1)
    if jax.process_count() > 1:
        step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    return None if step < 0 else step


def _processes_with(flag: bool) -> list[int]:
    """The processes that call this with True; the same answer in all."""
    if jax.process_count() == 1:
        return [0] if flag else []
    return np.flatnonzero(multihost_utils.process_allgather(np.array(flag))).tolist()


def _wait_for_all_processes() -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoints")


@functools.cache  # once a process
def _quiet() -> None:
    """Leaves Orbax's errors to be reported once, by whoever catches them.

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


def _score(metrics: dict[str, float]) -> float:
    """What Orbax makes as great as possible."""
    return metrics[_SCORE]


def _items(state: TrainState) -> dict[str, Any]:
    """The state in what is saved one by one: those of _PARTS that there are, and the rest."""
    rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    parts = {name: rest.pop(name) for name in _PARTS}
    return {name: part for name, part in parts.items() if part} | {"rest": rest}


def _leaves(state: TrainState) -> dict[str, str]:
    return _described(_items(state))


def _described(tree: Any) -> dict[str, str]:
    """Path -> shape and type of each leaf, `float32 (3, 4)`."""
    return dict(zip(leaf_names(tree), (f"{x.dtype} {x.shape}" for x in jax.tree.leaves(tree)), strict=True))


def _differences(saved: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """One line a leaf that is missing on either side or differs."""
    return [
        f"{name} is {saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]


def _difference(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first class that differs."""
    pairs = itertools.zip_longest(saved["class_names"], wanted["class_names"])
    label, (there, here) = next((label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"class {label} is {there!r} there and {here!r} here"


def _target(leaf: Any) -> Any:
    """What tells Orbax how to restore a leaf: in shards, or into NumPy."""
    is_sharded = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None
    return leaf if is_sharded else _empty(leaf)


def _empty(leaf: Any) -> np.ndarray:
    """An array of the leaf's shape and type that takes no memory; restoring into it gives NumPy."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """path, or path with a number, whichever does not exist yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(1, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
