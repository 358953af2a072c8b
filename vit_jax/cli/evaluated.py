"""What `vit-jax evaluate` evaluates a model on, and which of its classes occurred there."""

import argparse
import pathlib
from typing import Any

import numpy as np

from vit_jax.contracts import Rows, Task
from vit_jax.errors import InputError
from vit_jax.info import class_names_of
from vit_jax.system.paths import expanded
from vit_jax.types import Fields

BATCH_SIZE = 64
"""Images at a time where no config says it."""


def config_of(args: argparse.Namespace) -> Any:
    """Return the config that says on what a model is evaluated: its run's, with the changes that the flags ask for.

    Args:
        args: of the command.

    Returns:
        An unlocked ConfigDict with the keys of configs/common.py and `trained_on_folder`.

    Raises:
        InputError: nothing says on what.
    """
    from ml_collections import ConfigDict

    workdir = expanded(args.model)
    is_run = bool(args.model) and (workdir / "checkpoints").is_dir()
    has_config = is_run and ((workdir / "config.json").is_file() or not (args.data_dir or args.dataset))
    if not args.model or not (has_config or args.data_dir or args.dataset):
        what = "holds no checkpoints of a run" if args.model and workdir.exists() else "does not exist"
        raise InputError(
            f"{args.model or repr('')} {what}; valid: a work directory of train.py, whose config names a dataset, or "
            "any model with --data-dir FOLDER or --dataset NAME"
        )
    config: Any = ConfigDict(_saved(workdir) if has_config else _defaults())
    config.trained_on_folder = has_config and bool(config.data.get("folder"))
    if args.dataset:
        _set_data(config, folder=None, name=args.dataset, data_dir=args.data_dir)
    elif args.data_dir and _is_tfds(args.data_dir, config.data):
        config.data.data_dir = args.data_dir
    elif args.data_dir:
        _set_data(config, folder=args.data_dir, name=None, data_dir=None)
    if args.labels or args.dataset or args.data_dir:
        _set_labels(config.data, args.labels)
    if args.split is not None:
        config.evaluation.splits = ConfigDict({args.split: args.split}, convert_dict=False)
    if args.metrics is not None:
        options = config.evaluation.metrics
        names = filter(None, args.metrics.split(","))
        config.evaluation.metrics = ConfigDict({name: options.get(name, {}) for name in names})
    if args.skip_corrupt:
        config.data.skip_corrupt = True
    return config


def set_fields(section: Any, fields: Fields, args: argparse.Namespace) -> None:
    """Let a config's section `data` open what a model needs of other data than those of its run.

    Args:
        section: changed in place.
        fields: of the model's data.
        args: of the command.
    """
    if args.dataset or (args.data_dir and section.folder is not None):
        has_classes = any(field.names for field in fields.values())
        section.fields = () if has_classes else ("image",)


class ClassesSeen:
    """Which classes of a classifier the examples of each evaluation have."""

    def __init__(self, task: Task) -> None:
        """Take the model's task."""
        labels = [field for field in task.fields.values() if field.kind in ("label", "labels") and field.names]
        self._names = class_names_of(task.fields) if labels and "label" in task.rows else ()
        self._seen: dict[str, np.ndarray] = {}

    @property
    def needs(self) -> list[str]:
        """Rows that it takes."""
        return ["label"] if self._names else []

    def add(self, name: str, rows: Rows) -> None:
        """Take note of a batch of an evaluation."""
        if not self._names:
            return
        labels = rows["label"]
        seen = self._seen.setdefault(name, np.zeros(len(self._names), bool))
        seen |= np.bincount(labels, minlength=len(seen)) > 0 if labels.ndim == 1 else (labels > 0.5).any(axis=0)

    def absent(self, name: str) -> list[str]:
        """Return the names of the classes that no example of an evaluation had."""
        seen = self._seen.get(name, np.zeros(0, bool))
        return [self._names[number] for number in np.flatnonzero(~seen).tolist()]


def _saved(workdir: pathlib.Path) -> dict[str, Any]:
    from vit_jax.cli.saved_config import read_saved_config

    return read_saved_config(workdir / "config.json")


def _defaults() -> dict[str, Any]:
    from vit_jax.cli import configs, flags

    config = flags.read_config(configs.home() / "configs" / "common.py").to_dict()
    config["evaluation"]["batch_size"] = BATCH_SIZE
    config["evaluation"]["splits"] = {}
    config["data"]["name"] = None
    return config


def _set_data(config: Any, **where: str | None) -> None:
    """Name other data, of which all that is held out is evaluated."""
    for key, value in where.items():
        config.data[key] = value
    config.evaluation.splits = type(config)()


_OF_LABELS = ("labels", "image_column", "label_columns", "split_column", "label_separator", "several_labels")
"""Keys that say where a folder's labels are."""


def _set_labels(section: Any, labels: str | None) -> None:
    """Name the file of a folder's labels; that of the run is forgotten where the folder does not have it."""
    if labels is not None:
        section.labels = labels
        return
    theirs = pathlib.Path(section.get("labels") or "/")  # an absolute path is that of the training's own images
    if section.folder is None or theirs.is_absolute() or not (expanded(section.folder) / theirs).is_file():
        defaults = _defaults()["data"]
        with section.ignore_type():
            for key in _OF_LABELS:
                section[key] = defaults[key]


def _is_tfds(folder: str, section: Any) -> bool:
    """Tell whether the dataset that a config names lies, or can be put, in what may be TFDS's folder."""
    if section.get("folder") or not section.get("name"):
        return False
    path = expanded(folder)
    if "://" in folder or not path.is_dir() or not any(path.iterdir()):
        return True
    return any((path / section.name.partition(":")[0]).glob("**/dataset_info.json"))
