"""Finds the config files that travel with the library: those of the clone, or those of the installed package."""

import difflib
import pathlib

from vit_jax.errors import InputError
from vit_jax.system.paths import expanded

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_NO_EXPERIMENTS = ("__init__", "common")


def home() -> pathlib.Path:
    """Return the folder that holds `train.py` and `configs/`.

    That is the clone's root where the package lies in a clone, and else a folder of the package, which the wheel fills.

    Example:
        >>> (home() / "configs" / "common.py").is_file()
        True
    """
    clone = _PACKAGE.parent
    in_clone = (clone / "train.py").is_file() and (clone / "configs" / "common.py").is_file()
    return clone if in_clone else _PACKAGE / "shipped"


def config_names() -> list[str]:
    """List the experiments in `home()`, by the names of their files.

    Example:
        >>> "digits" in config_names()
        True
    """
    files = sorted((home() / "configs").glob("*.py"))
    return [file.stem for file in files if file.stem not in _NO_EXPERIMENTS]


def split_argument(name: str) -> tuple[pathlib.Path, list[str]]:
    """Find the file of a config, and the argument of its `get_config` if there is one.

    Args:
        name: what `find_config` takes, or that and `:argument`.

    Raises:
        InputError: there is no such config, or the path of its file has a colon.

    Example:
        >>> file, argument = split_argument("digits_families:swin")
        >>> file.name, argument
        ('digits_families.py', ['swin'])
    """
    path, *argument = name.split(":", 1)  # as ml_collections does it
    ends = [i for i, letter in enumerate(name) if letter == ":"][1:]
    for whole in [name[:end] for end in [*ends, len(name)]] if argument else []:
        if expanded(whole).is_file():
            raise InputError(f"config {whole} has a colon in its path, where an argument would start; valid: none")
    file = find_config(path)
    if ":" in str(file):  # of the folder that the library is in
        raise InputError(f"config {file} has a colon in its path, where an argument would start; valid: none")
    return file, argument


def find_config(name: str) -> pathlib.Path:
    """Find the file of a config, from any folder.

    Args:
        name: path of a Python file, or `digits`, `digits.py` or `configs/digits.py` for one that travels with the
            library. A file that exists comes first. It has no `:argument`.

    Raises:
        InputError: there is no such config; all are named.

    Example:
        >>> find_config("digits").name
        'digits.py'
    """
    path = expanded(name)
    known = config_names()
    stem = name.removeprefix("configs/").removesuffix(".py")
    is_common = path.is_file() and path.resolve() == home() / "configs" / "common.py"
    if name and path.suffix == ".py" and path.is_file() and not is_common:
        return path
    if stem in known:
        return home() / "configs" / f"{stem}.py"
    if is_common or stem == "common":
        raise InputError(f"configs/common.py is what configs start from, none itself; valid: {', '.join(known)}")
    near = difflib.get_close_matches(stem, known, n=1)
    nearest = f"nearest: {near[0]}; " if near else ""
    what = "is no Python file" if name and path.exists() else "does not exist"
    raise InputError(f"config {name or repr(name)} {what}; {nearest}valid: a Python file, {', '.join(known)}")
