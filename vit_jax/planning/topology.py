"""Describes TPUs that are not there well enough to compile for them."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from vit_jax.errors import InputError
from vit_jax.planning.hardware import CHIPS, chip_of

_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
"""Options of libtpu for a kind. Without them it describes each core of a v4 chip as a device; JAX on Cloud TPUs sees
one device, as libtpu does for v5p without an option."""

_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several may compile at once, since none takes a TPU
    "TPU_SKIP_MDS_QUERY": "1",  # no search for the metadata server of a TPU machine
    "TPU_ACCELERATOR_TYPE": "none",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def kinds() -> list[str]:
    """List the names of the TPUs in CHIPS."""
    return [name for name, chip in CHIPS.items() if chip.pattern.startswith("TPU")]


def tpu_devices(name: str) -> list[Any]:
    """Make devices, one for each chip, on which a mesh can be built and for which JAX compiles.

    JAX is kept from looking for real accelerators. Nothing can be run on the devices.

    Args:
        name: kind and chips along each side, `v5e:16x16` or `v5p:4x4x4`.

    Raises:
        InputError: the name is unknown, or libtpu is not installed.
    """
    kind, _, shape = name.partition(":")
    sides = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}
    if kind not in sides or not re.fullmatch(r"\d+(x\d+)*", shape) or len(shape.split("x")) != sides[kind]:
        raise InputError(
            f"--topology is {name!r}; valid: one of {', '.join(kinds())} and chips along each side, as in v5e:16x16, "
            "v6e:8x8, v4:4x4x4 and v5p:4x4x4"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--topology {name} needs libtpu; valid: pip install 'vit-jax[tpu]' first, on any machine")
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    jax.config.update("jax_platforms", "cpu")
    try:
        with _quiet_stderr():
            devices = topologies.get_topology_desc(name, "tpu", **_OPTIONS.get(kind, {})).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise InputError(f"--topology is {name!r}, of which libtpu says: {reason}") from None
    found = chip_of(devices[0].device_kind)
    assert found is not None and found[0] == kind, devices[0].device_kind
    return devices


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard what libraries in C++ write to standard error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
