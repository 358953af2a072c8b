"""What of a model another library's format can hold."""

import warnings
from collections.abc import Sequence
from typing import Any

from vit_jax.errors import InputError
from vit_jax.pretrained import to_google, to_huggingface, to_timm
from vit_jax.pretrained.outgoing import MAY_DIFFER, Outgoing, Unheld, outgoing
from vit_jax.types import Params

FORMATS = {"huggingface": to_huggingface, "timm": to_timm, "google": to_google}


def checked(info: dict[str, Any], params: Params, *, to: str, allow: Sequence[str] = ()) -> Outgoing:
    """Makes sure that a model can be written in another library's format.

    Args:
        info: what a checkpoint of ours says of itself.
        params: nested float32 arrays.
        to: one of FORMATS.
        allow: of MAY_DIFFER, the settings that may be lost.

    Returns:
        What `FORMATS[to].write` takes.

    Warns:
        UserWarning: the model has something that the format never holds.

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
    return model


def _refusal(model: Outgoing, to: str, problems: list[Unheld]) -> str:
    others = [name for name, module in FORMATS.items() if name != to and not module.unheld(model)]
    message = f"{to} cannot hold {', '.join(map(str, problems))}; formats that can: {', '.join([*others, 'workdir'])}"
    options = [_option(problem) for problem in problems]
    if set(options) <= set(MAY_DIFFER):
        message += f"; to write it all the same, with other answers there, allow {', '.join(options)}"
    return message


def _option(problem: Unheld) -> str:
    return problem.name.rpartition(".")[2]
