"""From another library's checkpoint to a model's parameters."""

import dataclasses
import pathlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.info import Info, class_names_of, fields_of, new_info
from vit_jax.layers.roles import trace
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import libraries, mapping
from vit_jax.pretrained.claims import check_claims
from vit_jax.pretrained.description import in_proportion, is_whole, pair
from vit_jax.pretrained.prefixes import describe_unwrapped
from vit_jax.pretrained.report import Found, Report, fit
from vit_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint's arrays under our names, not yet fitted to a model.

    source: for messages.
    info: what a checkpoint of ours says of itself; see `vit_jax.info`.
    found: all that the checkpoint's own model has; the encoder's names start with `encoder/`.
    antialias: how its library resizes position embeddings.
    """

    source: str
    info: Info
    found: Found
    antialias: bool = True


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint, ready for a model.

    info: as in `Opened`.
    params: nested float32 NumPy arrays, of the whole model or, without a task, of the encoder.
    report: what became of every leaf.
    """

    info: Info
    params: Params
    report: Report


def load(
    source: str | pathlib.Path,
    *,
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    num_heads: int | None = None,
    allow: Sequence[str] = (),
) -> Pretrained:
    """Load a checkpoint of Hugging Face transformers, timm or Google.

    Args:
        source: a folder with config.json and *.safetensors, a Google `.npz` (path or URL), or a hub id.
        revision: branch, tag or commit on the hub.
        image_size: height and width in pixels to use the model at; its position embedding is resized. None is the
            checkpoint's own.
        in_channels: of the images; the stem is adapted. None is the checkpoint's own.
        num_heads: of an `.npz` that does not tell.
        allow: tensors that may be unused and parameters that may be missing; see `report.fit`.

    Raises:
        InputError: nothing there, not supported, or not all leaves accounted for.
    """
    opened = open_checkpoint(
        source, revision=revision, image_size=image_size, in_channels=in_channels, num_heads=num_heads
    )
    initialise = _initialiser(opened.info)
    traced = trace(initialise)
    template = flax.traverse_util.flatten_dict(traced.shapes, sep="/")
    params, report = fit(
        opened.found, template, roles=traced.roles, source=opened.source, antialias=opened.antialias, allow=allow
    )
    if report.initialised:
        new = flax.traverse_util.flatten_dict(initialise(), sep="/")
        params |= {path: np.asarray(new[path]) for path in report.initialised}
    nested = flax.traverse_util.unflatten_dict({path: params[path] for path in template}, sep="/")
    return Pretrained(opened.info, nested["encoder"] if opened.info["task"] is None else nested, report)


def open_checkpoint(
    source: str | pathlib.Path,
    *,
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    num_heads: int | None = None,
) -> Opened:
    """Read a checkpoint; the arguments are those of `load`, and the sizes change its preprocessing alone."""
    size = None if image_size is None else pair(image_size, "image_size")
    channels, num_heads = _count(in_channels, "in_channels"), _count(num_heads, "num_heads")
    files, description = describe_unwrapped(
        files_.open_source(source, revision=revision),
        lambda files: libraries.describe(files, num_heads=num_heads, image_size=size),
    )
    if files.prefix:
        warnings.warn(f"{files.name}: {files.prefix!r} was taken off the names of all its tensors", stacklevel=2)
    preprocessing = adapted(description.preprocessing, size, channels)
    if description.task and len(class_names_of(description.fields)) == 1:  # as many as `num_labels` of transformers
        raise InputError(
            f"{files.name}: its head has one output, for a regression or a single score, which is not supported; "
            "valid: two classes or more"
        )
    with libraries.refusing_values(files.name, "its library"):
        task_options = description.task["options"] if description.task else {}
        check_claims(files, libraries.create_encoder(**description.model), task_options, preprocessing)
    info = new_info(
        model=description.model,
        task=description.task,
        fields=description.fields,
        preprocessing=dataclasses.asdict(preprocessing),
    )
    with libraries.refusing_values(files.name, "its library"):
        template = flax.traverse_util.flatten_dict(jax.eval_shape(_initialiser(info)), sep="/")
    buffers = tuple(name for name in files.tensors if any(re.fullmatch(each, name) for each in description.buffers))
    found = Found(
        arrays=mapping.read(description.names, files.tensors, template),
        tensors={row.param: row.tensor for row in description.names},
        names=[name for name in files.tensors if name not in buffers],
        buffers=buffers,
        prefix=files.prefix,
    )
    return Opened(files.name, info, found, description.antialias)


def _count(value: Any, name: str) -> int | None:
    """Return a whole number of Python, NumPy or JAX as Python's; None stays.

    Raises:
        InputError: something else, or a number below 1.
    """
    if value is None:
        return None
    if not is_whole(value) or value < 1:
        raise InputError(f"{name} is {value}; valid: 1 or more")
    return int(value)


def _initialiser(info: Info) -> Callable[[], Params]:
    """Make a function that gives new parameters of the model; a bare encoder's come under `encoder`."""
    encoder, preprocessing = libraries.create_encoder(**info["model"]), info["preprocessing"]
    shape = (1, *preprocessing["image_size"], preprocessing["channels"])
    key = jax.random.key(0)
    if info["task"] is None:
        return lambda: {"encoder": encoder.init(key, jnp.zeros(shape), train=False)["params"]}
    task = libraries.create_task(info["task"]["name"], fields_of(info), info["task"]["options"])
    return lambda: task.initialise(task.wrap(encoder), key, {"image": jnp.zeros(shape)})["params"]


def adapted(preprocessing: Preprocessing, image_size: tuple[int, int] | None, channels: int | None) -> Preprocessing:
    """Change the size or the number of channels of a preprocessing, where one is given."""
    changes: dict[str, Any] = {}
    if image_size is not None:
        changes["image_size"] = image_size
        if preprocessing.resize_to is not None:  # in proportion
            changes["resize_to"] = in_proportion(preprocessing.resize_to, preprocessing.image_size, image_size)
    if channels is not None and channels != preprocessing.channels:
        if channels < 1:
            raise InputError(f"in_channels is {channels}; valid: 1 or more")
        changes["channels"] = channels
        for name in ("mean", "std"):
            values = np.asarray(getattr(preprocessing, name))
            values = [values.mean()] if channels == 1 else np.resize(values, channels)
            changes[name] = tuple(map(float, values))
    preprocessing = dataclasses.replace(preprocessing, **changes)
    rows, columns = preprocessing.resize_target
    if rows != columns and (preprocessing.resize, preprocessing.crop_offset) == ("shortest_edge", "nearest"):
        return dataclasses.replace(preprocessing, resize="shortest_edge_nearest")  # timm's for rectangles
    return preprocessing
