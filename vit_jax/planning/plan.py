"""Compiles a train step to find out what it needs and how fast it can be at best."""

import dataclasses
import math
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.parallel.strategy import Strategy
from vit_jax.planning import hlo, traffic
from vit_jax.planning.hardware import Rates
from vit_jax.types import Batch, TrainState

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    parameters, optimizer_state, moving_average, variables, companions, other_state, inputs: the step's arguments by
        their shapes, 0 where there are none; other_state is counters and keys.
    padding: what the arguments take beyond that in the layout that the compiler chose.
    temporary: what the program keeps while it runs: activations for the backward pass, gradients, the new state where
        it cannot overwrite the old one.
    program: the code.
    peak: the most that arguments and temporary memory take at one moment, which is less than their sum where one array
        takes the place of another; None where the compiler does not tell.
    total: sum of all but the peak. Where the compiler refuses, what it says that the step needs; the parts from padding
        on are then None.
    """

    parameters: int
    optimizer_state: int
    moving_average: int
    variables: int
    companions: int
    other_state: int
    inputs: int
    padding: int | None
    temporary: int | None
    program: int | None
    peak: int | None
    total: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a train step for a batch.

    batch_size: over all devices.
    fits: whether the compiler found memory for it. Where it does not ask (CPU, GPU), whether the sum is within the
        memory; None if the device does not tell how much it has.
    flops, bytes_accessed: of one device's step as XLA counts them: loop bodies once, and all kinds of memory together.
        None where the compiler refused, as for the next two.
    memory_bytes: read and written in the device's main memory; see `traffic.memory_bytes`.
    collectives: of one device's step.
    """

    batch_size: int
    fits: bool | None
    memory: Memory
    flops: float | None = None
    bytes_accessed: float | None = None
    memory_bytes: int | None = None
    collectives: list[hlo.Collective] | None = None


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least time that a step can take, for one of several reasons.

    name: `arithmetic`, `memory` or `network`.
    seconds: None where the rate is not known.
    because: amount and rate in words.
    """

    name: str
    seconds: float | None
    because: str


def compile_step(
    train_step: Callable,
    make_state: Callable[[], TrainState],
    example: Batch,
    batch_size: int,
    *,
    strategy: Strategy,
    available: int | None,
    asks_for_memory: bool,
) -> Compiled:
    """Compile a train step; nothing is run.

    Args:
        train_step: as `step.make_train_step` makes it.
        make_state: what makes the first state.
        example: a batch of one example.
        batch_size: over all devices.
        strategy: its devices need not be there.
        available: bytes of memory of a device; None if it is not known.
        asks_for_memory: whether the compiler refuses what does not fit, as the one for TPUs does; its word then counts.

    Raises:
        jax.errors.JaxRuntimeError: the compiler fails for another reason than memory.
    """
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), example)
    state, batch = strategy.abstract_arguments(strategy.abstract_state(make_state), batch)
    sizes = {
        "parameters": device_bytes(state.params, strategy),
        "optimizer_state": device_bytes(state.opt_state, strategy),
        "moving_average": device_bytes(state.ema_params, strategy),
        "variables": device_bytes(state.variables, strategy),
        "companions": device_bytes(state.companions, strategy),
        "inputs": device_bytes(batch, strategy),
    }
    sizes["other_state"] = device_bytes((state, batch), strategy) - sum(sizes.values())
    try:
        program = strategy.compile_train_step(train_step).lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_memory(str(error))
        if needed is None:
            raise
        memory = Memory(**sizes, padding=None, temporary=None, program=None, peak=None, total=needed[0])
        return Compiled(batch_size, False, memory)
    cost, text = program.cost_analysis(), program.as_text()
    memory = _memory(sizes, program.memory_analysis(), tells_peak=asks_for_memory)
    fits = True if asks_for_memory else None if available is None else memory.total <= available
    return Compiled(
        batch_size,
        fits,
        memory,
        flops=float(cost.get("flops", math.nan)),
        bytes_accessed=float(cost.get("bytes accessed", math.nan)),
        memory_bytes=traffic.memory_bytes(text),
        collectives=hlo.collectives(text, strategy.num_devices),
    )


def _memory(sizes: dict[str, int], stats: Any, *, tells_peak: bool) -> Memory:
    """Join the arguments' sizes and what `memory_analysis` says, whose peak leaves temporary memory out on CPUs."""
    arguments = sum(sizes.values())
    padding = max(stats.argument_size_in_bytes - arguments, 0)
    temporary = stats.temp_size_in_bytes + max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0)
    program = stats.generated_code_size_in_bytes
    total = arguments + padding + temporary + program
    peak = getattr(stats, "peak_memory_in_bytes", 0) if tells_peak else None
    if peak is not None and not stats.argument_size_in_bytes < peak <= total:
        peak = None
    return Memory(**sizes, padding=padding, temporary=temporary, program=program, peak=peak, total=total)


