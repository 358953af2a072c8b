"""What a run writes about itself besides metrics and checkpoints: config.json and its last words."""

import contextlib
import fcntl
import json
import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vit_jax.build.old_configs import upgraded
from vit_jax.errors import InputError
from vit_jax.system.atomic import writing
from vit_jax.system.terminal import visible


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keep a second run out of a work directory, which it makes; the system lifts the lock however a run ends.

    Raises:
        InputError: another run is at work there.
    """
    import jax

    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() != 0:
        yield
        return
    with (workdir / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is at work in {workdir}; valid: wait for it, or another --workdir") from None
        yield


def save_config(workdir: pathlib.Path, config: ConfigDict, *, write: bool) -> list[str]:
    """Write the resolved config to config.json, in one piece and by one process.

    Args:
        workdir: that of the run.
        config: the run's.
        write: False leaves the file, and only compares.

    Returns:
        One line a key whose value differs from that in the file that was there before, or one for a file that is
        damaged.
    """
    import jax

    from vit_jax.ops.trees import flat

    file = workdir / "config.json"
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    try:
        before = flat(upgraded(json.loads(file.read_bytes()))) if file.exists() else {}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        before = {file.name: "damaged"}
    now = flat(json.loads(text))
    if write and jax.process_index() == 0:
        with writing(file) as part:
            part.write_text(text)
    if not before.keys() & now.keys():
        return [f"{name}: was {what}; it is written again" for name, what in before.items()]
    keys = sorted(before.keys() | now.keys())
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def opening_line(config: Any, run: Any, params: Any, strategy: Any, workdir: pathlib.Path) -> str:
    """Return what is about to be trained, on what, and where it goes."""
    import jax

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    devices = f"{strategy.num_devices} x {jax.devices()[0].device_kind}"
    if strategy.layout:
        devices += f" as {strategy.layout}"
    model, data = run.info["model"], config.data
    return (
        f"{model['name']} {model['variant']}, {count:,} parameters; {data.folder or data.name} {data.split}, "
        f"{len(run.train_loader):,} examples; "
        f"{run.total_steps:,} steps of {config.batch_size} on {devices}; {workdir}"
    )


def resume_notes(restored: Any, changes: list[str], *, total_steps: int) -> list[str]:
    """Return what the user should know about where the run starts."""
    if restored is None:
        return []
    if restored.step == total_steps:
        done = f"already finished at step {total_steps}: nothing was trained"
        ignored = [f"config changed since, which has no effect: {change}" for change in changes]
        return [*restored.notes, f"{done}; a longer run continues, another --workdir starts anew", *ignored]
    notes = [*restored.notes, f"resuming after step {restored.step}"]
    return notes + [f"config changed since: {change}" for change in changes]


def final_table(workdir: pathlib.Path, step: int, values: dict[str, float], timing: dict[str, float]) -> str:
    """Lay out the figures of a finished run, and the command that predicts with its model."""
    rows = [("steps", f"{step}")]
    rows += [(key, _figure(value)) for key, value in values.items() if not key.startswith("train/") and key != "step"]
    learned = [key for key in values if key.startswith("train/") and key.removeprefix("train/") not in _BOOKKEEPING]
    rows += [(key, _figure(values[key])) for key in learned if values[key] is not None]
    if timing:
        rows += [
            ("training time", f"{timing['train_seconds']:.1f} s after the first step"),
            ("training speed", f"{timing['images_per_second']:,.0f} images/s"),
            ("waiting for data", f"{timing['data_wait_fraction']:.1%}"),
        ]
    width = max(len(visible(name)) for name, _ in rows)
    lines = [f"  {visible(name):<{width}}  {value}" for name, value in rows]
    directory = visible(shlex.quote(str(workdir)))
    return "\n".join(["", *lines, "", f"vit-jax predict --model {directory} IMAGE..."])


_BOOKKEEPING = ("learning_rate", "gradient_norm", "skipped_steps", "examples_seen")
"""Figures of training that say nothing of the model."""


def _figure(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
