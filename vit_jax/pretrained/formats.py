"""What of a model another library's format can hold."""

import warnings
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.pretrained import families
from vit_jax.pretrained.outgoing import MAY_DIFFER, Outgoing, Unheld
from vit_jax.tasks.classification import Classification
from vit_jax.types import Params


def checked(info: dict[str, Any], params: Params, *, to: str, allow: Sequence[str] = ()) -> tuple[Outgoing, Any]:
    """Makes sure that a model can be written in another library's format.

    Args:
        info: what a checkpoint of ours says of itself.
        params: nested float32 arrays, of the encoder alone if there is no task.
        to: one of `families.FORMATS`.
        allow: of MAY_DIFFER, the settings that may be lost.

    Returns:
        The model and what writes it.

    Warns:
        UserWarning: the model has something that the format never holds.

    Raises:
        InputError: the format cannot express the model.
    """
    writer, model = writer_of(info, to), _outgoing(info, params)
    problems = [problem for problem in writer.unheld(model) if _option(problem) not in allow]
    if problems:
        writers = families.writers(info["model"]["name"])
        others = [name for name, writer in writers.items() if name != to and not writer.unheld(model)]
        raise InputError(_refusal(to, problems, others))
    if model.encoder.dtype != "float32":
        warnings.warn(f"{to} computes in float32, the model here in {model.encoder.dtype}", stacklevel=3)
    for line in writer.lost(model) if hasattr(writer, "lost") else ():
        warnings.warn(line, stacklevel=3)
    return model, writer


def writer_of(info: dict[str, Any], to: str) -> Any:
    """What writes a model's family in a format.

    Raises:
        InputError: the format does not have the family.
    """
    writers = families.writers(info["model"]["name"])
    if to not in writers:
        valid = ", ".join([*writers, "workdir"])
        raise InputError(f"model {info['model']['name']!r} is not written in the format {to}; valid: {valid}")
    return writers[to]


def _outgoing(info: dict[str, Any], params: Params) -> Outgoing:
    task, names = info["task"], tuple(info["class_names"])
    if task is not None and task["name"] != "classification":
        raise InputError(
            f"task {task['name']!r} is not written in this format; valid: classification, or the format workdir"
        )
    nested = {"encoder": params} if task is None else params
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    return Outgoing(
        encoder=families.create_encoder(info["model"]["name"], info["model"]["variant"], info["model"]["options"]),
        task=None if task is None else Classification(**({"num_classes": len(names)} | task["options"])),
        class_names=names,
        preprocessing=Preprocessing(**info["preprocessing"]),
        params={path: np.asarray(array, np.float32) for path, array in flat.items()},
    )


def _refusal(to: str, problems: list[Unheld], others: list[str]) -> str:
    message = f"{to} cannot hold {', '.join(map(str, problems))}; formats that can: {', '.join([*others, 'workdir'])}"
    options = [_option(problem) for problem in problems]
    if set(options) <= set(MAY_DIFFER):
        message += f"; to write it all the same, with other answers there, allow {', '.join(options)}"
    return message


def _option(problem: Unheld) -> str:
    return problem.name.rpartition(".")[2]
