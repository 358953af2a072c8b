"""Changes of a config's options on the command line: `--config.task.options.NAME=VALUE` and their kin.

The options of a family, task, augmentation or evaluator are no keys of the config before they are given, so they are
taken out of the arguments here, checked against their owner's fields, and put into the config.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vit_jax.build import plugins
from vit_jax.errors import InputError

OWNERS: dict[str, tuple[str, Callable[[Any], str | None]]] = {
    "model.options": ("model", lambda config: config.model.name),
    "task.options": ("task", lambda config: config.task.name),
}
"""Section -> kind of its owner, and the owner's name in a config."""
COLLECTIONS = {"data.augment": "augmentation", "evaluation.metrics": "metric"}
"""Section that holds several owners by name -> their kind."""
SECTIONS = (*OWNERS, *COLLECTIONS)


@dataclasses.dataclass(frozen=True)
class Change:
    """One change of an option.

    section: of SECTIONS.
    key: what follows it, `label_smoothing` or `mix.mixup_alpha`; empty for the section itself.
    text: the value as it was given.
    """

    section: str
    key: str
    text: str

    @property
    def name(self) -> str:
        """What the user called it."""
        return f"{self.section}.{self.key}" if self.key else self.section


def take(arguments: list[str]) -> tuple[list[str], list[Change]]:
    """Take the changes of options out of a command line.

    Args:
        arguments: with the program's name or without.

    Returns:
        The other arguments, and the changes in their order.

    Raises:
        InputError: a change without a value.

    Example:
        >>> take(["--config.task.options.kind=soft", "--workdir=runs/a"])
        (['--workdir=runs/a'], [Change(section='task.options', key='kind', text='soft')])
    """
    rest, changes = [], []
    waiting = iter(arguments)
    for argument in waiting:
        key, equals, text = argument.partition("=")
        section, key = _split(key)
        if section is None:
            rest.append(argument)
            continue
        if not equals:
            text = next(waiting, None)
            if text is None or text.startswith("--"):
                raise InputError(f"{argument} has no value; valid: {argument}=VALUE")
        changes.append(Change(section, key, text))
    return rest, changes


def apply(config: Any, changes: list[Change]) -> None:
    """Put changes into a config.

    Raises:
        InputError: an unknown option, or a value of another type.
    """
    with config.unlocked():
        for change in changes:
            first, _, last = change.section.partition(".")
            section = config[first][last]
            if change.section in COLLECTIONS:
                _change_collection(section, COLLECTIONS[change.section], change)
            else:
                kind, name_of = OWNERS[change.section]
                _set(section, change.key, _value(kind, name_of(config), change.key, change))


def drop_options_of_others(config: Any, defaults: Any) -> None:
    """Drop the options of a config file's model or task where the command line names another one.

    Args:
        config: with the changes of the command line, but for those of options.
        defaults: as the file gives it.
    """
    with config.unlocked():
        for section, (_, name_of) in OWNERS.items():
            if name_of(config) != name_of(defaults):
                first, _, last = section.partition(".")
                config[first][last] = ConfigDict()


def _split(argument: str) -> tuple[str | None, str]:
    """Split `--config.task.options.kind` into section and key; None for another argument."""
    name = argument.lstrip("-")
    if not argument.startswith("-") or not name.startswith("config."):
        return None, ""
    name = name.removeprefix("config.")
    for section in SECTIONS:
        if name == section and section in COLLECTIONS:
            return section, ""
        if name.startswith(f"{section}."):
            return section, name.removeprefix(f"{section}.")
    return None, ""


def _change_collection(section: Any, kind: str, change: Change) -> None:
    name, _, option = change.key.partition(".")
    if not change.key:  # names, or none
        for key in list(section):
            del section[key]
        for each in filter(None, change.text.split(",") if change.text.lower() != "none" else ()):
            plugins.find(kind, each)
            section[each] = ConfigDict()
        return
    plugins.find(kind, name)
    if not option:
        if change.text.lower() not in ("true", "false"):
            raise InputError(f"{change.name} is {change.text!r}; valid: true, false, or {change.name}.OPTION=VALUE")
        if change.text.lower() == "false":
            if name in section:
                del section[name]
        elif name not in section:
            section[name] = ConfigDict()
        return
    value = _value(kind, name, option, change)
    if name not in section:
        section[name] = ConfigDict()
    _set(section[name], option, value)


def _value(kind: str, name: str | None, option: str, change: Change) -> Any:
    """Read the value by the option's type; one whose owner init.source will tell is checked when that is open."""
    expected = object if name is None else plugins.check_option(kind, name, option)
    return plugins.parsed(change.text, expected, change.name)


def _set(section: Any, key: str, value: Any) -> None:
    if key in section:  # a ConfigDict keeps the type of a key that stays
        del section[key]
    try:
        section[key] = value
    except ValueError as error:  # a key with a dot in it
        raise InputError(f"{key} cannot be {value!r}: {error}; valid: a number for each class") from None
