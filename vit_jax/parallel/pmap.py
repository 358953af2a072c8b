"""Pure data parallelism: every device holds the whole state and a slice of the batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax.ops import platform
from vit_jax.parallel import blocking
from vit_jax.types import Batch, Params, TrainState


class Pmap:
    """Pure data parallelism under `jax.pmap`: each device holds the whole state and a slice of the batch."""

    axis_name = "batch"

    def __init__(self, devices: Sequence[Any] | None = None) -> None:
        """Use the given devices of this process, or all devices of all processes."""
        self._devices = devices
        self.num_devices = self.num_slices = jax.device_count() if devices is None else len(devices)
        local = jax.local_devices() if devices is None else devices
        self._num_local = len(local)
        self._sharding = NamedSharding(
            jax.sharding.Mesh(np.array(local), (self.axis_name,)), PartitionSpec(self.axis_name)
        )
        self._finish = blocking.wrapper(local[0], self.num_devices)

    layout = ""

    def notes(self, params: Params) -> list[str]:
        """Return nothing: every device has all parameters."""
        return []

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Return shapes and types without shardings: a checkpoint is read into NumPy arrays."""
        return jax.eval_shape(make_state)

    def new_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Make the state on the first device and fetches it."""
        return jax.device_get(jax.jit(make_state)())

    def place_state(self, state: Any) -> Any:
        """Copy each leaf `[...]` to every local device: `[local devices, ...]`."""

        def place(x):
            x = np.asarray(x)
            return jax.device_put(np.broadcast_to(x, (self._num_local, *x.shape)), self._sharding)

        return jax.tree.map(place, state)

    def place_batch(self, batch: Batch) -> Batch:
        """Split each `[b, ...]` into `[local devices, b / local devices, ...]`."""

        def place(x):
            return jax.device_put(x.reshape(self._num_local, -1, *x.shape[1:]), self._sharding)

        return jax.tree.map(place, batch)

    def compile_train_step(self, train_step: Callable) -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
        """Compile by `jax.pmap`, with the state donated."""
        return self._finish(jax.pmap(train_step, self.axis_name, donate_argnums=0, devices=self._devices))

    def compile_eval_step(self, eval_step: Callable) -> Callable:
        """Compile by `jax.pmap`, nothing donated."""
        return self._finish(jax.pmap(eval_step, self.axis_name, devices=self._devices))

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """Add the device axis that `place_state` and `place_batch` add, over this process's devices."""
        share = self._num_local / self.num_devices

        def stacked(x):
            return jax.ShapeDtypeStruct((self._num_local, *x.shape), x.dtype)

        def split(x):
            size = int(x.shape[0] * share) // self._num_local
            return jax.ShapeDtypeStruct((self._num_local, size, *x.shape[1:]), x.dtype)

        return jax.tree.map(stacked, state), jax.tree.map(split, batch)

    def fetch(self, tree: Any) -> Any:
        """Copy what the first local device has, without the device axis."""
        first = jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))
        # Sliced on the host, since the device would do it after the steps under way; copied, since on the CPU it may
        # be the very memory that the next step, to which the state is donated, writes to.
        return jax.tree.map(lambda x: np.array(x[0]), first)

    def snapshot(self, state: TrainState) -> TrainState:
        """Fetch the state as NumPy arrays."""
        return self.fetch(state)


class PmapAhead:
    """Compiles what `Pmap` compiles for devices that are not there, which `jax.pmap` cannot.

    `jax.shard_map` over a mesh of one axis gives each device the same program: the whole state, a slice of the batch,
    and sums over the axis by name. Nothing can be placed or run.
    """

    axis_name = "batch"

    def __init__(self, devices: Sequence[Any]) -> None:
        self.num_devices = self.num_slices = len(devices)
        self.mesh = jax.sharding.Mesh(np.array(devices), (self.axis_name,), axis_types=(AxisType.Auto,))

    def notes(self, params: Params) -> list[str]:
        """Return nothing: every device has all parameters."""
        return []

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Return shapes and types; every device has the whole state."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(make_state)
        )

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """Return the state as it is, and the batch cut into slices."""
        sliced = NamedSharding(self.mesh, PartitionSpec(self.axis_name))
        return state, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sliced), batch)

    def compile_train_step(self, train_step: Callable) -> Any:
        """Compile by `jax.jit` of `jax.shard_map`, with the state donated."""
        whole, sliced = PartitionSpec(), PartitionSpec(self.axis_name)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
            with platform.compiling_for(self.mesh.devices.flat[0].platform):
                return train_step(state, batch)

        step = jax.shard_map(step, mesh=self.mesh, in_specs=(whole, sliced), out_specs=(whole, whole), check_vma=False)
        return jax.jit(step, donate_argnums=0)
