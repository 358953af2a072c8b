"""Saves and restores the state of a run, by Orbax: asynchronous, atomic, the last few and the best."""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vit_jax.errors import InputError
from vit_jax.info import Info
from vit_jax.system import alias, hosts, os_errors
from vit_jax.training.checkpoints import agreement, checksums, comparison, damage, layout
from vit_jax.training.checkpoints.checksums import Checksums
from vit_jax.training.checkpoints.reading import damage_in, read_info, read_score, steps_in
from vit_jax.types import TrainState

_ABOUT = "_CHECKPOINT_METADATA"
"""What Orbax writes about a checkpoint as a whole: when it was saved, and by which handlers."""

T = TypeVar("T")


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

    saved: None of an older version.
    state: None if its leaves are others than the template's.
    differences: a line for each of these leaves.
    """

    step: int
    info: Info
    saved: Checksums | None
    state: TrainState | None
    differences: list[str]

    def check(self) -> None:
        """Raise Damaged unless the state is what was saved; all processes of a run call this together."""
        if self.saved is not None and self.state is not None:
            self.saved.check_arrays(layout.items_of(self.state))


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
        self._step = 0
        self._directory = directory.absolute()
        self._best_metric = best_metric
        self._sign = 1.0 if best_mode == "max" else -1.0
        best = preservation_policy.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        policies = [preservation_policy.LatestN(keep_last), *([best] if best_metric else [])]
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            best_fn=_score if best_metric else None,
            enable_async_checkpointing=True,
            # If a folder cannot be made in the background, Orbax waits for it for ten minutes.
            async_options=ocp.AsyncOptions(
                barrier_sync_fn=agreement.wait_unless_failing, create_directories_asynchronously=False
            ),
            create=True,
        )

    def __enter__(self) -> "Checkpoints":
        """Open the directory.

        Raises:
            InputError: it holds a folder that Orbax would take for a step, but that is none.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            if path.name.isdigit() and not (path.is_dir() and layout.step_of(path) is not None):
                raise InputError(
                    f"{path} is no checkpoint, though its name is a number; valid: folders 0 to {layout.MOST_STEPS}, "
                    "so move it away"
                )
        with contextlib.ExitStack() as opened:
            self._plain = opened.enter_context(alias.plain(self._directory))
            self._set_aside = self._set_unreadable_aside()
            self._manager = self._open_manager()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        """End Orbax's threads; what already went wrong is not replaced by what follows from it."""
        with self._opened:
            if error is not None and hosts.is_loss(error):
                return  # they wait for the process that is lost
            with contextlib.suppress(*([] if error is None else [Exception])), self._saving():
                self._manager.close()

    def save(self, step: int, state: TrainState, info: Info, metrics: dict[str, float] | None) -> None:
        """Start to save in the background; a failure of the save before is raised here.

        Args:
            step: of the state.
            state: NumPy arrays, or sharded arrays of which each process writes its own shards.
            info: what inference needs, see `vit_jax.info`.
            metrics: of an evaluation at this step, by which it may become the best.

        Raises:
            OSError: with the checkpoint's path; the disk is full, or fails.
            InputError: the directory holds a later step.
        """
        if step in self._manager.all_steps():
            return
        self.wait()
        parts = layout.items_of(state)
        value, score = (metrics or {}).get(self._best_metric or ""), None
        if value is not None and math.isfinite(value):  # Orbax would take NaN for the best
            score = self._sign * value
        items: dict[str, Any] = {name: ocp.args.StandardSave(part) for name, part in parts.items()}
        items["info"] = ocp.args.JsonSave(info)
        items[checksums.ITEM] = ocp.args.JsonSave(Checksums.of(step, parts, info, score).json())
        self._step = step
        with self._saving():
            is_saved = self._manager.save(
                step, args=ocp.args.Composite(**items), metrics=None if score is None else {layout.SCORE: score}
            )
        if not is_saved:
            raise InputError(
                f"{self._directory} holds step {self._manager.latest_step()}, so that step {step} cannot be saved; "
                "valid: another --workdir"
            )

    def wait(self) -> None:
        """Wait for the save in the background and raise its failure, an OSError with the checkpoint's path."""
        with self._saving():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Name the checkpoint in the system's errors, which name a part of it at best."""
        try:
            yield
        except Exception as error:
            number = os_errors.number_of(error)
            if number is None or hosts.is_loss(error):
                raise
            raise OSError(number, os.strerror(number), str(self._directory / str(self._step))) from error

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
            folder = self._directory / str(step)
            found, reason = _agreed(folder, functools.partial(self._read, step, template))
            if found is not None and reason is None:
                _, reason = _agreed(folder, found.check)
            if found is None or reason is not None:
                broken[step] = reason or ""
                continue
            state = self._checked(found, info, max_step)
            notes = [*self._set_aside, *self._tidy(broken), *_notes(found.info, info)]
            return Restored(step, state, tuple(notes))
        if broken:
            reasons = "; ".join(f"{step}: {reason}" for step, reason in broken.items())
            raise InputError(f"no checkpoint in {self._directory} can be read ({reasons}); valid: another --workdir")
        self._tidy({})
        return None

    def _read(self, step: int, template: TrainState) -> _Found:
        """Read the info, and the state if its leaves are the template's."""
        folder = self._plain / str(step)
        damage.check_files(self._directory / str(step))
        saved = checksums.read(folder)
        info = read_info(self._plain, step)
        items = _saved_items(folder, saved)
        wanted = layout.items_of(template)
        differences = comparison.differences(comparison.described(items), comparison.described(wanted))
        if differences:
            return _Found(step, info, saved, None, differences)
        return _Found(step, info, saved, layout.state_of(_restored_items(folder, wanted), template), [])

    def _checked(self, found: _Found, info: Info, max_step: int) -> TrainState:
        """Return the state, if it is one that this run may continue from."""
        if not (self._directory / str(found.step) / "rest").is_dir():
            raise InputError(
                f"{self._directory} holds the parameters of a converted model, but no training to continue; "
                "valid: another --workdir"
            )
        saved, wanted = comparison.class_names(found.info), comparison.class_names(info)
        same_fields = saved.keys() == wanted.keys()  # else the task is another one, which shows in the leaves
        if (same_fields or found.state is not None) and (difference := comparison.other_class(saved, wanted)):
            raise InputError(
                f"{self._directory} holds checkpoint {found.step} of other classes: {difference}; "
                "valid: the data that it was trained on, or another --workdir, with init.source for its weights"
            )
        if found.state is None:
            raise InputError(
                f"{self._directory} holds checkpoint {found.step} of another model or optimizer: "
                f"{'; '.join([*comparison.other_settings(found.info, info), found.differences[0]])}"
                "; valid: the config that made it, or another --workdir"
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
            notes.append(f"checkpoint {step} is incomplete or damaged ({broken[step]}); moved it to {path.name}")
        return notes

    def _open_manager(self) -> ocp.CheckpointManager:
        """Open Orbax's manager; what it says of each checkpoint, and nothing here needs, is set aside if it cannot."""
        create = functools.partial(ocp.CheckpointManager, self._plain, options=self._options)
        manager, reason = _agreed(self._directory, create)
        if manager is not None and reason is None:
            return manager
        self._rename([file for file in self._directory.glob(f"*/{_ABOUT}") if layout.step_of(file.parent) is not None])
        return create()

    def _set_unreadable_aside(self) -> list[str]:
        """Rename what Orbax reads of every checkpoint, and could not; returns a line for each that is missed."""
        unreadable: dict[pathlib.Path, str | None] = {}
        for step in steps_in(self._directory):
            folder = self._directory / str(step)
            about, metrics = folder / _ABOUT, folder / "metrics"
            _, reason = _agreed(folder, functools.partial(damage.read_json, about))
            if reason is not None and os.path.lexists(about):
                unreadable[about] = None
            if self._best_metric is not None and metrics.exists():
                _, reason = _agreed(folder, functools.partial(read_score, folder))
                if reason is not None:
                    unreadable[metrics] = f"checkpoint {step} no longer counts for the best ({reason})"
        self._rename(unreadable)
        return [line for line in unreadable.values() if line is not None]

    def _rename(self, paths: Iterable[pathlib.Path]) -> None:
        """Rename parts of checkpoints to names that Orbax does not know."""
        agreement.wait_for_all()
        if jax.process_index() == 0:
            for path in paths:
                path.rename(_free_name(path.with_name(f"unreadable-{path.name}")))
        agreement.wait_for_all()


def _score(metrics: dict[str, float]) -> float:
    """Return what Orbax makes as great as possible."""
    return metrics[layout.SCORE]


def _agreed(folder: pathlib.Path, action: Callable[[], T]) -> tuple[T | None, str | None]:
    """Do what reads a checkpoint in all processes; each reads its own shards, and what is damaged may be another's.

    Returns:
        What the action gives, and what is damaged; None where nothing is.

    Raises:
        InputError: an error that is no damage.
    """
    value = reason = None
    try:
        value = action()
    except Exception as error:
        reason = damage_in(folder, error)
    failed = agreement.processes_with(reason is not None)
    return value, f"process {failed[0]} cannot read it" if failed and reason is None else reason


def _saved_items(folder: pathlib.Path, saved: Checksums | None) -> dict[str, Any]:
    """Shapes and types of a checkpoint's items, in the newest format."""
    names = [name for name in (*layout.PARTS, layout.TEACHER, "rest") if (folder / name).is_dir()]
    with layout.open_items() as reader:
        items = {name: reader.shapes(folder / name) for name in names}
    if saved is not None:
        for name in sorted(saved.items() | items.keys()):
            saved.check_types(name, items.get(name, {}))
    if layout.TEACHER in items:
        items["companions"] = {layout.TEACHER: items.pop(layout.TEACHER)}
    return items


def _restored_items(folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Read the items of a checkpoint that are wanted, of any format; wanted are those of the newest."""
    is_old = layout.is_format_1(folder)
    if is_old:
        wanted = {**wanted, layout.TEACHER: wanted["companions"][layout.TEACHER]}
        del wanted["companions"]
    with layout.open_items() as reader:
        read = {name: reader.restore(folder / name, jax.tree.map(_target, item)) for name, item in wanted.items()}
    if is_old:
        read["companions"] = {layout.TEACHER: read.pop(layout.TEACHER)}
    return read


def _target(leaf: Any) -> Any:
    """Return what tells Orbax how to restore a leaf: in shards, or into NumPy."""
    is_sharded = isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None
    return leaf if is_sharded else layout.empty(leaf)


def _notes(saved: Info, info: Info) -> list[str]:
    before, now = saved.get("num_examples"), info.get("num_examples")
    if before is None or before == now:
        return []
    return [f"there are {now} examples to train on, not {before}: their order is another one from here"]


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """Return the path itself, or with a number, whichever does not exist yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(1, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())
