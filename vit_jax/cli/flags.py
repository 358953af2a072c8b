"""The flags of train.py: a config file, changes to it, and the work directory."""

import difflib
import importlib.util
import inspect
import pathlib
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vit_jax.build import plugins
from vit_jax.cli import configs, option_flags
from vit_jax.errors import InputError
from vit_jax.system.paths import expanded
from vit_jax.system.terminal import in_one_line

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file[:argument]; default configs/digits.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run writes; default runs/<config name>[-<argument>].")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Where process 0 of several listens, HOST:PORT.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes make up the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def parse(argv: list[str], *, root: pathlib.Path) -> tuple[ConfigDict, pathlib.Path]:
    """Read the command line.

    Args:
        argv: program and arguments.
        root: the folder that holds `configs/`.

    Returns:
        The locked config with the changes applied, and the work directory.

    Raises:
        InputError: an unknown file, flag or key, or a value of the wrong type.
    """
    name, arguments = _take_config(argv[1:])
    file, argument = configs.split_argument(name)
    if str(root) not in sys.path:  # config files import configs.common
        sys.path.insert(0, str(root))
    _check_file(file, root, *argument)
    arguments, changes = option_flags.take(arguments)
    argv = [argv[0], f"--config={':'.join([str(file), *argument])}", *arguments]
    # config_flags looks at sys.argv itself for the changes.
    before, sys.argv = sys.argv, argv
    names = set(flags.FLAGS)
    try:
        rest = flags.FLAGS(argv)
        config, workdir = _CONFIG.value, _WORKDIR.value
    except flags.Error as error:
        raise InputError(in_one_line(error)) from None
    except (AttributeError, KeyError, ValueError) as error:  # ValueError: of a key that is no path, such as a[b
        raise InputError(_unknown_key(argv, _defaults(file, *argument)) or in_one_line(error)) from None
    except TypeError as error:
        unknown = _unknown_key(argv, _defaults(file, *argument))
        raise InputError(unknown or f"{file}: {in_one_line(error)}") from None
    finally:
        sys.argv = before
        for name in set(flags.FLAGS) - names:  # one a change, which another parse would find taken
            delattr(flags.FLAGS, name)
    option_flags.drop_options_of_others(config, _defaults(file, *argument))
    option_flags.apply(config, changes)
    if rest[1:]:
        raise InputError(f"unexpected argument {rest[1]!r}; valid: --config=FILE, --config.KEY=VALUE, --workdir=DIR")
    if workdir == "":
        raise InputError("--workdir is empty; valid: a folder, or no --workdir for runs/<config name>")
    if workdir and "://" in workdir:
        raise InputError(f"--workdir is {workdir}; valid: a folder on this machine, or on a disk mounted there")
    run = "-".join([file.stem, *argument]).replace("/", "-")
    return config, expanded(workdir or f"runs/{run}")


def processes() -> tuple[str | None, int | None, int | None]:
    """Return what `parse` has read of the run's processes: coordinator, num_processes, process_id; see `hosts.join`."""
    return _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value


def read_config(name: str | pathlib.Path) -> ConfigDict:
    """Read the config of a file as it is.

    Args:
        name: what `configs.split_argument` takes.

    Raises:
        InputError: there is no such file, or it cannot be used.
    """
    file, argument = (name, []) if isinstance(name, pathlib.Path) else configs.split_argument(name)
    root = configs.home()
    if str(root) not in sys.path:  # config files import configs.common
        sys.path.insert(0, str(root))
    if file != root / "configs" / "common.py":
        _check_file(file, root, *argument)
    return _defaults(file, *argument)


def usage(root: pathlib.Path) -> str:
    """Return the help text of train.py."""
    return f"""usage: python train.py [--config=FILE] [--config.KEY=VALUE ...] [--workdir=DIR]
                       [--coordinator=HOST:PORT --num_processes=N --process_id=I]

Trains a model. The same command again continues where it stopped.

  --config=FILE          an experiment ({", ".join(configs.config_names())}); default digits;
                         FILE:ARGUMENT where its get_config takes one
  --config.KEY=VALUE     changes one key; configs/common.py lists them all
  --workdir=DIR          where checkpoints, metrics.jsonl and config.json go; default runs/<config name>
  --coordinator=HOST:PORT --num_processes=N --process_id=I
                         for several hosts, one command on each; TPU pods, SLURM, Open MPI and Kubernetes need
                         none of it: docs/multihost.md

examples:
  python train.py
  python train.py --config=configs/digits.py --workdir=runs/digits --config.optimizer.learning_rate=1e-3
  vit-jax evaluate --model runs/digits
"""


