"""From the files of a foreign checkpoint to a model's parameters."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.pretrained import families
from vit_jax.pretrained import files as files_
from vit_jax.pretrained import mapping as names
from vit_jax.pretrained.description import in_proportion, pair
from vit_jax.pretrained.report import Found, Report, fit
from vit_jax.tasks.classification import Classification
from vit_jax.types import Params
from vit_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class Opened:
    """A checkpoint's arrays under our names, not yet fitted to a model.

    source: for messages.
    info: what a checkpoint of ours says of itself: model, task (None if there is no head), class names,
        preprocessing, version.
    found: all that the checkpoint's own model has; the encoder's names start with `encoder/`.
    antialias: how its library resizes position embeddings.
    """

    source: str
    info: dict[str, Any]
    found: Found
    antialias: bool = True


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint, ready for a model.

    info: as in `Opened`.
    params: nested float32 NumPy arrays, of the whole model or, without a head, of the encoder.
    report: what became of every leaf.
    """

    info: dict[str, Any]
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
    """Loads a checkpoint of Hugging Face transformers, timm or Google.

    Args:
        source: a folder with config.json and *.safetensors, a Google `.npz` (path or URL), or a hub id.
        revision: branch, tag or commit on the hub.
        image_size: height and width in pixels to use the model at; its position embedding is resized. None is the
            checkpoint's own.
        in_channels: of the images; the stem is adapted. None is the checkpoint's own.
        num_heads: for an `.npz` that does not tell.
        allow: tensors that may be unused and parameters that may be missing; see `report.fit`.

    Raises:
        InputError: nothing there, not supported, or not all leaves accounted for.
    """
    opened = open_checkpoint(
        source, revision=revision, image_size=image_size, in_channels=in_channels, num_heads=num_heads
    )
    initialise = _initialiser(opened.info)
    template = flax.traverse_util.flatten_dict(jax.eval_shape(initialise), sep="/")
    params, report = fit(opened.found, template, source=opened.source, antialias=opened.antialias, allow=allow)
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
    """Reads a checkpoint; the arguments are those of `load`, and the sizes change its preprocessing alone."""
    files = files_.open_source(source, revision=revision)
    size = None if image_size is None else pair(image_size, "image_size")
    description = families.describe(files, num_heads=num_heads, image_size=size)
    info = {
        "model": description.model,
        "task": None if description.task is None else {"name": "classification", "options": description.task},
        "class_names": list(description.class_names),
        "preprocessing": dataclasses.asdict(adapted(description.preprocessing, size, in_channels)),
        "version": __version__,
    }
    template = flax.traverse_util.flatten_dict(jax.eval_shape(_initialiser(info)), sep="/")
    buffers = tuple(name for name in files.tensors if any(re.fullmatch(each, name) for each in description.buffers))
    found = Found(
        arrays=names.read(description.names, files.tensors, template),
        tensors={row.param: row.tensor for row in description.names},
        names=[name for name in files.tensors if name not in buffers],
        buffers=buffers,
    )
    return Opened(files.name, info, found, description.antialias)


def _initialiser(info: dict[str, Any]) -> Callable[[], Params]:
    """A function that makes new parameters of the model; a bare encoder's come under `encoder`."""
    model = families.create_encoder(**info["model"])
    if info["task"] is not None:
        model = Classification(len(info["class_names"]), **info["task"]["options"]).wrap(model)
    preprocessing = info["preprocessing"]
    images = np.zeros((1, *preprocessing["image_size"], preprocessing["channels"]), np.float32)

    def initialise() -> Params:
        params = model.init(jax.random.key(0), images, train=False)["params"]
        return {"encoder": params} if info["task"] is None else params

    return initialise


def adapted(preprocessing: Preprocessing, image_size: tuple[int, int] | None, channels: int | None) -> Preprocessing:
    """The same for another size or number of channels where one is given."""
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
    return dataclasses.replace(preprocessing, **changes)
