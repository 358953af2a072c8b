"""`vit-jax data show`: a contact sheet of a dataset."""

import argparse
import pathlib
from typing import Any

import numpy as np

_SIZE_PX = 224  # of what is cut out, at most


def run(args: argparse.Namespace) -> int:
    """Draws the sheet; gives the exit status."""
    from vit_jax.data.augment import policies
    from vit_jax.errors import InputError
    from vit_jax.figures.contact_sheet import contact_sheet

    if args.count < 1 or args.seed < 0:
        raise InputError("--count must be 1 or more, and --seed 0 or more")
    out = pathlib.Path(args.out).expanduser()
    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        raise InputError(f"--out is {args.out}; valid: a name that ends in .png, in a folder that is there")
    if args.config and args.augment:
        raise InputError("--config has its own augmentation; valid: --config or --augment")
    name = args.augment or "crop"
    if name not in (valid := ("crop", *policies.NAMES)):
        raise InputError(f"--augment is {name!r}; valid: {', '.join(valid)}")
    images, captions = _as_trained_on(args) if args.config else _augmented(args, name)
    new = out.with_name(out.name + ".tmp")
    contact_sheet(images, captions).save(new, format="PNG")
    new.replace(out)
    drawn = "not augmented" if name == "none" else "cropped and flipped at random"
    drawn += f", then {name}" if name not in ("none", "crop") else ""
    how = f"as {args.config} trains on them" if args.config else f"{drawn}; --config FILE shows what it trains on"
    print(f"{out}: {len(images)} images of {args.name} {args.split}, {how}")
    return 0


def _augmented(args: argparse.Namespace, name: str) -> tuple[list[np.ndarray], list[str]]:
    """The first examples of an epoch: whole, or cropped at random, flipped, and changed by a policy of that name."""
    from vit_jax.data.augment import policies
    from vit_jax.data.images.decoding import decode
    from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
    from vit_jax.data.loading import order
    from vit_jax.data.sources import tfds as sources

    chosen = policies.create(
        "none" if name == "crop" else name,
        mean=(0.5, 0.5, 0.5),
        color_jitter=(0.0, 0.0, 0.0, 0.0),
        variant="timm_increasing",
        num_ops=2,
        magnitude=9.0,
        magnitude_std=0.5,
    )
    source = sources.open_source(args.name, args.split, args.data_dir)
    positions = np.arange(min(args.count, len(source)))
    images, captions = [], []
    for position, record in enumerate(order.records_at(positions, len(source), seed=args.seed)):
        example, rng = source[record], order.generator(args.seed, position)
        image = decode(example["image"], 3)
        pixels = np.asarray(image)
        if name != "none":
            size = (min(image.height, _SIZE_PX), min(image.width, _SIZE_PX))
            pixels = RandomResizedCrop(Preprocessing(size))(image, rng)
            pixels = policies.apply(chosen, pixels[:, ::-1] if rng.random() < 0.5 else pixels, rng)
        images.append(pixels)
        captions.append(_caption(np.asarray(example["label"]), source.class_names))
    return images, captions


def _as_trained_on(args: argparse.Namespace) -> tuple[list[np.ndarray], list[str]]:
    """The first examples of a run with the config, as the train step makes them of the loader's."""
    import jax

    from vit_jax.build import experiment as build
    from vit_jax.cli import flags
    from vit_jax.data.loading.loader import Share

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