def _take_config(arguments: list[str]) -> tuple[str, list[str]]:
    """Take `--config` out of the arguments; gives its value, `digits` without one, and the others."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            if equals:
                return value, arguments[:i] + arguments[i + 1 :]
            return (arguments[i + 1] if i + 1 < len(arguments) else ""), arguments[:i] + arguments[i + 2 :]
    return "digits", arguments


def _unknown_key(argv: list[str], config: ConfigDict) -> str | None:
    """Return which `--config.KEY` the config does not have, and the nearest that it has."""
    keys = _dotted(config.to_dict())
    for argument in argv[1:]:
        key = argument.lstrip("-").partition("=")[0].partition(" ")[0]
        if key.startswith("noconfig."):
            key = key.removeprefix("no")
        key = key.removeprefix("config.")
        if argument.startswith(("--config.", "-config.", "--noconfig.")) and key not in keys:
            meant = _MEANT.get(key.rpartition(".")[2]) or _as_option(key, config)
            hint = meant or _nearest(key, keys)
            return f"the config has no key {key!r}; {hint + '; ' if hint else ''}configs/common.py lists all"
    return None


def _nearest(key: str, keys: Iterable[str]) -> str | None:
    """Name the key that a user may have meant; None where none is like it."""
    near = difflib.get_close_matches(key, keys, n=1)
    return f"nearest: {near[0]!r}" if near else None


def _as_option(key: str, config: Any) -> str | None:
    """Say where a key is if it is an option of the config's family or task."""
    section, _, option = key.partition(".")
    if section not in ("model", "task") or config[section].name is None:
        return None
    is_option = option in plugins.option_types(section, config[section].name)
    return f"valid: {section}.options.{option}" if is_option else None


_MEANT = {
    "patch_size": "valid: model.variant, whose last part it is, as in 'B/16' or 'Ti/4' "
    "(of pvt: model.options.patch_sizes)",
    "num_classes": "the data says how many classes there are",
    "img_size": "valid: data.image_size",
    "resolution": "valid: data.image_size",
    "lr": "valid: optimizer.learning_rate",
    "epochs": "valid: num_epochs",
    "steps": "valid: num_steps",
    "workdir": "valid: --workdir",
}
"""What keys of other programs are called here."""


def _check_file(file: pathlib.Path, root: pathlib.Path, *argument: str) -> None:
    """Raise InputError for a config file that cannot be run, or whose keys are not those of configs/common.py."""
    try:
        _check_argument(file, *argument)
        config = _defaults(file, *argument)
    except InputError:
        raise
    except Exception as error:  # whatever is wrong with the user's file
        given = f" with argument {argument[0]!r}" if argument else ""
        raise InputError(f"config file {file}{given}{_line_in(file, error)}: {_reason(error)}") from None
    if not isinstance(config, ConfigDict):
        raise InputError(f"config file {file}: get_config() gives a {type(config).__name__}; valid: a ConfigDict")
    free = tuple(f"{section}." for section in ("evaluation.splits", *option_flags.SECTIONS))  # named by their owners
    have = {key for key in _dotted(config.to_dict()) if not key.startswith(free)}
    known = {key for key in _dotted(_defaults(root / "configs" / "common.py").to_dict()) if not key.startswith(free)}
    for key in sorted(have - known):
        hint = _nearest(key, known) or "configs/common.py lists all"
        raise InputError(f"config file {file} sets {key!r}, which is no key; {hint}")
    for key in sorted(known - have):
        raise InputError(f"config file {file} lacks {key!r}; valid: start from configs.common.get_config()")


def _check_argument(file: pathlib.Path, *argument: str) -> None:
    """Raise InputError if the file has no get_config, or one that takes no argument, or more of them."""
    get_config = getattr(_module(file), "get_config", None)
    if get_config is None:
        raise InputError(
            f"config file {file} has no get_config(); valid: one that gives a config, as configs/digits.py"
        )
    try:
        inspect.signature(get_config).bind(*argument)
    except TypeError:
        if argument:
            raise InputError(f"config file {file} takes no argument, {argument[0]!r}; valid: --config={file}") from None
        names = ", ".join(inspect.signature(get_config).parameters)
        raise InputError(f"config file {file} takes an argument, {names}; valid: --config={file}:VALUE") from None


def _line_in(file: pathlib.Path, error: Exception) -> str:
    """Return where in the file an error happened, in words; nothing if nowhere."""
    path = str(file.absolute())  # as importlib has it
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f", line {error.lineno}{'' if error.filename == path else f' of {error.filename}'}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _reason(error: Exception) -> str:
    """Return what is wrong, without the type of an error that a config raises on purpose."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    text = in_one_line(error) or "no reason given"
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def _defaults(file: pathlib.Path, *argument: str) -> ConfigDict:
    """Return what the file's get_config gives, called with the argument if there is one."""
    return _module(file).get_config(*argument)


def _module(file: pathlib.Path) -> Any:
    spec = importlib.util.spec_from_file_location("_config", file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _dotted(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += _dotted(value, f"{prefix}{name}.")
    return keys
