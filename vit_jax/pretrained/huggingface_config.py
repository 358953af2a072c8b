"""What config.json of Hugging Face transformers says for every family.

Source: transformers 5's configuration_utils.py.
"""

from typing import Any

from vit_jax.errors import InputError
from vit_jax.options import short
from vit_jax.pretrained.description import classification, shape_of
from vit_jax.pretrained.export import ExportModel
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name

HEAD = (Name("head/kernel", "classifier.weight", "linear"), Name("head/bias", "classifier.bias"))
"""Of most classifiers."""
GELU = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}
"""hidden_act -> ours; the first of each kind is the one that is written."""
HIDDEN_ACT = {ours: theirs for theirs, ours in reversed(GELU.items())}
_SEVERAL = "multi_label_classification"
_PROBLEMS = ("single_label_classification", _SEVERAL)
"""Values of problem_type; without one it is the first."""


def read_head(files: Files, head: tuple[Name, ...], **options: Any) -> dict[str, Any]:
    """Return `task` and `fields` of a `Description`; nothing without a head.

    Args:
        files: the checkpoint.
        head: the rows of the head's parameters, its kernel first; empty without a head.
        **options: of the classification, besides its loss.
    """
    if not head:
        return {}
    assert files.config is not None, files.name
    names, problem = _class_names(files, head), files.config.get("problem_type")
    if problem not in (None, *_PROBLEMS):
        raise InputError(f"{files.name}: problem_type {short(problem)} is not supported; valid: {', '.join(_PROBLEMS)}")
    if problem == _SEVERAL:
        options["loss_type"] = "sigmoid"
    return classification(names, **options)


def _class_names(files: Files, head: tuple[Name, ...]) -> tuple[str, ...]:
    """Read the names in config.json, or transformers' own for numbers; as many as the head has.

    Args:
        files: the checkpoint.
        head: the rows of the head's parameters, its kernel first; empty without a head.
    """
    assert files.config is not None, files.name
    labels = {int(number): str(label) for number, label in (files.config.get("id2label") or {}).items()}
    count = shape_of(files, head[0].tensor, 2)[0] if head[0].tensor in files.tensors else len(labels)
    if labels and sorted(labels) != list(range(count)):
        raise InputError(f"{files.name}: id2label has {len(labels)} names, but {head[0].tensor} has {count} classes")
    return tuple(labels.get(number, f"LABEL_{number}") for number in range(count))


def head_config(model: ExportModel) -> dict[str, Any]:
    """Return what config.json says of the head."""
    if model.task is None:
        return {}
    config: dict[str, Any] = {
        "id2label": {str(label): name for label, name in enumerate(model.class_names)},
        "label2id": {name: label for label, name in enumerate(model.class_names)},
    }
    return config | ({"problem_type": "multi_label_classification"} if model.task.loss_type == "sigmoid" else {})


def side_or_sides(size: tuple[int, int]) -> int | list[int]:
    """Return one number for a square."""
    return size[0] if size[0] == size[1] else list(size)
