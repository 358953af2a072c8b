"""Lists the models, tasks, augmentations and metrics that a config can name, or the options of one of them."""

import argparse
import dataclasses
import textwrap
from typing import Any

from vit_jax.system import terminal

EXAMPLES = """examples:
  vit-jax options
  vit-jax options vit
  vit-jax options classification --json"""

_HEADINGS = {"model": "models", "task": "tasks", "augmentation": "augmentations", "metric": "metrics"}
_WIDTH = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model, task, augmentation or metric; without, all")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    if args.name is None:
        everything = _everything()
        terminal.say_json(everything) if args.json else terminal.say_lines(_listing(everything))
        return 0
    described = [_described(kind, args.name) for kind in _kinds_of(args.name)]
    terminal.say_json(described) if args.json else terminal.say_lines("\n\n".join(map(_page, described)))
    return 0


def _everything() -> dict[str, dict[str, str]]:
    """Return heading -> name -> the first sentence of its file."""
    import ast
    import pathlib

    from vit_jax.build import plugins

    found = {}
    for kind, heading in _HEADINGS.items():
        [folder] = plugins.PACKAGES[kind].__path__
        files = {name: pathlib.Path(folder) / f"{name}.py" for name in plugins.names(kind)}
        texts = {name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for name, file in files.items()}
        found[heading] = {name: (text or "").partition("\n\n")[0].replace("\n", " ") for name, text in texts.items()}
    return found


def _kinds_of(name: str) -> list[str]:
    """Return the kinds that have something of this name.

    Raises:
        InputError: there is none; the nearest name is given.
    """
    import difflib

    from vit_jax.build import plugins
    from vit_jax.errors import InputError

    kinds = [kind for kind in _HEADINGS if name in plugins.names(kind)]
    if not kinds:
        valid = [each for kind in _HEADINGS for each in plugins.names(kind)]
        near = difflib.get_close_matches(name, valid, n=1)
        nearest = f"nearest: {near[0]!r}; " if near else ""
        raise InputError(
            f"there is no model, task, augmentation or metric {name!r}; {nearest}valid: {', '.join(valid)}"
        )
    return kinds


def _described(kind: str, name: str) -> dict[str, Any]:
    from vit_jax.build import plugins
    from vit_jax.build.option_docs import describe_options

    several = kind in ("augmentation", "metric")  # sections that hold some by name
    module = plugins.find(kind, name)
    return {
        "kind": kind,
        "name": name,
        "flag": f"--config.{plugins.SECTIONS[kind]}{f'.{name}' if several else ''}",
        "variants": list(getattr(module, "VARIANTS", ())),
        "options": [dataclasses.asdict(option) for option in describe_options(plugins.options_class(kind, name))],
    }


def _listing(everything: dict[str, dict[str, str]]) -> str:
    width = max(len(name) for names in everything.values() for name in names)
    lines = []
    for heading, names in everything.items():
        lines += ["", f"{heading}:", *(f"  {name:<{width}}  {text}" for name, text in names.items())]
    return "\n".join([*lines[1:], "", "`vit-jax options NAME` prints the options of one."])


def _page(described: dict[str, Any]) -> str:
    """Write the options of one part, each with its type, default and text."""
    lines = [f"{described['kind']} {described['name']}: {described['flag']}.OPTION=VALUE"]
    if described["variants"]:
        lines += textwrap.wrap(
            f"variants: {', '.join(described['variants'])}", _WIDTH, initial_indent="  ", subsequent_indent="    "
        )
    if not described["options"]:
        lines.append("  it has no options")
    missing = "set by the variant" if described["variants"] else "required"
    for option in described["options"]:
        default = missing if option["default"] is None else f"default {option['default']}"
        lines.append(f"  {option['name']}: {option['type']}, {default}")
        lines += textwrap.wrap(option["text"], _WIDTH, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
