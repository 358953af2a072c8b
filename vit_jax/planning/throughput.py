"""Times the real train and evaluation steps on made-up images."""

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.contracts import Task
from vit_jax.ops import augment
from vit_jax.parallel.strategy import Strategy
from vit_jax.training import optimizer
from vit_jax.training.evaluation import learned, make_eval_step
from vit_jax.training.problem import Problem
from vit_jax.training.state import make_init
from vit_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Throughput:
    """What `measure` found.

    images_per_second: median of the windows; `slowest` and `fastest` are the least and the greatest of them.
    step_seconds: of the median window.
    first_step_seconds: of the first call, compilation included.
    compile_seconds: of the first call, less a step.
    xla_flops: of a step over the whole batch, as XLA counts the program before it optimises it: all arithmetic.
    peak_memory_bytes: the most that a device has held; on the CPU, the whole process.
    """

    images_per_second: float
    slowest: float
    fastest: float
    step_seconds: float
    first_step_seconds: float
    compile_seconds: float
    xla_flops: float
    peak_memory_bytes: int


def measure(
    model: nn.Module,
    task: Task,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    train: bool,
    strategy: Strategy,
    steps: int,
    windows: int,
    say: Callable[[str], None],
) -> Throughput:
    """Compile a step and times windows of it on one batch that stays on the devices.

    Args:
        model: what the task wrapped.
        task: whose examples are an `image` and a `label`.
        image_size: height and width in pixels; the images have three channels.
        batch_size: examples in a step; a multiple of the number of devices.
        train: times the train step, with AdamW and gradient clipping; False times the evaluation step.
        strategy: spreads the step over devices.
        steps: number of steps in a window.
        windows: number of windows; the steps before the first, at least two, are not timed.
        say: takes lines of progress.
    """
    batch = _batch(batch_size, image_size)
    prepare = augment.make_prepare((0.5,) * 3, (0.5,) * 3)
    adamw = optimizer.create("adamw", schedule=lambda step: jnp.float32(1e-4), weight_decay=0.1, clip_norm=1.0)
    problem = Problem(model, task, prepare)
    init = make_init(problem, adamw, moving_average=False)
    example = jax.tree.map(lambda x: x[:1], batch)
    say("making the parameters")
    state = jax.jit(lambda: init(0, example))()

    def make(axis_name):
        if train:
            return make_train_step(problem, adamw, axis_name=axis_name)
        return make_eval_step(problem, axis_name=axis_name)

    start: Any = state if train else learned(state)
    cost: Any = jax.jit(make(None)).lower(start, batch).cost_analysis()
    step = (strategy.compile_train_step if train else strategy.compile_eval_step)(make(strategy.axis_name))
    placed, batch = strategy.place_state(jax.device_get(start)), strategy.place_batch(batch)
    del state, start

    def run(count: int) -> float:
        nonlocal placed
        begin, result = time.perf_counter(), None
        for _ in range(count):
            result = step(placed, batch)
            if train:
                placed = result[0]
        jax.block_until_ready(result)
        return time.perf_counter() - begin

    say("compiling the step")
    first = run(1)
    say(f"first step after {first:.1f} s, compilation included; timing {windows} windows of {steps} steps")
    run(2)
    seconds = sorted(run(steps) / steps for _ in range(windows))
    median = statistics.median(seconds)
    return Throughput(
        images_per_second=batch_size / median,
        slowest=batch_size / seconds[-1],
        fastest=batch_size / seconds[0],
        step_seconds=median,
        first_step_seconds=first,
        compile_seconds=max(first - median, 0.0),
        xla_flops=float(cost["flops"]),
        peak_memory_bytes=_peak_memory(),
    )


def _batch(size: int, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, *image_size, 3), np.uint8),
        "label": rng.integers(0, 10, size, np.int32),
        "index": np.arange(size, dtype=np.uint32),
        "is_example": np.ones(size, np.float32),
    }


def _peak_memory() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
