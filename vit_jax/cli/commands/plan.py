"""Compiles the real train step of a config, and says what it needs and how fast it can be at best.

Nothing is run, and the devices need not be there: `--topology` names TPUs, for which libtpu alone is needed. Without it
the plan is for the devices of this machine. Neither does the dataset, if TFDS knows its classes or --num-classes does.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import sys
import time
from typing import Any

EXAMPLES = """examples:
  vit-jax plan --config=configs/digits.py
  vit-jax plan --config=configs/imagenet_vit_l16.py --topology v5e:16x16
  vit-jax plan --config=configs/imagenet_vit_l16.py --topology v5e:16x16 --config.model.options.scan=true --max-compilations=1
  vit-jax plan --config=configs/imagenet_vit_l16.py --topology v5p:4x4x4 --config.batch_size=8192 \\
      --config.parallel.strategy=mesh --config.parallel.fsdp=16"""

UNREAD_EXAMPLES = 10**7
"""How many examples a dataset that is not there is taken to have; only the schedule's length comes of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help="as for train.py; so is --config.KEY=VALUE")
    parser.add_argument("--topology", metavar="KIND:SIDES", help="v5e:16x16, v4:4x4x4, v5p:4x4x4, v6e:8x8")
    parser.add_argument("--num-classes", type=int, metavar="N", help="of a dataset that is not on this machine")
    parser.add_argument("--max-compilations", type=int, default=8, metavar="N", help="1: no search; default 8")
    parser.add_argument("--json", action="store_true", help="print JSON")


takes_rest = True
"""What is not declared goes to the config."""


def run(args: argparse.Namespace) -> int:
    """Runs the command; gives its exit status."""
    from vit_jax.cli import plan_text
    from vit_jax.errors import InputError

    for name in ("num_classes", "max_compilations"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}; valid: 1 or more")
    result = _plan(args)
    print(json.dumps(result, indent=2) if args.json else plan_text.table(result))
    return 0


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    from vit_jax.build import experiment as build
    from vit_jax.parallel import strategy as parallel
    from vit_jax.planning import hardware, plan, topology

    config = _config(args)
    absent = topology.tpu_devices(args.topology) if args.topology else None
    strategy: Any = parallel.create(**config.parallel, absent=absent)
    devices = absent or jax.devices()
    step = build.train_step(config, _source(config, args.num_classes))
    trial = _Trial(config, step, strategy, plan.available_memory(devices[0]), asks_for_memory=absent is not None)
    asked = trial.compile(config.batch_size)
    largest = trial.largest(args.max_compilations)
    shown = asked if asked.flops is not None else trial.found.get(largest or 0)
    rates = hardware.rates_of(devices)
    chip = hardware.chip_of(devices[0].device_kind)
    slices = strategy.num_slices
    return {
        "config": args.config,
        "model": f"{step.info['model']['name']} {step.info['model']['variant']}",
        "dtype": config.model.options.dtype,
        "image_size": list(step.example["image"].shape[1:]),
        "num_classes": len(step.info["class_names"]),
        "topology": args.topology,
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "published_memory_bytes": chip[1].hbm_bytes if chip else None,
        "available_memory_bytes": trial.available,
        "strategy": dict(config.parallel) | (dict(strategy.mesh.shape) if config.parallel.strategy == "mesh" else {}),
        "batch_size": config.batch_size,
        "batch_size_per_slice": config.batch_size // slices,
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
        "notes": trial.notes(asked, shown, sends=rates.network is not None),
    }


def _config(args: argparse.Namespace) -> Any:
    from vit_jax.cli import flags

    root = pathlib.Path(args.config.partition(":")[0]).resolve().parent.parent
    if str(root) not in sys.path:  # config files import configs.common
        sys.path.insert(0, str(root))
    return flags.parse(["vit-jax plan", f"--config={args.config}", *args.rest], root=root)[0]


def _source(config: Any, num_classes: int | None) -> Any:
    """The dataset, or as much of one as a train step depends on."""
    from vit_jax.build import experiment as build
    from vit_jax.data.sources import tfds as sources
    from vit_jax.errors import InputError

    name = config.data.folder or config.data.name or "images"
    if num_classes is not None:
        return sources.stand_in(name, [str(i) for i in range(num_classes)], UNREAD_EXAMPLES)
    try:
        return build.train_source(config)
    except InputError as error:
        known = sources.known_classes(config.data.name) if not config.data.folder and config.data.name else None
        if known is None:
            raise InputError(f"{error}; a plan without it: --num-classes=N") from None
        return sources.stand_in(name, known[0], UNREAD_EXAMPLES, multi_label=known[1])


