"""Compiled steps that wait for their results, where XLA needs that."""

from collections.abc import Callable
from typing import Any

import jax


class _Blocking:
    """A compiled step that returns when its results are ready."""

    def __init__(self, step: Any) -> None:
        self._step, self.lower = step, step.lower

    def __call__(self, *args: Any) -> Any:
        return jax.block_until_ready(self._step(*args))


def wrapper(device: Any, num_devices: int) -> Callable[[Any], Callable]:
    """Return what wraps a compiled step: on several CPU devices it waits for each call's results.

    XLA's CPU collectives can deadlock when many steps are in flight.

    Args:
        device: one of those that the step runs on.
        num_devices: how many there are.
    """
    return _Blocking if device.platform == "cpu" and num_devices > 1 else lambda step: step
