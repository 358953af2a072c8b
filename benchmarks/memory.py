"""Measures what each way of saving memory in training saves and costs; prints the table of docs/memory.md.

python benchmarks/memory.py [--variant S/16] [--batch-size 16] [--image-size 224] [--rounds 3]

One device, synthetic images, the real train step (AdamW). The choices take turns, `--rounds` windows of `--steps` steps
each, and a choice's speed is the median of its windows. Temporary memory is what the compiler plans for activations,
gradients and all else that lives within a step only.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.models import vit
from vit_jax.tasks.classification import Classification
from vit_jax.training import optimizer as optimizers
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step
from vit_jax.types import class_fields

CHOICES = {
    "none": {},
    "`model.options.remat` dots": {"remat": "dots"},
    "`model.options.remat` full": {"remat": "full"},
    "`accumulate_steps` 4": {"accumulate_steps": 4},
    "`model.options.scan`": {"scan": True},
    "`model.options.scan`, `model.options.remat` full": {"scan": True, "remat": "full"},
    "`model.options.dtype` bfloat16": {"dtype": "bfloat16"},
    "`optimizer.moment_dtype` bfloat16": {"moment_dtype": "bfloat16"},
}
MIB = 2**20


def normalised(key, batch, axis_name=None):
    """Prepare a batch without augmentation."""
    return batch | {"image": jnp.asarray(batch["image"], jnp.float32) / 127.5 - 1.0}


class Run:
    """A compiled train step with its state and batch."""

    def __init__(self, args: argparse.Namespace, *, accumulate_steps=1, moment_dtype="float32", **options) -> None:
        """Compile the step and runs it once."""
        task = Classification(class_fields([str(label) for label in range(1000)]))
        optimizer = optimizers.create("adamw", schedule=optax.constant_schedule(1e-3), moment_dtype=moment_dtype)
        problem = Problem(task.wrap(vit.create(args.variant, **options)), task, normalised)
        rng = np.random.default_rng(0)
        self._batch = {
            "image": rng.integers(0, 256, (args.batch_size, args.image_size, args.image_size, 3), np.uint8),
            "label": rng.integers(0, 1000, args.batch_size, np.int32),
            "index": np.arange(args.batch_size, dtype=np.uint32),
        }
        example = {name: value[:1] for name, value in self._batch.items()}
        init = make_init(problem, optimizer, moving_average=False)
        self.state = jax.jit(lambda: init(0, example))()
        train_step = make_train_step(problem, optimizer, accumulate_steps=accumulate_steps)
        started = time.perf_counter()
        self._step = jax.jit(train_step, donate_argnums=0).lower(self.state, self._batch).compile()
        self.compile_seconds = time.perf_counter() - started
        self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes
        self.seconds_a_step(1)

    def seconds_a_step(self, num_steps: int) -> float:
        """Run so many steps."""
        started = time.perf_counter()
        for _ in range(num_steps):
            self.state, _ = self._step(self.state, self._batch)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - started) / num_steps


def stacking_seconds(params) -> float:
    """Return how long it takes to stack the parameters of all blocks, as a scanned model does in each step."""
    blocks = [block for name, block in params["encoder"].items() if name.startswith("block_")]
    stack = jax.jit(lambda blocks: jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        jax.block_until_ready(stack(blocks))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _mib(tree) -> str:
    return f"{sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / MIB:,.0f}"


def main() -> None:
    """Measure and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="in a window")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # else a second run would measure no compiling
    runs = {name: Run(args, **options) for name, options in CHOICES.items()}
    seconds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            seconds[name].append(run.seconds_a_step(args.steps))

    device = jax.devices()[0]
    print(f"ViT-{args.variant} at {args.image_size} px, batch {args.batch_size}, {device.device_kind}\n")
    print("| choice | temporary MiB | parameters MiB | optimizer MiB | images/s | compiling s |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, run in runs.items():
        speed = args.batch_size / statistics.median(seconds[name])
        print(
            f"| {name} | {run.temporary_bytes / MIB:,.0f} | {_mib(run.state.params)} | {_mib(run.state.opt_state)} "
            f"| {speed:,.1f} | {run.compile_seconds:.1f} |"
        )
    stacking, step = stacking_seconds(runs["none"].state.params), statistics.median(seconds["`model.options.scan`"])
    print(f"\nStacking the parameters: {1e3 * stacking:.1f} ms of a step's {1e3 * step:,.0f} ms")


if __name__ == "__main__":
    main()
