"""From a model of this library to another library's files."""

import dataclasses
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.info import Info, fields_of
from vit_jax.pretrained import libraries
from vit_jax.pretrained.export import ALLOWED_DIFFERENCES, ExportModel, Unsupported
from vit_jax.pretrained.libraries import LibraryFile
from vit_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Export:
    """A model that can be written, and the `Library` that writes it."""

    model: ExportModel
    library: Any

    def write(self, destination: pathlib.Path) -> str:
        """Write the model; gives what it is called in that library. See `Library.write`."""
        return self.library.write(self.model, destination)


def prepare(info: Info, params: Params, *, to: str, allow: Sequence[str] = ()) -> Export:
    """Check that a format can express a model.

    Args:
        info: what the model's checkpoint says of itself.
        params: nested float32 arrays, of the encoder alone if there is no task.
        to: name of a format.
        allow: settings of ALLOWED_DIFFERENCES that may differ in the file.

    Warns:
        UserWarning: something around the model that the format has no place for.

    Raises:
        InputError: the format cannot express the model.
    """
    files, model = _writers(info, to), _export_model(info, params)
    found = {file: _problems(file, model, allow) for file in files[to]}
    best = min(found, key=lambda file: len(found[file]))
    if found[best]:
        others = [name for name in files if name != to and any(not _problems(each, model) for each in files[name])]
        raise InputError(_refusal(to, found[best], others))
    if model.encoder.dtype != "float32":
        warnings.warn(f"{to} computes in float32, the model here in {model.encoder.dtype}", stacklevel=3)
    for line in best.library.warnings(model) if hasattr(best.library, "warnings") else ():
        warnings.warn(line, stacklevel=3)
    return Export(model, best.library)


def check_format(info: Info, to: str) -> None:
    """Check that a format has the model's family and task.

    Raises:
        InputError: it does not.
    """
    _writers(info, to)


def _writers(info: Info, to: str) -> dict[str, list[LibraryFile]]:
    family, task = info["model"]["name"], info["task"] and info["task"]["name"]
    writers = libraries.writers(family, task)
    if to not in writers:
        culprit, value = ("task", task) if to in libraries.writers(family, None) else ("model", family)
        valid = ", ".join([*writers, "workdir"])
        raise InputError(f"{culprit} {value!r} is not written in the format {to}; valid: {valid}")
    return writers


def _export_model(info: Info, params: Params) -> ExportModel:
    task, fields = info["task"], fields_of(info)
    flat = flax.traverse_util.flatten_dict({"encoder": params} if task is None else params, sep="/")
    return ExportModel(
        encoder=libraries.create_encoder(**info["model"]),
        task=None if task is None else libraries.create_task(task["name"], fields, task["options"]),
        fields=fields,
        preprocessing=Preprocessing(**info["preprocessing"]),
        params={path: np.asarray(array, np.float32) for path, array in flat.items()},
    )


def _problems(file: LibraryFile, model: ExportModel, allow: Sequence[str] = ()) -> list[Unsupported]:
    return [each for each in file.library.unsupported(model) if each.option not in allow]


def _refusal(to: str, problems: list[Unsupported], others: list[str]) -> str:
    what, valid = ", ".join(map(str, problems)), ", ".join([*others, "workdir"])
    message = f"{to} cannot express {what}; formats that can: {valid}"
    options = [problem.option for problem in problems]
    if set(options) <= set(ALLOWED_DIFFERENCES):
        message += f"; to write it all the same, with other answers there, allow {', '.join(options)}"
    return message
