"""Reads the values of flags that several commands have; each function is an argparse `type`."""

import pathlib
import re

from vit_jax.errors import InputError
from vit_jax.system.paths import expanded


def step(text: str) -> int | str:
    """Return the number of a step, or the text as it is: `last`, `best`.

    Example:
        >>> step("500"), step("best")
        (500, 'best')
    """
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else text


def out_folder(text: str) -> pathlib.Path:
    """Return the value of `--out`, a folder to write to; `~` is the home folder.

    Raises:
        InputError: it is empty, which would be the folder that the program runs in.
    """
    if not text:
        raise InputError("--out is empty; valid: a folder")
    return expanded(text)


def image_size(text: str) -> tuple[int, int]:
    """Return the value of `--image-size`, height and width, from `224` or `224,320`.

    Raises:
        InputError: anything else.

    Example:
        >>> image_size("224,320")
        (224, 320)
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?:,([1-9][0-9]{0,5}))?", text)
    if match is None:
        raise InputError(f"--image-size is {text!r}; valid: one number, or height and width as in 224,320")
    return int(match[1]), int(match[2] or match[1])
