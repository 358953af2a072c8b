"""From a model to the files of another library."""

import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import to_google, to_huggingface, to_timm
from vit_jax.pretrained.outgoing import MAY_DIFFER, Outgoing, Unheld, outgoing
from vit_jax.types import Params

FORMATS = {"huggingface": to_huggingface, "timm": to_timm, "google": to_google}


def save(path: pathlib.Path, info: dict[str, Any], params: Params, *, to: str, allow: Sequence[str] = ()) -> str:
    """Writes a model in another library's format.

    Args:
        path: an empty folder, or for `google` a file.
        info: what a checkpoint of ours says of itself.
        params: nested float32 arrays.
        to: one of FORMATS.
        allow: of MAY_DIFFER, the settings that may be lost.

    Returns:
        What the model is called there.

    Warns:
        UserWarning: what the format never holds and the model has.

    Raises:
        InputError: the format cannot express the model.
    """
    model = outgoing(info, params)
    problems = [problem for problem in FORMATS[to].unheld(model) if _option(problem) not in allow]
    if problems:
        raise InputError(_refusal(model, to, problems))
    if model.encoder.dtype != "float32":
        warnings.warn(f"{to} computes in float32, the model here in {model.encoder.dtype}", stacklevel=3)
    for line in to_google.lost(model) if to == "google" else ():
        warnings.warn(f"an .npz holds {line}", stacklevel=3)
    return FORMATS[to].write(model, path)


def _refusal(model: Outgoing, to: str, problems: list[Unheld]) -> str:
    others = [name for name, module in FORMATS.items() if name != to and not module.unheld(model)]
    message = f"{to} cannot hold {', '.join(map(str, problems))}; formats that can: {', '.join([*others, 'workdir'])}"
    options = [_option(problem) for problem in problems]
    if set(options) <= set(MAY_DIFFER):
        message += f"; to write it all the same, with other answers there, allow {', '.join(options)}"
    return message


def _option(problem: Unheld) -> str:
    return problem.name.rpartition(".")[2]
