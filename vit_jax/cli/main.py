"""`vit-jax`: finds the subcommand; each is imported only when it runs, so that --help is quick."""

import argparse
import importlib
import sys
from typing import Any

from vit_jax.cli.errors import one_line_errors
from vit_jax.system import malloc, terminal
from vit_jax.version import __version__

COMMANDS = {
    "attention": "draw where a model looks in images",
    "benchmark": "time a model's train step or its inference",
    "convert": "write a model for transformers, timm or Google's code",
    "data": "prepare datasets, say what is in them, draw their images",
    "evaluate": "score a trained model on its dataset",
    "options": "list models, tasks, augmentations and metrics, and the options of each",
    "plan": "say what a run needs of devices, and how fast it can be, before there are any",
    "predict": "tell what a model finds in images",
    "train": "train a model, by a config",
}

EPILOG = """examples:
  vit-jax train --config=digits                    train on handwritten digits, into runs/digits
  vit-jax evaluate --model runs/digits
  vit-jax predict --model runs/digits IMAGE.png

`vit-jax COMMAND --help` says more."""


class Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line, and takes no flag for another whose name it begins."""

    def __init__(self, *args: Any, **options: Any):
        """Take what `argparse.ArgumentParser` takes."""
        super().__init__(*args, allow_abbrev=False, **options)

    def error(self, message: str):
        """End the process with exit status 2."""
        terminal.complain(self.prog, f"{message}; see {self.prog} --help")
        sys.exit(2)


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; gives its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    known = arguments and arguments[0] in COMMANDS
    with one_line_errors(f"vit-jax {arguments[0]}" if known else "vit-jax"):
        name = _command_of(arguments)
        malloc.keep_freed_memory()
        command = importlib.import_module(f"vit_jax.cli.commands.{name}")
        subparser = Parser(
            f"vit-jax {name}",
            description=command.__doc__,
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        args, rest = subparser.parse_known_args(arguments[1:])
        if hasattr(command, "takes_rest"):
            args.rest = rest
        elif rest:
            subparser.error(f"unrecognized arguments: {' '.join(rest)}")
        return command.run(args)
    return 2  # not reached: one_line_errors ends the process


def _command_of(arguments: list[str]) -> str:
    """Read the first word; the rest belongs to the subcommand."""
    parser = Parser(
        "vit-jax",
        description="Vision Transformers in JAX.",
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vit-jax {__version__}")
    listing = "\n".join(f"{name:<10} {help_text}" for name, help_text in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=listing)
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        parser.error(f"unrecognized arguments: {arguments[0]}")
    return parser.parse_args(arguments[:1]).command


if __name__ == "__main__":
    sys.exit(main())
