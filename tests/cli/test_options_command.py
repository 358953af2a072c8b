"""vit-jax options: what there is, and what each option is for."""

import dataclasses
import json
from typing import Literal

import pytest

from vit_jax.build import plugins
from vit_jax.build.option_docs import OptionDoc, describe_options
from vit_jax.cli.main import main

EVERYTHING = [(kind, name) for kind in plugins.PACKAGES for name in plugins.names(kind)]


@dataclasses.dataclass
class Base:
    """Is inherited from.

    size, height: in pixels,
        both of them.
    kind: of the base.
    """

    size: int
    height: int | None = None
    kind: str = "a"


@dataclasses.dataclass
class Derived(Base):
    """Has options of its own.

    Not an entry: because its name has spaces.

    kind: one of:
        `a`: the first.
        `b`: the second.
    sizes: of each stage.
    unknown: is no option.
    """

    fields: dict | None = None
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["x", "y"] = "x"


def test_options_by_hand():
    assert describe_options(Derived) == [
        OptionDoc("size", "int", None, "in pixels, both of them."),
        OptionDoc("height", "int | None", "None", "in pixels, both of them."),
        OptionDoc("kind", "str", "'a'", "one of: `a`: the first. `b`: the second."),
        OptionDoc("sizes", "tuple[int, ...]", "(1, 2)", "of each stage."),
        OptionDoc("mode", "'x' | 'y'", "'x'", ""),
    ]


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_option_has_a_text(kind, name):
    options = describe_options(plugins.options_class(kind, name))
    assert [option.name for option in options if not option.text] == []
    assert [option.name for option in options] == list(plugins.option_types(kind, name))


def test_the_list_has_everything(capsys):
    assert main(["options"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert {line[0] for line in lines} == {name for _, name in EVERYTHING}
    assert main(["options", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["vit"].startswith("The plain Vision Transformer")


def test_one_with_its_flag_types_and_defaults(capsys):
    assert main(["options", "classification"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("task classification: --config.task.options.OPTION=VALUE\n")
    assert "  label_smoothing: float, default 0.0\n      share of the label" in text
    assert main(["options", "vit"]) == 0
    text = capsys.readouterr().out
    assert "  variants: " in text and "B/16" in text and "  depth: int, set by the variant\n" in text
    assert max(map(len, text.splitlines())) <= 120
    assert main(["options", "knn", "--json"]) == 0
    [described] = json.loads(capsys.readouterr().out)
    assert described["flag"] == "--config.evaluation.metrics.knn"
    assert {option["name"] for option in described["options"]} >= {"k", "temperature"}


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["options", "clasification"])
    assert end.value.code == 2
    message = "there is no model, task, augmentation or metric 'clasification'; nearest: 'classification'; valid: "
    assert message in capsys.readouterr().err
