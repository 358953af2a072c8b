"""Peak rates of accelerators, from their makers' data sheets."""

import dataclasses
import re
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Chip:
    """One row of CHIPS.

    pattern: regular expression for the start of JAX's `device_kind`.
    bfloat16_flops: published dense peak of matrix products, FLOPs per second (a multiply-add is two).
    source: of all figures in the row.
    hbm_bytes: published size of the device's memory; None where one kind comes with several sizes.
    hbm_bandwidth: published, bytes per second.
    interconnect_bandwidth: published, bytes per second that a chip sends over all its links together, which is half of
        what makers print as bidirectional.
    """

    pattern: str
    bfloat16_flops: float
    source: str
    hbm_bytes: int | None = None
    hbm_bandwidth: float | None = None
    interconnect_bandwidth: float | None = None


_TPU = "https://cloud.google.com/tpu/docs/"
_GIB = 2**30
# Google prints some memories in GB and means GiB: libtpu's compiler leaves programs 15.75 of v5e's 16 and 31.25 of
# v6e's 32. Links: v4 has six of 50 GB/s each way; v5e, v5p and v6e have 400, 1200 and 800 GB/s bidirectional.
CHIPS = {
    "v4": Chip(
        "TPU v4",
        275e12,
        _TPU + "v4; links: Jouppi et al. 2023 (arXiv:2304.01433), table 4",
        32 * _GIB,
        1200e9,
        300e9,
    ),
    "v5e": Chip("TPU v5 ?(lite|e)", 197e12, _TPU + "v5e", 16 * _GIB, 819e9, 200e9),
    "v5p": Chip("TPU v5(p|$)", 459e12, _TPU + "v5p", 95 * _GIB, 2765e9, 600e9),
    "v6e": Chip("TPU v6 ?(lite|e)", 918e12, _TPU + "v6e", 32 * _GIB, 1638e9, 400e9),
    "A100": Chip("NVIDIA A100", 312e12, "https://www.nvidia.com/en-us/data-center/a100/"),
    "H100 PCIe": Chip("NVIDIA H100 PCIe", 756e12, "NVIDIA H100 PCIe product brief PB-11133"),
    "H100": Chip("NVIDIA H100 80GB", 989.4e12, "NVIDIA H100 white paper, table 2: SXM5, without sparsity"),
    "H200": Chip(
        "NVIDIA H200$", 989.4e12, "https://www.nvidia.com/en-us/data-center/h200/: SXM, half of with sparsity"
    ),
}
"""Accelerators by name. Where two patterns match, the first counts. A TPU chip is one device, with one core or two."""


def chip_of(device_kind: str) -> tuple[str, Chip] | None:
    """Find the name and the row of what JAX calls a device's kind; None if the table lacks it."""
    for name, chip in CHIPS.items():
        if re.match(chip.pattern, device_kind):
            return name, chip
    return None


@dataclasses.dataclass(frozen=True)
class Peak:
    """Peak rate of several devices together.

    flops: FLOPs per second.
    origin: source of the figure, in words.
    """

    flops: float
    origin: str


def peak_of(devices: list[Any]) -> Peak | None:
    """Find the peak of devices of one kind: published for those in CHIPS, measured for CPUs, None for others."""
    device = devices[0]
    if device.platform == "cpu":  # virtual devices share its cores
        return Peak(_measured_matmul_flops(), "measured just now: float32 matrix product, 2048 x 2048 x 2048")
    found = chip_of(device.device_kind)
    if found is None:
        return None
    name, chip = found
    return Peak(
        len(devices) * chip.bfloat16_flops, f"published, dense bfloat16, {len(devices)} x {name}: {chip.source}"
    )


@dataclasses.dataclass(frozen=True)
class Rates:
    """Peak rates of one device, per second; None where a rate is not known.

    flops: FLOPs.
    memory: bytes read and written.
    network: bytes sent to other devices.
    origin: source of the figures, in words.
    """

    flops: float | None
    memory: float | None
    network: float | None
    origin: str


def rates_of(devices: list[Any]) -> Rates:
    """Find the rates of one of several devices of one kind, which need not be there; measured on CPUs."""
    if devices[0].platform == "cpu":
        peak = peak_of(devices)
        assert peak is not None
        return Rates(peak.flops / len(devices), None, None, f"FLOPs {peak.origin}")
    found = chip_of(devices[0].device_kind)
    if found is None:
        return Rates(None, None, None, f"unknown for {devices[0].device_kind}")
    name, chip = found
    rates = (chip.bfloat16_flops, chip.hbm_bandwidth, chip.interconnect_bandwidth)
    return Rates(*rates, f"published for {name}, matrix products in bfloat16: {chip.source}")


def _measured_matmul_flops(size: int = 2048, repeats: int = 5) -> float:
    """Measure FLOPs per second of a product of two float32 matrices `[size, size]` on the first device; the median."""
    x = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)
