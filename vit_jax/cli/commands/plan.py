"""Compiles the real train step of a config, and says what it needs and how fast it can be at best.

Nothing is run, and the devices need not be there: `--topology` names TPUs, for which only libtpu has to be installed.
Without it the plan is for the devices of this machine. The dataset need not be there either, if TFDS knows its classes
or --num-classes says how many there are.
"""

import argparse
import dataclasses
from typing import Any

from vit_jax.system import terminal

EXAMPLES = """examples:
  vit-jax plan --config=configs/digits.py
  vit-jax plan --config=configs/imagenet_vit_l16.py --topology v5e:16x16
  vit-jax plan --config=configs/imagenet_vit_l16.py --topology v5e:16x16 --max-compilations=1 \\
      --config.model.options.scan=true
  vit-jax plan --config=configs/imagenet_vit_l16.py --topology v5p:4x4x4 --config.batch_size=8192 \\
      --config.parallel.strategy=mesh --config.parallel.fsdp=16"""

UNREAD_EXAMPLES = 10**7
"""Number of examples that a dataset that is not there is taken to have; only the schedule's length depends on it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--config", required=True, metavar="NAME", help="as for `vit-jax train`; so is --config.KEY=VALUE"
    )
    parser.add_argument("--topology", metavar="KIND:SIDES", help="v5e:16x16, v4:4x4x4, v5p:4x4x4, v6e:8x8")
    parser.add_argument("--num-classes", type=int, metavar="N", help="of a dataset that is not on this machine")
    parser.add_argument("--max-compilations", type=int, default=8, metavar="N", help="1: no search; default 8")
    parser.add_argument("--json", action="store_true", help="print JSON")


takes_rest = True
"""Flags that are not declared here go to the config."""


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    from vit_jax.cli import plan_text
    from vit_jax.errors import InputError

    for name in ("num_classes", "max_compilations"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}; valid: 1 or more")
    result = _plan(args)
    terminal.say_json(result, indent=2) if args.json else terminal.say_lines(plan_text.table(result))
    return 0


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    from vit_jax.parallel import strategy as parallel
    from vit_jax.planning import hardware, plan, topology
    from vit_jax.planning.trial import Trial
    from vit_jax.training.step import check_accumulate_steps

    config = _config(args)
    absent = topology.tpu_devices(args.topology) if args.topology is not None else None
    strategy: Any = parallel.create(**config.parallel, absent=absent)
    parallel.check_batch_size(config.batch_size, strategy)
    check_accumulate_steps(config.accumulate_steps, batch_size=config.batch_size, num_slices=strategy.num_slices)
    devices = absent or jax.devices()
    step, is_read = _step(config, args.num_classes)
    trial = Trial(
        step,
        strategy,
        seed=config.seed,
        accumulate_steps=config.accumulate_steps,
        available=plan.available_memory(devices[0]),
        asks_for_memory=absent is not None,
        say=terminal.note,
    )
    asked = trial.compile(config.batch_size)
    largest = trial.largest(args.max_compilations)
    shown = asked if asked.flops is not None else trial.found.get(largest or 0)
    rates = hardware.rates_of(devices)
    chip = hardware.chip_of(devices[0].device_kind)
    notes = trial.notes(asked, shown, knows_network=rates.network is not None)
    if not is_read:
        notes.append("the dataset was not read: its number of classes is TFDS's, or that of --num-classes")
    return {
        "config": args.config,
        **_described(step),
        "topology": args.topology,
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "published_memory_bytes": chip[1].hbm_bytes if chip else None,
        "available_memory_bytes": trial.available,
        "strategy": dict(config.parallel) | (dict(strategy.mesh.shape) if config.parallel.strategy == "mesh" else {}),
        "batch_size": config.batch_size,
        "batch_size_per_slice": config.batch_size // strategy.num_slices,
        "accumulate_steps": config.accumulate_steps,
        "fits": asked.fits,
        "memory": dataclasses.asdict(asked.memory),
        "room_bytes": None if trial.available is None else trial.available - asked.memory.total,
        "largest_batch_size": largest,
        "tried": [
            {"batch_size": size, "fits": one.fits, "total_bytes": one.memory.total}
            for size, one in sorted(trial.found.items())
        ],
        "work": None if shown is None else trial.work(shown, rates),
        "rates": dataclasses.asdict(rates),
        "notes": notes,
    }


def _config(args: argparse.Namespace) -> Any:
    from vit_jax.cli import configs, flags

    return flags.parse(["vit-jax plan", f"--config={args.config}", *args.rest], root=configs.home())[0]


def _step(config: Any, num_classes: int | None) -> tuple[Any, bool]:
    """Build what a config describes; says whether its dataset was read for it."""
    from vit_jax.build import experiment as build
    from vit_jax.data.sources import tfds as sources
    from vit_jax.data.sources.examples import stand_in
    from vit_jax.errors import InputError
    from vit_jax.types import class_fields

    def with_stand_in(fields: Any) -> Any:
        source = stand_in(config.data.folder or config.data.name or "images", fields, UNREAD_EXAMPLES)
        unread = config.copy_and_resolve_references()
        with unread.unlocked():
            unread.data.folder = None
        return build.step_alone(unread, source)

    if num_classes is not None:
        return with_stand_in(class_fields([str(i) for i in range(num_classes)])), False
    try:
        return build.step_alone(config), True
    except InputError as error:
        known = sources.known_fields(config.data.name) if not config.data.folder and config.data.name else None
        if known is not None:
            return with_stand_in(known), False
        with_stand_in(class_fields(["0", "1"]))  # raises if the dataset is not what is wrong
        raise InputError(f"{error}; a plan without it: --num-classes=N") from None


def _described(step: Any) -> dict[str, Any]:
    """Return what is trained: model, dtype, image_size, num_classes."""
    from vit_jax.info import class_names_of, fields_of
    from vit_jax.types import encoder_of

    model, image = step.info["model"], step.example["image"]
    return {
        "model": f"{model['name']} {model['variant']}",
        "dtype": getattr(encoder_of(step.problem.model), "dtype", None),
        "image_size": list(image.shape[1:]),
        "num_classes": len(class_names_of(fields_of(step.info))),
    }
