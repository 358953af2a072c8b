"""Takes off what wrapping a model puts before the names of all its tensors.

PyTorch's parallel modules put `module.` there, `torch.compile` `_orig_mod.`, and a trainer the name under which it
holds the model, such as `model.`; several may follow one another. Some names of a format begin alike by themselves,
those of transformers' `PvtModel` with `encoder.`, so that only the format tells what is too much.
"""

import dataclasses
from collections.abc import Callable

from vit_jax.errors import InputError
from vit_jax.options import short
from vit_jax.pretrained.description import Description
from vit_jax.pretrained.files import Files

_MOST = 8  # wrappers around one another


def unwrapped(files: Files) -> list[Files]:
    """Return the checkpoint as it is, and with one more of the parts that all tensors' names begin with taken off.

    A part ends at a dot, in an `.npz` at a slash.

    Example:
        >>> import numpy as np
        >>> files = Files("x", {"module.vit.a": np.zeros(1), "module.vit.b": np.zeros(1)}, config={})
        >>> [(each.prefix, list(each.tensors)) for each in unwrapped(files)][1:]
        [('module.', ['vit.a', 'vit.b']), ('module.vit.', ['a', 'b'])]
    """
    end, found = "/" if files.config is None else ".", [files]
    while len(found) <= _MOST:
        names = list(found[-1].tensors)
        first = {name.partition(end)[:2] for name in names}
        if len(first) != 1 or not (part := "".join(first.pop())).endswith(end):
            break
        tensors = {name.removeprefix(part): array for name, array in found[-1].tensors.items()}
        found.append(dataclasses.replace(files, tensors=tensors, prefix=found[-1].prefix + part))
    return found


def describe_unwrapped(files: Files, describe: Callable[[Files], Description]) -> tuple[Files, Description]:
    """Describe a checkpoint under the names of its format, with as few parts taken off as possible.

    Args:
        files: the checkpoint.
        describe: describes it once its names are those of its format.

    Returns:
        The checkpoint with the names of which most are those of the format, and its description.

    Raises:
        InputError: what `describe` raises, or no tensor has a name of the format.
    """
    if not files.tensors:
        raise InputError(f"{files.name} has no tensors")
    found: list[tuple[int, Files, Description]] = []
    error = None
    for each in unwrapped(files):
        try:
            description = describe(each)
        except InputError as problem:
            error = problem  # of the shortest names in the end: longer ones merely lack what the format has
            continue
        found.append((len({row.tensor for row in description.names} & each.tensors.keys()), each, description))
    known, renamed, description = max(found, key=lambda each: each[0], default=(0, files, None))
    if description is not None and known:
        return renamed, description
    if description is None or error is not None:
        raise error or AssertionError("a checkpoint that was neither described nor refused")
    there, wanted = list(files.tensors)[:2], [row.tensor for row in description.names][:2]
    raise InputError(
        f"{files.name} has no tensor of the model: its names are {', '.join(map(short, there))}, ..., and the format's "
        f"{', '.join(map(repr, wanted))}, ..."
    )