def device_bytes(tree: Any, strategy: Strategy) -> int:
    """Count the bytes of one device's share of abstract arrays; those without a sharding have a device axis."""

    def size(x) -> int:
        shape = x.shape[1:] if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(size(x) for x in jax.tree.leaves(tree))


def needed_memory(message: str) -> tuple[int, int] | None:
    """Read out of the compiler's message how many bytes a program needs and how many there are; None for others."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    amount = r"([\d.]+)([KMGT]?)i?B?"
    for pattern in (
        rf"Used {amount} of {amount} hbm",
        rf"\({amount}\) exceeds available HBM \({amount}\)",
    ):
        if found := re.search(pattern, message):
            needed, needed_unit, there, unit = found.groups()
            return round(float(needed) * _UNITS[needed_unit]), round(float(there) * _UNITS[unit])
    return None


def available_memory(device: Any) -> int | None:
    """Find how many bytes of a device's memory programs may use; None if neither compiler nor device tells."""
    if device.platform == "cpu":  # virtual devices share it
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()
    if device.platform == "tpu":  # the compiler tells when it is asked for what no chip has
        huge = jax.ShapeDtypeStruct((2**40,), jnp.int32, sharding=jax.sharding.SingleDeviceSharding(device))
        try:
            jax.jit(lambda x: x + 1).lower(huge).compile()
        except jax.errors.JaxRuntimeError as error:
            found = needed_memory(str(error))
            return found[1] if found else None
    stats = device.memory_stats()
    return stats.get("bytes_limit") if stats else None


def bounds(*, flops: float, memory_bytes: float, sent_bytes: float, rates: Rates) -> list[Bound]:
    """Return the times that a device's arithmetic, memory traffic and messages take at the given rates.

    Args:
        flops: of a step on one device.
        memory_bytes: that it reads and writes in its main memory in a step.
        sent_bytes: that it sends in a step.
        rates: of one device.
    """
    rows = (
        ("arithmetic", flops, rates.flops, "FLOP"),
        ("memory", memory_bytes, rates.memory, "B"),
        ("network", sent_bytes, rates.network, "B"),
    )
    found = []
    for name, amount, rate, symbol in rows:
        if amount == 0:
            found.append(Bound(name, 0.0, "nothing"))
        elif rate is None:
            found.append(Bound(name, None, f"{unit(amount, symbol)}, at a rate that is not published"))
        else:
            found.append(Bound(name, amount / rate, f"{unit(amount, symbol)} at {unit(rate, symbol)}/s"))
    return found


def unit(value: float, symbol: str) -> str:
    """Write a value in four digits with a prefix.

    Example:
        >>> unit(5.9e12, "FLOP")
        '5.9 TFLOP'
    """
    for factor, prefix in (
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1, ""),
        (1e-3, "m"),
        (1e-6, "u"),
    ):
        if abs(value) >= factor:
            return f"{value / factor:,.4g} {prefix}{symbol}"
    return f"0 {symbol}"
