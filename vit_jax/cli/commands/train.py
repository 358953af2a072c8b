"""Trains a model by a config. The same command again continues where it stopped.

It runs the loop of train.py, from any folder. --config.KEY=VALUE changes one key of the config; configs/common.py lists
them, and `vit-jax options` those of models, tasks, augmentations and metrics.
"""

import argparse
import importlib.util
import pathlib
from typing import Any

from vit_jax.cli import configs

EXAMPLES = """examples:
  vit-jax train --config=digits
  vit-jax train --config=digits --workdir=runs/slow --config.optimizer.learning_rate=1e-4
  vit-jax train --config=digits --config.task.options.label_smoothing=0.1
  vit-jax train --config=my_config.py"""

takes_rest = True  # changes of the config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--config",
        default="digits",
        metavar="NAME",
        help=f"a Python file, or one of {', '.join(configs.config_names())} (default digits); NAME:ARGUMENT where its "
        "get_config takes one",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="where checkpoints, metrics.jsonl and config.json go; default runs/<config name>",
    )
    several = "of a run in several processes: "
    parser.add_argument("--coordinator", metavar="HOST:PORT", help=f"{several}where process 0 listens")
    parser.add_argument("--num_processes", metavar="N", help=f"{several}their number")
    parser.add_argument("--process_id", metavar="I", help=f"{several}the number of this one, from 0")


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    from vit_jax.cli import flags
    from vit_jax.system import hosts

    root = configs.home()
    given = {name: getattr(args, name) for name in ("workdir", "coordinator", "num_processes", "process_id")}
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    program = ["vit-jax train", f"--config={args.config}", *arguments, *args.rest]
    config, workdir = flags.parse(program, root=root)
    hosts.join("vit-jax train", *flags.processes())
    return _loop(root / "train.py").train(config, workdir)


def _loop(file: pathlib.Path) -> Any:
    """Import train.py by its path, wherever the package lies."""
    spec = importlib.util.spec_from_file_location("train", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
