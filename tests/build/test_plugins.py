"""Families, tasks, evaluators and augmentations are found by their files' names, and options by their owners."""

import pathlib
from typing import Any, Literal

import numpy as np
import pytest

import vit_jax
from vit_jax.build import plugins
from vit_jax.errors import InputError
from vit_jax.ops.class_weights import ClassWeights
from vit_jax.types import class_fields

FIELDS = class_fields(["cat", "dog"])


def test_what_has_create_is_found_and_nothing_else(tmp_path, monkeypatch):
    for name, text in {"one": "create = 1\n", "two": "def create():\n    pass\n", "none": "x = 'create = 1'\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    package = type("Package", (), {"__path__": [str(tmp_path)], "__name__": "nowhere"})
    monkeypatch.setitem(plugins.PACKAGES, "thing", package)
    assert plugins.names("thing") == ["one", "two"]
    with pytest.raises(InputError, match=r"^unknown thing 'tow' .did you mean 'two'..; valid: one, two$"):
        plugins.find("thing", "tow")


@pytest.mark.parametrize("kind", plugins.PACKAGES)
def test_options_are_fields_that_the_docstring_explains(kind):
    assert plugins.names(kind)
    for name in plugins.names(kind):
        cls = plugins.options_class(kind, name)
        text = "".join(base.__doc__ or "" for base in cls.__mro__)
        for option in plugins.option_types(kind, name):
            assert f"{option}:" in text or f" {option}, " in text, (name, option)


def test_every_file_of_a_kind_is_found():
    for kind, package in plugins.PACKAGES.items():
        files = {file.stem for file in pathlib.Path(package.__path__[0]).glob("*.py")}
        assert {*plugins.names(kind)} <= files - {"__init__"}
    assert {"classification", "distillation"} <= {*plugins.names("task")}


def test_a_task_is_created_and_described_by_its_options():
    task = plugins.create_task("classification", FIELDS, label_smoothing=0, head_bias=-2.0, loss_type=None)
    assert type(task.label_smoothing) is float and task.loss_type == "softmax"
    assert plugins.describe(task) == {"name": "classification", "options": {"head_bias": -2.0}}
    assert plugins.create_task("classification", FIELDS, **plugins.describe(task)["options"]) == task
    with pytest.raises(InputError, match=r"^unknown task 'clasification' .did you mean 'classification'."):
        plugins.create_task("clasification", FIELDS)
    with pytest.raises(InputError, match=r"^task 'classification' has no option 'heads'; .*valid: loss_type, "):
        plugins.create_task("classification", FIELDS, heads=1)


def test_a_model_is_created_with_a_head_or_without():
    sizes = {"hidden_dim": 8, "depth": 1, "mlp_dim": 8, "num_heads": 2}
    assert plugins.create_model("vit", "Ti/4", num_classes=3, **sizes).num_classes == 3
    assert plugins.create_model("vit", "Ti/4", **sizes) == plugins.create_encoder("vit", "Ti/4", **sizes)
    with pytest.raises(vit_jax.InputError, match=r"^unknown model 'vot' .did you mean 'vit'..; valid: deit, "):
        plugins.create_model("vot", "Ti/4")
    with pytest.raises(InputError, match=r"^model.variant is 3; valid: text, the name of a row of vit's VARIANTS$"):
        plugins.create_model("vit", 3)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("3", int | float, 3),
        ("none", int | None, None),
        ("None", str | None, None),
        ("none", str, "none"),
        ("TRUE", bool, True),
        ("1,2", tuple[int, ...], (1, 2)),
        ("(1, 2)", tuple[int, ...] | None, (1, 2)),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("3", tuple[int, ...], (3,)),
        ("1,2", tuple[float, ...], (1.0, 2.0)),
        ("a", tuple[str, ...], ("a",)),
        ("3", int | tuple[int, int], 3),
        ("gap", Literal["gap", "token"], "gap"),
        ("1e-3", Any, 1e-3),
        ("x", object, "x"),
        ("balanced", ClassWeights, "balanced"),
        ("1, 2.5", ClassWeights, (1.0, 2.5)),
        ("{'cat': 2, 'dog': 0.5}", ClassWeights, {"cat": 2, "dog": 0.5}),
        ("none", ClassWeights, None),
    ],
)
def test_text_is_read_by_type(text, kind, expected):
    value = plugins.parsed(text, kind, "x")
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "kind", "valid"),
    [
        ("1.5", int, "a whole number"),
        ("true", float, "a number"),
        ("x", int | None, "a whole number or none"),
        ("x", tuple[int, ...], "numbers, as in 1,2"),
        ("1,2.5", tuple[int, ...], "numbers, as in 1,2"),
        ("1", bool, "true, false"),
    ],
)
def test_text_of_another_type_is_refused(text, kind, valid):
    with pytest.raises(InputError, match=rf"^a.b is '{text}'; valid: {valid}$"):
        plugins.parsed(text, kind, "a.b")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ([1, 2], tuple[int, ...], (1, 2)),
        (np.float32(0.5), float, 0.5),
        (np.int64(3), int, 3),
        (np.array([1, 2]), tuple[int, ...], (1, 2)),
        (2, float, 2.0),
        (2, float | None, 2.0),
        (2, int | float, 2),
        (True, bool, True),
    ],
)
def test_what_json_and_numpy_have_becomes_plain(value, kind, expected):
    found = plugins.converted(value, kind)
    assert found == expected and type(found) is type(expected)
