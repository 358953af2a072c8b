"""What a run takes over from a trained model that it starts from."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from vit_jax.build import plugins
from vit_jax.build.info import preprocessing_of
from vit_jax.errors import InputError
from vit_jax.info import Info, fields_of
from vit_jax.layers.roles import Traced
from vit_jax.pretrained.description import pair
from vit_jax.pretrained.load import Opened, adapted, open_checkpoint
from vit_jax.pretrained.report import Found, Report, fit
from vit_jax.system.paths import expanded, is_folder
from vit_jax.tasks.classification import reordered_heads, same_names
from vit_jax.training.checkpoints import reading
from vit_jax.types import Fields, Params, TrainState

HEAD = ("auto", "keep", "new")
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
        """Return a new run's state with these parameters, in the moving average too."""

        def replaced(params: Params) -> Params:
            flat = flax.traverse_util.flatten_dict(params, sep="/")
            return flax.traverse_util.unflatten_dict(flat | dict(self.arrays), sep="/")

        ema_params = None if state.ema_params is None else replaced(state.ema_params)
        return state.replace(params=replaced(state.params), ema_params=ema_params)


def keeps_head(head: str, old: Info, task: dict[str, Any], fields: Fields) -> bool:
    """Tell whether the head, and the pre-logits layer before it, are taken over; see `warm_start`.

    Args:
        head: one of HEAD.
        old: info of the trained model.
        task: `task` of the info of the model that is to be trained.
        fields: of the data that it is to be trained on.

    Raises:
        InputError: an unknown value.
    """
    if head not in HEAD:
        raise InputError(f"init.head is {head!r}; valid: {', '.join(HEAD)}")
    if head != "auto" or old["task"] is None or old["task"]["name"] != task["name"]:
        return head == "keep"
    return same_names(_class_names(old["task"], fields_of(old)), _class_names(task, fields))


def _class_names(task: dict[str, Any] | None, fields: Fields) -> tuple[str, ...]:
    return () if task is None else plugins.create_task(task["name"], fields, **task["options"]).class_names


def _is_head(path: str) -> bool:
    return not path.startswith("encoder/") or path.startswith("encoder/pre_logits/")


def _in_the_datas_order(heads: dict[str, np.ndarray], opened: Opened, info: Info) -> dict[str, np.ndarray]:
    """Put the classes of heads that are taken over into the order of the data's."""
    old = _class_names(opened.info["task"], fields_of(opened.info))
    new = _class_names(info["task"], fields_of(info))
    if len(old) != len(new):
        raise InputError(f"init.head is 'keep', but {opened.source} has {len(old)} classes and the data {len(new)}")
    if old == new or not same_names(old, new):
        return heads
    if info["task"]["name"] != "classification":
        raise InputError(f"the classes of {opened.source} are in another order than the data's; valid: init.head 'new'")
    return reordered_heads(heads, old, new)


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
    """Read a trained model.

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
    path = expanded(source)
    is_workdir = is_folder(path / "checkpoints")
    theirs = {"revision": revision, "num_heads": num_heads}
    for key, value in theirs.items() if is_workdir else {"step": None if step == "last" else step}.items():
        if value is not None:
            what = "a work directory" if is_workdir else "no work directory"
            raise InputError(f"{keys}{key} is {value!r}, but {source} is {what}; valid: no {keys}{key}")
    if not is_workdir:
        return open_checkpoint(
            source, revision=revision, image_size=image_size, in_channels=channels, num_heads=num_heads
        )
    return opened_workdir(path, reading.read_model(path, step), image_size=image_size, channels=channels)


def opened_workdir(
    path: pathlib.Path,
    saved: reading.SavedModel,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    key: str = "data.image_size",
) -> Opened:
    """Put what was read of a work directory into the form of another library's checkpoint.

    Args:
        path: of the work directory, for messages.
        saved: its model.
        image_size: height and width in pixels for which to change the preprocessing; None is the model's own.
        channels: likewise.
        key: what the user calls the image size.

    Raises:
        InputError: a size or number of channels that is not valid.
    """
    arrays = {name: np.asarray(x) for name, x in flax.traverse_util.flatten_dict(saved.params, sep="/").items()}
    if saved.info["task"] is None:
        arrays = {f"encoder/{name}": x for name, x in arrays.items()}
    size = None if image_size is None else pair(image_size, key)
    preprocessing = adapted(preprocessing_of(saved.info), size, channels)
    info = saved.info | {"preprocessing": dataclasses.asdict(preprocessing)}
    return Opened(f"{path} step {saved.step}", info, Found(arrays, {name: name for name in arrays}, list(arrays)))


def warm_start(
    opened: Opened, traced: Traced, info: Info, *, head: str = "auto", allow: Sequence[str] = ()
) -> WarmStart:
    """Fit a trained model's parameters to the model that is to be trained.

    Args:
        opened: the trained model.
        traced: shapes and roles of the new model's parameters.
        info: of the new model.
        head: `auto` keeps the head if the task is the same and the classes have the same names, and makes a new one if
            not; `keep` takes it if there are as many classes; `new` never takes it. A classifier's classes may be in
            another order. With a new head, a pre-logits layer is left behind too.
        allow: what may be unused or missing besides a head that is not kept; see `fit`.

    Raises:
        InputError: leaves not accounted for, or a head that cannot be kept.
    """
    template = flax.traverse_util.flatten_dict(traced.shapes, sep="/")
    encoder = {path: x for path, x in opened.found.arrays.items() if not _is_head(path)}
    heads = {path: x for path, x in opened.found.arrays.items() if _is_head(path)}
    if not keeps_head(head, opened.info, info["task"], fields_of(info)):
        replaced = [path for path in {*template, *heads} if _is_head(path)]
        allow = [*allow, *replaced, *(opened.found.tensors.get(path, path) for path in replaced)]
        heads, notes = {}, ()
    else:
        notes = _notes(*(_class_names(each["task"], fields_of(each)) for each in (opened.info, info)))
        heads = _in_the_datas_order(heads, opened, info)
    found = dataclasses.replace(opened.found, arrays=encoder | heads)
    arrays, report = fit(
        found,
        template,
        roles=traced.roles,
        source=opened.source,
        antialias=opened.antialias,
        allow=allow,
        key=ALLOW,
    )
    return WarmStart(arrays, dataclasses.replace(report, notes=notes))


def _notes(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """Say that a kept head's classes are those of the same numbers, unless their names tell what they are."""
    if not same_names(old, new):
        return (f"the head is kept for classes of other names, by their numbers: {old[0]!r} is {new[0]!r} now",)
    if old and sorted(old) == sorted(map(str, range(len(old)))):
        return ("the head is kept, and its classes have numbers for names: class 0 is the data's '0'",)
    return ()
