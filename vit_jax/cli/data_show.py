"""`vit-jax data show`: a contact sheet of a dataset."""

import argparse
import pathlib
from typing import Any

import numpy as np


def run(args: argparse.Namespace) -> int:
    """Draws the sheet; gives the exit status."""
    from vit_jax.data.contact_sheet import contact_sheet
    from vit_jax.errors import InputError

    if args.count < 1 or args.seed < 0:
        raise InputError("--count must be 1 or more, and --seed 0 or more")
    out = pathlib.Path(args.out).expanduser()
    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        raise InputError(f"--out is {args.out}; valid: a name that ends in .png, in a folder that is there")
    images, captions = _as_trained_on(args) if args.config else _as_they_are(args)
    new = out.with_name(out.name + ".tmp")
    contact_sheet(images, captions).save(new, format="PNG")
    new.replace(out)
    how = f"as {args.config} trains on them" if args.config else "not augmented; --config FILE shows what it trains on"
    print(f"{out}: {len(images)} images of {args.name} {args.split}, {how}")
    return 0


def _as_they_are(args: argparse.Namespace) -> tuple[list[np.ndarray], list[str]]:
    from vit_jax.data import order, sources
    from vit_jax.data.decoding import decode

    source = sources.open_source(args.name, args.split, args.data_dir)
    positions = np.arange(min(args.count, len(source)))
    examples = [source[record] for record in order.records_at(positions, len(source), seed=args.seed)]
    images = [np.asarray(decode(example["image"], 3)) for example in examples]
    return images, [_caption(np.asarray(example["label"]), source.class_names) for example in examples]


def _as_trained_on(args: argparse.Namespace) -> tuple[list[np.ndarray], list[str]]:
    """The first examples of a run with the config, as the train step makes them of the loader's."""
    import jax

    from vit_jax import build
    from vit_jax.cli import flags
    from vit_jax.data.loader import Share

    config: Any = flags.read_config(pathlib.Path(args.config))
    with config.unlocked():
        config.data.name, config.data.split, config.data.folder = args.name, args.split, None
        config.data.data_dir = args.data_dir or config.data.data_dir
        config.evaluation.splits = {}
    run = build.experiment(config)
    count = min(args.count, len(run.train_loader))
    batch = next(run.train_loader.train_batches(Share(count), seed=args.seed, start_step=0, total_steps=1))
    batch = jax.device_get(run.prepare(jax.random.key(args.seed), batch))
    preprocessing = run.info["preprocessing"]
    pixels = batch["image"] * np.array(preprocessing["std"]) + np.array(preprocessing["mean"])
    images = np.clip(np.round(pixels * 255), 0, 255).astype(np.uint8)
    return list(images), [_caption(label, run.info["class_names"]) for label in batch["label"]]


def _caption(label: np.ndarray, class_names: Any) -> str:
    """The class's name; of several or blended ones the strongest first, with their shares."""
    if label.ndim == 0:
        return class_names[int(label)]
    strongest = [int(number) for number in np.argsort(-label, kind="stable") if label[number] > 0.01][:3]
    if all(label[number] == 1 for number in strongest):
        return ", ".join(class_names[number] for number in strongest)
    return " ".join(f"{class_names[number]} {label[number]:.2f}" for number in strongest)
