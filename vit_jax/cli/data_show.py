"""`vit-jax data show`: a contact sheet of a dataset."""

import argparse
import dataclasses
from typing import Any

import numpy as np

from vit_jax.system import terminal
from vit_jax.system.paths import expanded

_SIZE_PX = 224  # of what is cut out, at most
_LARGE_PX = 300  # of a cell whose boxes or masks have to be seen
_MAX_BOXES = 1000


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Examples as arrays.

    examples: name -> array for each.
    fields: of the examples.
    """

    examples: list[dict[str, Any]]
    fields: Any


def run(args: argparse.Namespace) -> int:
    """Draw the sheet; gives the exit status."""
    from vit_jax.errors import InputError
    from vit_jax.figures.contact_sheet import contact_sheet
    from vit_jax.figures.examples import caption, draw_example
    from vit_jax.system.atomic import writing

    if args.count < 1 or not 0 <= args.seed < 2**63:
        raise InputError("--count must be 1 or more, and --seed 0 or more, below 2**63")
    out = expanded(args.out)
    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        raise InputError(f"--out is {args.out}; valid: a name that ends in .png, in a folder that is there")
    if args.config and args.augment:
        raise InputError("--config has its own augmentation; valid: --config or --augment")
    name = args.augment or "crop"
    policies = _policies()
    if name not in (valid := ("crop", "none", *policies)):
        raise InputError(f"--augment is {name!r}; valid: {', '.join(valid)}")
    drawn = _as_trained_on(args) if args.config else _augmented(args, name)
    images = [draw_example(example, drawn.fields) for example in drawn.examples]
    captions = [caption(example, drawn.fields) for example in drawn.examples]
    images_alone = all(field.kind not in ("boxes", "mask", "instances") for field in drawn.fields.values())
    large = not images_alone or any(image.shape[1] > 1.5 * image.shape[0] for image in images)  # several in a row
    sheet = contact_sheet(images, captions, columns=4 if large else 8, **({"cell_px": _LARGE_PX} if large else {}))
    with writing(out) as part:
        sheet.save(part, format="PNG")
    how = "not augmented" if name == "none" else "cropped at random"
    how += f", then {name}" if name in policies else ""
    how = f"as {args.config} trains on them" if args.config else f"{how}; --config FILE shows what it trains on"
    terminal.say(f"{out}: {len(images)} images of {args.name} {args.split}, {how}")
    return 0


def _policies() -> list[str]:
    """Name of the augmentations of single images."""
    from vit_jax.build import plugins
    from vit_jax.data.augment.stages import HostAugmentation

    names = plugins.names("augmentation")
    return [name for name in names if issubclass(plugins.options_class("augmentation", name), HostAugmentation)]


def _augmented(args: argparse.Namespace, name: str) -> _Drawn:
    """Read the first examples of an epoch: whole, or cropped at random and changed by an augmentation."""
    from vit_jax.build import plugins
    from vit_jax.data.augment.random_crop import RandomCrop
    from vit_jax.data.images.transforms import Preprocessing
    from vit_jax.data.loading import order
    from vit_jax.data.loading.pipeline import Pipeline, bound
    from vit_jax.data.sources import tfds as sources

    source = sources.open_source(args.name, args.split, args.data_dir)
    chosen = [] if name in ("crop", "none") else [plugins.create("augmentation", name)]
    positions = np.arange(min(args.count, len(source)))
    examples, pipeline = [], None
    for position, record in enumerate(order.records_at(positions, len(source), seed=args.seed)):
        height, width = _size(source[record]["image"])
        if name != "none":
            height, width = min(height, _SIZE_PX), min(width, _SIZE_PX)
        preprocessing = Preprocessing((height, width))
        pipeline = Pipeline(
            source, preprocessing, _MAX_BOXES, RandomCrop() if name != "none" else None, bound(chosen, preprocessing)
        )
        examples.append(pipeline.drawn(int(record), order.generator(args.seed, position)))
    return _Drawn(examples, pipeline.fields if pipeline else source.fields)


def _size(image: Any) -> tuple[int, int]:
    """Height and width of an encoded image, or of the frames of an array."""
    from vit_jax.data.images.decoding import Picture

    if isinstance(image, np.ndarray):
        return image.shape[-3], image.shape[-2]
    picture = Picture(image, 3)
    return picture.height, picture.width


def _as_trained_on(args: argparse.Namespace) -> _Drawn:
    """Read the first examples of a run with the config, as the train step makes them of the loader's."""
    import jax

    from vit_jax.build import experiment as build
    from vit_jax.cli import flags
    from vit_jax.data.loading.loader import Share
    from vit_jax.ops.keys import seed_key

    config: Any = flags.read_config(args.config)
    with config.unlocked():
        config.data.name, config.data.split, config.data.folder = args.name, args.split, None
        config.data.data_dir = args.data_dir or config.data.data_dir
        config.evaluation.splits = {}
    run = build.experiment(config)
    count = min(args.count, len(run.train_loader))
    batch = next(run.train_loader.train_batches(Share(count), seed=args.seed, start_step=0, total_steps=1))
    batch = jax.device_get(jax.jit(run.problem.prepare)(seed_key(args.seed), batch))
    fields = {name: field for name, field in run.problem.task.fields.items() if name in batch}
    preprocessing = run.info["preprocessing"]
    for name, field in fields.items():
        if field.kind == "image":
            pixels = batch[name] * np.array(preprocessing["std"]) + np.array(preprocessing["mean"])
            batch[name] = np.clip(np.round(pixels * 255), 0, 255).astype(np.uint8)
    return _Drawn([{name: batch[name][i] for name in fields} for i in range(count)], fields)
