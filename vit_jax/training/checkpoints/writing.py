"""Saves and restores the state of a run, by Orbax: asynchronous, atomic, the last few and the best."""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vit_jax.errors import InputError
from vit_jax.info import Info
from vit_jax.ops.trees import flat, leaf_names
from vit_jax.training.checkpoints import agreement, layout
from vit_jax.training.checkpoints.reading import read_info, steps_in
from vit_jax.types import TrainState


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpoints.restore` found.

    step: of the checkpoint.
    state: arrays in the template's form: NumPy, or sharded where the template says how.
    notes: lines for the user, such as one about a half-written step that was passed over.
    """

    step: int
    state: TrainState
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Found:
    """A checkpoint that can be read.

    state: None if its leaves are others than the template's.
    differences: a line for each of these leaves.
    """

    step: int
    info: Info
    state: TrainState | None
    differences: list[str]


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints/<step>/`; `layout` says what each holds.

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
        """Check the options; `with` opens the directory, and makes it if need be.

        Args:
            directory: `<workdir>/checkpoints`.
            keep_last: number of the newest checkpoints that stay.
            best_metric: the checkpoint that is best by this metric, `test/accuracy`, stays as well; None or empty
                keeps no such one.
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
        layout.quiet()
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

    def __enter__(self) -> "Checkpoints":
        """Open the directory."""
        self._manager = ocp.CheckpointManager(self._directory, options=self._options)
        return self

    def __exit__(self, *_: object) -> None:
        """End Orbax's threads."""
        self._manager.close()

    def save(self, step: int, state: TrainState, info: Info, metrics: dict[str, float] | None) -> None:
        """Start to save in the background; a failure of the save before is raised here.

        Args:
            step: of the state.
            state: NumPy arrays, or sharded arrays of which each process writes its own shards.
            info: what inference needs, see `vit_jax.info`.
            metrics: of an evaluation at this step, by which it may become the best.
        """
        if step in self._manager.all_steps():
            return
        items: dict[str, Any] = {name: ocp.args.StandardSave(item) for name, item in layout.items_of(state).items()}
        items["info"] = ocp.args.JsonSave(info)
        score = None
        value = (metrics or {}).get(self._best_metric or "")
        if value is not None and math.isfinite(value):  # Orbax would take NaN for the best
            score = {layout.SCORE: self._sign * value}
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=score)

    def wait(self) -> None:
        """Wait for the save in the background and raises its failure."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def restore(self, template: TrainState, info: Info, *, max_step: int) -> Restored | None:
        """Restore the newest complete checkpoint, of any format.

        A step that cannot be read is put aside under another name, and the one before it is taken.

        Args:
            template: arrays, or their shapes and types, of the state to restore into. A leaf of a
                `jax.ShapeDtypeStruct` with a sharding is read in its shards.
            info: of the model that is to be trained.
            max_step: the run's length.

        Returns:
            None if there is no checkpoint.

        Raises:
            InputError: the checkpoint is of another model or from beyond the run's end, or none can be read.
        """
        broken: dict[int, str] = {}
        while (step := agreement.newest(set(steps_in(self._directory)) - broken.keys())) is not None:
            found: _Found | None = None
            try:
                found = self._read(step, template)
            except Exception as error:  # anything may follow from a truncated or missing file
                broken[step] = layout.brief(error)
            # Each process reads its own shards, and a file that is broken may be another's alone.
            failed = agreement.processes_with(found is None)
            if found is None or failed:
                broken.setdefault(step, f"process {failed[0]} cannot read it")
                continue
            state = self._checked(found, info, max_step)
            notes = [*self._tidy(broken), *_notes(found.info, info)]
            return Restored(step, state, tuple(notes))
        if broken:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in broken.items())
            raise InputError(f"no checkpoint in {self._directory} can be read ({reasons}); valid: another --workdir")
        self._tidy({})
        return None

    def _read(self, step: int, template: TrainState) -> _Found:
        """Read the info, and the state if its leaves are the template's."""
        folder = self._directory / str(step)
        info = read_info(self._directory, step)
        wanted = layout.items_of(template)
        differences = _differences(_described(_saved_items(folder)), _described(wanted))
        if differences:
            return _Found(step, info, None, differences)
        return _Found(step, info, layout.state_of(_restored_items(folder, wanted), template), [])

    def _checked(self, found: _Found, info: Info, max_step: int) -> TrainState:
        """Return the state, if it is one that this run may continue from."""
        if not (self._directory / str(found.step) / "rest").is_dir():
            raise InputError(
                f"{self._directory} holds the parameters of a converted model, but no training to continue; "
                "valid: another --workdir"
            )
        if found.state is None:
            raise InputError(
                f"{self._directory} holds checkpoint {found.step} of another model or optimizer: "
                f"{'; '.join([*_other_settings(found.info, info), found.differences[0]])}"
                "; valid: the config that made it, or another --workdir"
            )
        if difference := _other_class(_class_names(found.info), _class_names(info)):
            raise InputError(
                f"{self._directory} holds checkpoint {found.step} of other classes: {difference}; "
                "valid: the data that it was trained on, or another --workdir, with init.source for its weights"
            )
        if found.step > max_step:
            raise InputError(
                f"{self._directory} holds checkpoint {found.step}, but the config ends at step {max_step}; "
                f"valid: num_steps of {found.step} or more, or another --workdir"
            )
        return found.state

    def _tidy(self, broken: dict[int, str]) -> list[str]:
        """Remove half-written saves, and renames steps that cannot be read so that they can be saved again.

        Args:
            broken: step -> why it cannot be read.

        Returns:
            A line for each.
        """
        half_written = sorted(self._directory.glob("*orbax-checkpoint-tmp*"))
        aside = {step: _free_name(self._directory / f"unreadable-{step}") for step in broken}
        agreement.wait_for_all()
        if jax.process_index() == 0:
            for path in half_written:
                shutil.rmtree(path)
            for step, path in aside.items():
                (self._directory / str(step)).rename(path)
        agreement.wait_for_all()
        self._manager.reload()
        notes = [f"removed the half-written checkpoint {path.name}" for path in half_written]
        for step, path in aside.items():
            notes.append(f"checkpoint {step} is incomplete ({broken[step]}); moved it to {path.name}")
        return notes