class _Trial:
    """A config's train step, compiled for one batch size after another."""

    def __init__(self, config: Any, step: Any, strategy: Any, available: int | None, *, asks_for_memory: bool) -> None:
        from vit_jax.build import experiment as build
        from vit_jax.parallel import strategy as parallel
        from vit_jax.training.step import check_accumulate_steps

        parallel.check_batch_size(config.batch_size, strategy)
        check_accumulate_steps(config.accumulate_steps, batch_size=config.batch_size, num_slices=strategy.num_slices)
        self.config, self.step, self.strategy = config, step, strategy
        self.available, self.asks_for_memory = available, asks_for_memory
        self.found: dict[int, Any] = {}
        init, self.train_step = build.init_and_train_step(config, step, axis_name=strategy.axis_name)
        self.make_state = functools.partial(init, config.seed, step.example)

    def compile(self, batch_size: int) -> Any:
        """Compiles the step for a batch size, with a line of progress."""
        from vit_jax.planning import plan

        say(f"compiling for batch size {batch_size}")
        start = time.perf_counter()
        one = plan.compile_step(
            self.train_step,
            self.make_state,
            self.step.example,
            batch_size,
            strategy=self.strategy,
            available=self.available,
            asks_for_memory=self.asks_for_memory,
        )
        verdict = {True: "fits", False: "does not fit", None: "whether it fits is unknown"}[one.fits]
        say(f"{verdict}: {one.memory.total / 2**30:.2f} GiB a device ({time.perf_counter() - start:.0f} s)")
        self.found[batch_size] = one
        return one

    def largest(self, max_compilations: int) -> int | None:
        """The largest batch size that is seen to fit within so many compilations in all; None if it is not known."""
        from vit_jax.planning import plan

        available, unit = self.available, self.strategy.num_slices * self.config.accumulate_steps
        if available is None:
            return None

        def room(one: Any) -> tuple[bool, int]:
            return bool(one.fits), available - one.memory.total

        tried = {size // unit: room(one) for size, one in self.found.items()}
        return unit * plan.largest(tried, lambda n: room(self.compile(n * unit)), limit=max_compilations)

    def work(self, one: Any, rates: Any) -> dict[str, Any]:
        """What a device does in a step, and the least time that it takes."""
        from vit_jax.planning import hlo, plan

        sent = sum(each.sent_bytes for each in one.collectives)
        formula = self._formula_flops(one.batch_size)
        bounds = plan.bounds(
            flops=max(one.flops, formula or 0.0),
            memory_bytes=one.memory_bytes,
            sent_bytes=sent,
            rates=rates,
        )
        seconds, longest = max(
            ((bound.seconds, bound.name) for bound in bounds if bound.seconds is not None), default=(None, None)
        )
        return {
            "batch_size": one.batch_size,
            "formula_flops": formula,
            "xla_flops": one.flops,
            "memory_bytes": one.memory_bytes,
            "xla_bytes": one.bytes_accessed,
            "collectives": hlo.summary(one.collectives),
            "sent_bytes": sent,
            "bounds": [dataclasses.asdict(bound) for bound in bounds],
            "bound_by": longest,
            "step_seconds": seconds,
            "images_per_second": one.batch_size / seconds if seconds else None,
        }

    def _formula_flops(self, batch_size: int) -> float | None:
        """A device's share of the model's own count; None where it has none, or where parts are not trained."""
        import jax

        from vit_jax.planning import plan
        from vit_jax.types import encoder_of

        params = self.strategy.abstract_state(self.make_state).params
        _, frozen = self.step.optimizer.split(params)
        if jax.tree.leaves(frozen):
            return None
        shape, teacher = self.step.example["image"].shape[1:], self.step.teacher
        flops = plan.matrix_flops(encoder_of(self.step.model), params, shape)
        taught: int | None = 0
        if teacher is not None:
            shape = (*teacher.preprocessing.image_size, teacher.preprocessing.channels)
            taught = plan.matrix_flops(encoder_of(teacher.model), teacher.shapes(), shape)
        if flops is None or taught is None:
            return None
        return (3 * flops + taught) * batch_size / self.strategy.num_devices

    def notes(self, asked: Any, shown: Any, *, sends: bool) -> list[str]:
        """What has to be known to read the figures; `sends` is whether they have a rate of the network."""
        found = self.strategy.notes(self.strategy.abstract_state(self.make_state).params)
        if self.asks_for_memory and self.config.parallel.strategy == "pmap":
            found.append(
                "jax.pmap does not compile for devices that are not there: this is the same step under jax.shard_map "
                "over a mesh of one axis, which gives each device the same program"
            )
        if self.step.info["num_examples"] == UNREAD_EXAMPLES:
            found.append("the dataset was not read: its number of classes is TFDS's, or that of --num-classes")
        if shown is None:
            found.append("nothing that was tried fits, so that there is no program to count the work of")
            return found
        if shown is not asked:
            found.append(
                f"there is no program for what does not fit: the work is that of batch size {shown.batch_size:,}"
            )
        loops = self.config.accumulate_steps > 1 or self.config.model.options.scan
        if loops:
            found.append(
                "XLA counts what is in a loop (accumulate_steps, model.scan) once: its FLOPs and bytes are too low. "
                "The other figures count it as often as it runs"
            )
        if any(not each.times_known for each in shown.collectives):
            found.append("some collectives are in loops whose length the program does not show; they count once")
        parts = [one.group_size for one in shown.collectives if 1 < one.group_size < self.strategy.num_devices]
        if sends and parts:
            found.append(
                "the network's time takes all links of a chip to send at once; collectives among a part of the devices "
                f"(here {min(parts)} of {self.strategy.num_devices}) may run along one side of the torus, over 2 of 4 "
                "links (v5e, v6e) or of 6 (v4, v5p), and then take 2 or 3 times as long"
            )
        formula = self._formula_flops(shown.batch_size)
        if formula is None:
            found.append("no FLOPs by formula: the model has none, or some parameters are frozen")
        elif not loops and abs(shown.flops / formula - 1) > 0.02:
            found.append(
                f"XLA counts {shown.flops / formula:.2f} times the formula's FLOPs. The formula is the matrix products "
                "of three forward passes (and a teacher's one); XLA counts all arithmetic, also what is computed again "
                "(model.remat), but not what it hands to libraries"
            )
        return found


def say(line: str) -> None:
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)
