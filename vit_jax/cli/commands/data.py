"""Prepares datasets in the form that training reads, says what is in them, and draws their images."""

import argparse
import dataclasses
import os
import pathlib
from typing import Any

from vit_jax.system import terminal

EXAMPLES = """examples:
  vit-jax data prepare cifar10 --from ~/Downloads/cifar-10-python.tar.gz
  vit-jax data prepare mnist --from ~/mnist                the four idx files, with or without .gz
  vit-jax data prepare imagenet2012 --from /data/ilsvrc    the folder with the two tar files
  vit-jax data prepare pets --from ~/pets                  a folder of images, under a name of your own
  vit-jax data prepare pets --from ~/Downloads/pets.zip    the same, packed
  vit-jax data info cifar10
  vit-jax data info ./pets --labels labels.csv --check     a folder of images, before it is trained on
  vit-jax data show cifar10 --split train --out grid.png --config configs/digits.py

`vit-jax data ACTION --help` says more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's actions and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare = actions.add_parser("prepare", help="write a dataset where training finds it by its name")
    prepare.add_argument("name", metavar="NAME", help="cifar10, mnist, imagenet2012 ..., or any for a folder of images")
    prepare.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="what you have: the dataset's archive or its folder, a folder of images or a tar or zip of one, or the "
        "folder of a TFDS dataset in TFRecord; without it TFDS downloads the dataset, for which it needs TensorFlow",
    )
    prepare.add_argument(
        "--eval-fraction",
        type=float,
        default=0.2,
        metavar="F",
        help="of a folder of images without splits under a new name: share of each class that becomes the split test "
        "(default 0.2, as in training from the folder; 0: none)",
    )
    prepare.add_argument(
        "--max-image-pixels", type=int, metavar="N", help="refuse larger images, height times width (default 178956970)"
    )
    info = actions.add_parser("info", help="print splits, counts, fields, classes and size")
    info.add_argument(
        "name", metavar="NAME", help="a prepared dataset, digits or digit_scenes; or a folder of images, ./pets"
    )
    info.add_argument("--labels", metavar="CSV", help="of a folder: the file of its labels, as data.labels")
    info.add_argument("--image-column", metavar="NAME", help="as data.image_column")
    info.add_argument("--label-columns", metavar="NAMES", default="", help="as data.label_columns, separated by commas")
    info.add_argument("--label-separator", metavar="TEXT", help="as data.label_separator")
    info.add_argument("--several-labels", action="store_true", help="as data.several_labels")
    info.add_argument("--split-column", metavar="NAME", default="split", help="as data.split_column (default split)")
    info.add_argument(
        "--check", action="store_true", help="of a folder: check first what training checks, and decode every image"
    )
    info.add_argument("--json", action="store_true", help="one JSON object, with all class names")
    show = actions.add_parser("show", help="draw some images with their labels, boxes and masks")
    show.add_argument("name", metavar="NAME", help="a prepared dataset, digits or digit_scenes")
    show.add_argument("--split", default="train", help="which split (default train)")
    show.add_argument("--out", required=True, metavar="PNG", help="the picture to write")
    show.add_argument(
        "--augment",
        metavar="NAME",
        default=None,
        help="what is done to them: crop (random resized crop; default), none, or one of data.augment that changes "
        "single images, which comes after crop",
    )
    show.add_argument("--config", metavar="NAME", help="as for `vit-jax train`: draw what this config trains on")
    show.add_argument("--count", type=int, default=32, metavar="N", help="how many images (default 32)")
    show.add_argument("--seed", type=int, default=0, help="which images, and which augmentation (default 0)")
    for action in (prepare, info, show):
        action.add_argument(
            "--data-dir", metavar="DIR", help="TFDS's folder; default $TFDS_DATA_DIR, or ~/tensorflow_datasets"
        )


def run(args: argparse.Namespace) -> int:
    """Run the action; gives the exit status."""
    if args.action == "show":
        from vit_jax.cli import data_show

        return data_show.run(args)
    return {"prepare": _prepare, "info": _info}[args.action](args)


def _prepare(args: argparse.Namespace) -> int:
    if args.source is None:
        from vit_jax.data.prepare.download import download

        folder = download(args.name, args.data_dir)
    else:
        from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, Reading
        from vit_jax.data.prepare.prepare import prepare

        limit = Reading(MAX_IMAGE_PIXELS if args.max_image_pixels is None else args.max_image_pixels).max_pixels
        folder = prepare(args.name, args.source, args.data_dir, eval_fraction=args.eval_fraction, max_pixels=limit)
    from vit_jax.data.sources import tfds as sources

    splits = sources.open_builder(args.name, args.data_dir).info.splits.values()
    counts = ", ".join(f"{split.name} {split.num_examples:,}" for split in splits)
    terminal.say(f"{folder}: {counts} examples; use it with --config.data.name={args.name}")
    return 0


def _info(args: argparse.Namespace) -> int:
    answer = _folder_answer(args) if os.sep in args.name or args.name in (".", "..") else _tfds_answer(args)
    asked_for = answer["only_if_asked_for"]
    if args.json:
        terminal.say_json(answer | {"fields": {name: dataclasses.asdict(x) for name, x in answer["fields"].items()}})
        return 0
    for key in ("name", "folder", "format"):
        terminal.say(f"{key:<10}{answer[key]}")
    terminal.say(f"{'size':<10}{answer['bytes'] / 2**20:,.1f} MiB")
    lines = {"splits": {name: f"{count:,}" for name, count in answer["splits"].items()}}
    lines["fields"] = {name: _described(field, name in asked_for) for name, field in answer["fields"].items()}
    for key, texts in lines.items():
        for i, (name, text) in enumerate(texts.items()):
            terminal.say(f"{key if i == 0 else '':<10}{name:<16}{text}")
    return 0


def _folder_answer(args: argparse.Namespace) -> dict[str, Any]:
    from vit_jax.data.sources.folder import open_folder
    from vit_jax.data.sources.label_file import LabelFile

    labels = None
    if args.labels is not None:
        columns = tuple(filter(None, args.label_columns.split(",")))
        labels = LabelFile(
            args.labels, args.image_column, columns, args.label_separator, args.several_labels, args.split_column
        )
    images = open_folder(args.name, labels=labels, training=args.check)
    if args.check:
        images.source("all")
    paths = [pathlib.Path(files.root, path) for files in images.splits.values() for path in files.paths]
    return {
        "name": args.name,
        "folder": str(pathlib.Path(args.name).expanduser().absolute()),
        "format": "folder of images",
        "bytes": sum(path.stat().st_size for path in paths),
        "splits": {split: len(files) for split, files in images.splits.items()},
        "fields": images.fields,
        "only_if_asked_for": [],
    }


def _tfds_answer(args: argparse.Namespace) -> dict[str, Any]:
    from vit_jax.data.sources import tfds as sources
    from vit_jax.data.sources.features import is_default

    builder = sources.open_builder(args.name, args.data_dir)
    info = builder.info
    fields = sources.all_fields(args.name, info.features)
    asked_for = [name for name, field in fields.items() if not is_default(name, field)]
    return {
        "name": info.full_name,
        "folder": str(builder.data_dir),
        "format": info.file_format.value,
        "bytes": sum(file.stat().st_size for file in pathlib.Path(builder.data_dir).iterdir()),
        "splits": {split.name: split.num_examples for split in info.splits.values()},
        "fields": fields,
        "only_if_asked_for": asked_for,
    }


def _described(field: Any, asked_for: bool) -> str:
    """`boxes [any, 5] float32, 80 classes: person, bicycle, ...`."""
    shape = ", ".join("any" if size is None else str(size) for size in field.shape)
    text = f"{field.kind} [{shape}] {field.dtype}"
    if field.names:
        more = f", and {len(field.names) - 10:,} more" if len(field.names) > 10 else ""
        text += f", {len(field.names):,} classes: {', '.join(field.names[:10])}{more}"
    if field.ignore:
        text += f"; {', '.join(str(value) for value in field.ignore)} is ignored"
    return text + (" (only if data.fields names it)" if asked_for else "")
