"""What a run takes from trained models: the parameters that it starts from, and a teacher."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.pretrained.description import pair
from vit_jax.pretrained.load import Opened, adapted, open_checkpoint
from vit_jax.pretrained.report import Found, Report, fit, zero_heads
from vit_jax.training.checkpoints import reading
from vit_jax.types import Params, TrainState

HEAD = ("auto", "keep", "new")
TEACHER_CLASSES = ("names", "numbers")
ALLOW = "init.allow"


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """The parameters that a run takes over.

    arrays: path -> float32 array; parameters that it lacks start from new values.
    report: what became of every leaf.
    """

    arrays: Mapping[str, np.ndarray]
    report: Report

    def apply(self, state: TrainState) -> TrainState:
        """A new run's state with these parameters, in the moving average too."""

        def replaced(params: Params) -> Params:
            flat = flax.traverse_util.flatten_dict(params, sep="/")
            return flax.traverse_util.unflatten_dict(flat | dict(self.arrays), sep="/")

        ema_params = None if state.ema_params is None else replaced(state.ema_params)
        return state.replace(params=replaced(state.params), ema_params=ema_params)


def keeps_head(head: str, old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether the head, and the pre-logits layer before it, are taken over; see `warm_start`.

    Args:
        head: one of HEAD.
        old: class names of the trained model.
        new: of the model that is to be trained.

    Raises:
        InputError: an unknown value.
    """
    if head not in HEAD:
        raise InputError(f"init.head is {head!r}; valid: {', '.join(HEAD)}")
    return head == "keep" or (head == "auto" and _same_names(old, new))


def _same_names(old: Sequence[str], new: Sequence[str]) -> bool:
    return len(set(new)) == len(new) and sorted(old) == sorted(new)


def _is_head(path: str) -> bool:
    return not path.startswith("encoder/") or path.startswith("encoder/pre_logits/")


def open_trained(
    source: str,
    *,
    step: int | str = "last",
    revision: str | None = None,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    keys: str = "init.",
) -> Opened:
    """Reads a trained model.

    Args:
        source: what `vit_jax.load` takes: a work directory, a folder, an `.npz` or a Hugging Face id.
        step: of a work directory.
        revision: of a Hugging Face id.
        num_heads: of an `.npz` that does not tell.
        image_size: height and width in pixels for which to change the preprocessing; None is the model's own.
        channels: likewise.
        keys: what the names of step, revision and num_heads begin with in the config.

    Raises:
        InputError: nothing there that can be read.
    """
    path = pathlib.Path(source).expanduser()
    is_workdir = (path / "checkpoints").is_dir()
    theirs = {"revision": revision, "num_heads": num_heads}
    for key, value in theirs.items() if is_workdir else {"step": None if step == "last" else step}.items():
        if value is not None:
            what = "a work directory" if is_workdir else "no work directory"
            raise InputError(f"{keys}{key} is {value!r}, but {source} is {what}; valid: no {keys}{key}")
    if not is_workdir:
        return open_checkpoint(
            source, revision=revision, image_size=image_size, in_channels=channels, num_heads=num_heads
        )
    saved = reading.read_model(path, step)
    arrays = {name: np.asarray(x) for name, x in flax.traverse_util.flatten_dict(saved.params, sep="/").items()}
    if saved.info["task"] is None:
        arrays = {f"encoder/{name}": x for name, x in arrays.items()}
    size = None if image_size is None else pair(image_size, "data.image_size")
    preprocessing = adapted(Preprocessing(**saved.info["preprocessing"]), size, channels)
    info = saved.info | {"preprocessing": dataclasses.asdict(preprocessing)}
    return Opened(f"{path} step {saved.step}", info, Found(arrays, {name: name for name in arrays}, list(arrays)))


def warm_start(
    opened: Opened,
    template: Mapping[str, Any],
    class_names: Sequence[str],
    *,
    head: str = "auto",
    allow: Sequence[str] = (),
) -> WarmStart:
    """Fits a trained model's parameters to the model that is to be trained.

    Args:
        opened: the trained model.
        template: path -> anything with the `shape` that the new model's parameter has.
        class_names: of the new model.
        head: `auto` keeps the head if the classes have the same names and makes a new one if not; `keep` takes it if
            there are as many classes; `new` never takes it. Classes of the same names may be in another order. With
            a new head, a pre-logits layer is left behind too.
        allow: what may be unused or missing besides a head that is not kept; see `fit`.

    Raises:
        InputError: leaves not accounted for, or a head that cannot be kept.
    """
    old, new = list(opened.info["class_names"]), list(class_names)
    encoder = {path: x for path, x in opened.found.arrays.items() if not _is_head(path)}
    heads = {path: x for path, x in opened.found.arrays.items() if _is_head(path)}
    if not keeps_head(head, old, new):
        replaced = [path for path in {*template, *heads} if _is_head(path)]
        allow = [*allow, *replaced, *(opened.found.tensors.get(path, path) for path in replaced)]
        heads = {}
    elif len(old) != len(new):
        raise InputError(f"init.head is 'keep', but {opened.source} has {len(old)} classes and the data {len(new)}")
    elif _same_names(old, new):
        heads = _reordered(heads, old, new)
    found = dataclasses.replace(opened.found, arrays=encoder | heads)
    return WarmStart(*fit(found, template, source=opened.source, antialias=opened.antialias, allow=allow, key=ALLOW))


def open_teacher(
    source: str, class_names: Sequence[str], *, step: int | str = "last", revision: str | None = None, classes: str
) -> Opened:
    """Reads the model that a run is to learn from.

    Args:
        source: what `vit_jax.load` takes.
        class_names: of the data.
        step: of a work directory.
        revision: of a Hugging Face id.
        classes: one of TEACHER_CLASSES: whether the teacher's classes are told by their names, in whatever order, or by
            their numbers, whatever they are called.

    Raises:
        InputError: nothing there that can be read, no classifier, or one of other classes.
    """
    if classes not in TEACHER_CLASSES:
        raise InputError(f"task.teacher_classes is {classes!r}; valid: {', '.join(TEACHER_CLASSES)}")
    opened = open_trained(source, step=step, revision=revision, keys="task.teacher_")
    task, theirs = opened.info["task"], opened.info["class_names"]
    if task is None or task["name"] != "classification" or task["options"].get("loss_type", "softmax") != "softmax":
        what = "has no classification head" if task is None else f"was trained for {task['name']} without a softmax"
        raise InputError(f"task.teacher {opened.source} {what}; valid: a model that names one class of many")
    if classes == "numbers" and len(theirs) != len(class_names):
        raise InputError(f"task.teacher {opened.source} has {len(theirs)} classes, and the data {len(class_names)}")
    if classes == "names" and not _same_names(theirs, class_names):
        other = next((name for name in theirs if name not in class_names), None)
        there = f"{len(theirs)} classes, and the data {len(class_names)}" if other is None else f"a class {other!r}"
        raise InputError(
            f"task.teacher {opened.source} has {there}; valid: a teacher of the data's classes, {class_names[0]!r} and "
            "so on, or task.teacher_classes 'numbers' if it only calls them otherwise"
        )
    return opened


def teacher_params(opened: Opened, template: Mapping[str, Any], class_names: Sequence[str], *, classes: str) -> Params:
    """The parameters of a teacher, nested, its head in the order of the data's classes.

    Args:
        opened: what `open_teacher` gave.
        template: path -> anything with the `shape` that the teacher's parameter has.
        class_names: of the data.
        classes: as given to `open_teacher`.

    Raises:
        InputError: leaves not accounted for, or a head that is zero throughout.
    """
    arrays = dict(opened.found.arrays)
    if classes == "names":
        heads = {path: x for path, x in arrays.items() if _is_head(path)}
        arrays |= _reordered(heads, list(opened.info["class_names"]), class_names)
    found = dataclasses.replace(opened.found, arrays=arrays)
    key = "--allow of vit-jax convert --to workdir"
    params, _ = fit(found, template, source=opened.source, antialias=opened.antialias, key=key)
    nested = flax.traverse_util.unflatten_dict(params, sep="/")
    for name in zero_heads(nested):
        raise InputError(f"task.teacher {opened.source}: {name} is zero throughout, so that it tells no class apart")
    return jax.tree.map(np.asarray, nested)


def _reordered(heads: Mapping[str, np.ndarray], old: Sequence[str], new: Sequence[str]) -> dict[str, np.ndarray]:
    """Heads of classes in another order; a pre-logits layer, which is part of a head, stays."""
    order = [old.index(name) for name in new]
    return {path: x if path.startswith("encoder/") else x[..., order] for path, x in heads.items()}
