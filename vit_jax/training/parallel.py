"""How a run is spread over devices.

A strategy places the state and the batches, compiles steps and fetches the state for saving; nothing else
in the project knows how many devices there are.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.types import Batch, TrainState

STRATEGIES = ("pmap",)


class Strategy(Protocol):
    """What a way of spreading the work must do."""

    @property
    def axis_name(self) -> str | None:
        """The device axis that steps reduce over; None where the compiler sees the whole batch."""
        ...

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        ...

    def place_state(self, state: Any) -> Any:
        """Puts a host tree (state or parameters) on the devices."""
        ...

    def place_batch(self, batch: Batch) -> Batch:
        """Puts this process's share of a batch, NumPy arrays `[b, ...]`, on its devices."""
        ...

    def compile_train_step(self, train_step: Callable) -> Callable:
        """Compiles `(state, batch) -> (state, metrics)`; the state given to it is used up."""
        ...

    def compile_eval_step(self, eval_step: Callable) -> Callable:
        """Compiles `(params, batch) -> (sums, rows)`."""
        ...

    def fetch(self, tree: Any) -> Any:
        """Brings a placed state, parameters or metrics back as NumPy arrays."""
        ...


class Pmap:
    """Pure data parallelism under `jax.pmap`: each device holds the whole state and a slice of the batch."""

    axis_name = "batch"

    def __init__(self, devices: Sequence[Any] | None = None) -> None:
        """Takes the given devices of this process, or all devices of all processes."""
        self._devices = devices
        self.num_devices = jax.device_count() if devices is None else len(devices)
        local = jax.local_devices() if devices is None else devices
        self._num_local = len(local)
        self._sharding = NamedSharding(Mesh(np.array(local), (self.axis_name,)), PartitionSpec(self.axis_name))
        # XLA's CPU collectives can deadlock with many steps in flight; one at a time is safe.
        self._wait = local[0].platform == "cpu" and self.num_devices > 1

    def place_state(self, state: Any) -> Any:
        """One copy a local device: each leaf `[...]` becomes `[local devices, ...]`."""

        def place(x):
            x = np.asarray(x)
            return jax.device_put(np.broadcast_to(x, (self._num_local, *x.shape)), self._sharding)

        return jax.tree.map(place, state)

    def place_batch(self, batch: Batch) -> Batch:
        """Splits each `[b, ...]` into `[local devices, b / local devices, ...]`."""

        def place(x):
            return jax.device_put(x.reshape(self._num_local, -1, *x.shape[1:]), self._sharding)

        return jax.tree.map(place, batch)

    def compile_train_step(self, train_step: Callable) -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
        """`jax.pmap` with the state donated."""
        return self._finished(jax.pmap(train_step, self.axis_name, donate_argnums=0, devices=self._devices))

    def compile_eval_step(self, eval_step: Callable) -> Callable:
        """`jax.pmap`, nothing donated."""
        return self._finished(jax.pmap(eval_step, self.axis_name, devices=self._devices))

    def fetch(self, tree: Any) -> Any:
        """The first local device's copy, without its device axis."""
        first = jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))
        # Sliced on the host, since the device would do it after the steps under way; copied, since on the CPU it may
        # be the very memory that the next step, to which the state is donated, writes to.
        return jax.tree.map(lambda x: np.array(x[0]), first)

    def _finished(self, step: Callable) -> Callable:
        return (lambda *args: jax.block_until_ready(step(*args))) if self._wait else step


def create(strategy: str) -> Strategy:
    """Makes a strategy by name over all devices.

    Raises:
        InputError: an unknown name.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"parallel.strategy is {strategy!r}; valid: {', '.join(STRATEGIES)}")
    return Pmap()


def check_batch_size(batch_size: int, strategy: Strategy) -> None:
    """Raises InputError unless the devices divide the training batch."""
    if batch_size < 1 or batch_size % strategy.num_devices:
        raise InputError(
            f"batch_size {batch_size} is not a multiple of the {strategy.num_devices} devices; "
            f"valid: {strategy.num_devices}, {2 * strategy.num_devices}, {3 * strategy.num_devices} and so on"
        )
