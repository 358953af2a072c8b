"""Times the real train step, or the evaluation step, of a model on made-up images, on all devices of this machine.

MFU is the share of the devices' peak that the formula's FLOPs take: those of the model's matrix products alone, three
times as many in training as in inference, however they are computed.
"""

import argparse
import dataclasses
from typing import Any

from vit_jax.cli import values
from vit_jax.system import terminal

EXAMPLES = """examples:
  vit-jax benchmark --variant S/16 --batch-size 16
  vit-jax benchmark --variant B/16 --batch-size 256 --dtype bfloat16 --infer --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--model", default="vit", help="a family; default vit")
    parser.add_argument("--variant", required=True, help="B/16")
    parser.add_argument("--batch-size", type=int, required=True, metavar="N", help="images a step, over all devices")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--train", action="store_true", help="the train step with AdamW (default)")
    mode.add_argument("--infer", action="store_true", help="the evaluation step")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    parser.add_argument(
        "--image-size", type=values.image_size, default="224", metavar="H,W", help="pixels; default 224"
    )
    parser.add_argument("--attention", metavar="A", help="auto, xla or cudnn; auto where a family has the choice")
    parser.add_argument("--pooling", metavar="P", help="token, gap or map, where it is not the family's default")
    parser.add_argument("--strategy", default="pmap", help="as config.parallel.strategy; default pmap")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="in each timed window; default 10")
    parser.add_argument("--windows", type=int, default=5, metavar="N", help="whose median counts; default 5")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    from vit_jax.errors import InputError

    for name in ("batch_size", "steps", "windows"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; valid: 1 or more")
    result = _measure(args)
    if args.json:
        terminal.say_json(result, indent=2)
        return 0
    width = max(len(key) for key in result)
    for key, value in result.items():
        terminal.say(f"{key:<{width}}  {f'{value:,.4g}' if isinstance(value, float) else value}")
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from vit_jax.build import plugins
    from vit_jax.parallel import strategy as parallel
    from vit_jax.planning import flops, hardware, throughput
    from vit_jax.types import class_fields

    size = args.image_size
    strategy = parallel.create(args.strategy)
    parallel.check_batch_size(args.batch_size, strategy)
    chosen = {"attention": args.attention, "pooling": args.pooling}  # which not every family has
    options = {"dtype": args.dtype} | {name: value for name, value in chosen.items() if value}
    encoder: Any = plugins.create_encoder(args.model, args.variant, **options)
    task = plugins.create_task("classification", class_fields([str(label) for label in range(1000)]))
    model = task.wrap(encoder)
    image = jnp.zeros((1, *size, 3))
    variables: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    forward = flops.classifier_flops(encoder, variables["params"], (*size, 3))
    train = not args.infer
    speed = throughput.measure(
        model,
        task,
        image_size=size,
        batch_size=args.batch_size,
        train=train,
        strategy=strategy,
        steps=args.steps,
        windows=args.windows,
        say=terminal.note,
    )
    of_a_step = None if forward is None else float(forward * args.batch_size * (3 if train else 1))
    peak = hardware.peak_of(jax.devices())
    device = jax.devices()[0]
    return {
        "model": f"{args.model} {args.variant}",
        "mode": "train" if train else "infer",
        "device": f"{strategy.num_devices} x {device.device_kind} ({device.platform}), JAX {jax.__version__}",
        "strategy": args.strategy,
        "batch_size": args.batch_size,
        "image_size": list(size),
        **options,
        "attention": getattr(encoder, "attention", None),
        **dataclasses.asdict(speed),
        "formula_flops": of_a_step,
        "mfu": of_a_step / speed.step_seconds / peak.flops if of_a_step and peak else None,
        "peak_flops": peak.flops if peak else None,
        "peak_origin": peak.origin if peak else f"unknown for {device.device_kind}, so no MFU",
    }