def _score(metrics: dict[str, float]) -> float:
    """Return what Orbax makes as great as possible."""
    return metrics[layout.SCORE]


def _saved_items(folder: pathlib.Path) -> dict[str, Any]:
    """Shapes and types of a checkpoint's items, in the newest format."""
    names = [name for name in (*layout.PARTS, layout.TEACHER, "rest") if (folder / name).is_dir()]
    with ocp.StandardCheckpointer() as checkpointer:
        items = {name: layout.saved_shapes(checkpointer, folder / name) for name in names}
    if layout.TEACHER in items:
        items["companions"] = {layout.TEACHER: items.pop(layout.TEACHER)}
    return items


def _restored_items(folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Read the items of a checkpoint that are wanted, of any format; wanted are those of the newest."""
    is_old = layout.is_format_1(folder)
    if is_old:
        wanted = {**wanted, layout.TEACHER: wanted["companions"][layout.TEACHER]}
        del wanted["companions"]
    # Not by a Checkpointer, which would wait for the other processes, of which one may have failed.
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        read: dict[str, Any] = {}
        for name, item in wanted.items():
            path: Any = folder / name
            read[name] = handler.restore(path, args=ocp.args.StandardRestore(jax.tree.map(_target, item)))
    if is_old:
        read["companions"] = {layout.TEACHER: read.pop(layout.TEACHER)}
    return read


def _target(leaf: Any) -> Any:
    """Return what tells Orbax how to restore a leaf: in shards, or into NumPy."""
    is_sharded = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None
    return leaf if is_sharded else layout.empty(leaf)


def _described(tree: Any) -> dict[str, str]:
    """Path -> shape and type of each leaf, `float32 (3, 4)`."""
    return dict(zip(leaf_names(tree), (f"{x.dtype} {x.shape}" for x in jax.tree.leaves(tree)), strict=True))


def _differences(saved: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Return a line for each leaf that is missing on either side or differs."""
    return [
        f"{name} is {saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]


def _other_settings(saved: Info, wanted: Info) -> list[str]:
    """Return a line for each setting of the model or the optimizer that differs."""
    old, new = flat(saved), flat(wanted)
    return [
        f"{key.replace('.options.', '.')} is {old.get(key)} there and {new.get(key)} here"
        for key in sorted(old.keys() | new.keys())
        if key.startswith(("model.", "optimizer")) and old.get(key) != new.get(key)
    ]


def _class_names(info: Info) -> dict[str, list[str]]:
    """Field -> names of its classes, for the fields that have any."""
    return {name: list(field["names"]) for name, field in info["fields"].items() if field["names"]}


def _other_class(saved: dict[str, list[str]], wanted: dict[str, list[str]]) -> str | None:
    """Name the first class that differs; None if all are the same."""
    fields = sorted(saved.keys() | wanted.keys())
    for field in fields:
        pairs = itertools.zip_longest(saved.get(field, []), wanted.get(field, []))
        for number, (there, here) in enumerate(pairs):
            if there != here:
                of_field = f" of {field!r}" if len(fields) > 1 else ""
                return f"class {number}{of_field} is {there!r} there and {here!r} here"
    return None


def _notes(saved: Info, info: Info) -> list[str]:
    before, now = saved.get("num_examples"), info.get("num_examples")
    if before is None or before == now:
        return []
    return [f"there are {now} examples to train on, not {before}: their order is another one from here"]


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """Return the path itself, or with a number, whichever does not exist yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(1, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
