"""One program over a mesh of devices, with the state and the batch cut along its axes."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.ops import platform
from vit_jax.ops.batch_axes import BATCH_AXES
from vit_jax.parallel import blocking, sharding
from vit_jax.types import Batch, Params, TrainState


class Mesh:
    """`jax.jit` over a mesh of devices with the axes `data`, `fsdp` and `tensor`.

    A batch is cut over `data` and `fsdp`, the state over `fsdp` and `tensor` (`sharding.partition`). The step sees the
    whole batch and the whole state; XLA decides what each device computes and what the devices exchange. The step's
    random numbers therefore do not depend on the devices.
    """

    axis_name = None

    def __init__(
        self, data: int = -1, fsdp: int = 1, tensor: int = 1, *, min_size: int = 2**14, devices: Sequence | None = None
    ) -> None:
        """Lay the devices out.

        Args:
            data: number of groups of devices that each hold a copy of the state; -1 is what the other axes leave.
            fsdp: number of devices over which each large leaf of the state is cut; or -1.
            tensor: number of devices over which attention heads and MLP hidden units are cut; or -1.
            min_size: leaves with fewer elements are not cut over `fsdp`.
            devices: to use; None is all devices of all processes.

        Raises:
            InputError: sizes that do not fit the devices.
        """
        devices = jax.devices() if devices is None else devices
        sizes = _sizes({"data": data, "fsdp": fsdp, "tensor": tensor}, len(devices))
        self.mesh = jax.sharding.Mesh(_grid(sizes, devices), tuple(sizes), axis_types=(AxisType.Auto,) * 3)
        self.num_devices, self.num_slices = len(devices), sizes["data"] * sizes["fsdp"]
        self.batch_sharding = NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        self._min_size = min_size
        self._roles: dict[str, roles.Role] = {}  # of the parameters, collected while a state is traced
        self._platform = devices[0].platform
        self._finish = blocking.wrapper(devices[0], self.num_devices)

    @property
    def layout(self) -> str:
        """Sizes of the axes, `data=2 x fsdp=4 x tensor=1`."""
        return " x ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items())

    def notes(self, params: Params) -> list[str]:
        """Say so if `fsdp` cuts nothing."""
        size = self.mesh.shape["fsdp"]
        specs = [sharding.spec for sharding in jax.tree.leaves(self.state_sharding(params))]
        if size == 1 or any("fsdp" in spec for spec in specs):
            return []
        return [
            f"fsdp={size} cuts none of the parameters: each has fewer than parallel.fsdp_min_size={self._min_size:,} "
            f"elements, or no dimension that {size} divides"
        ]

    def state_sharding(self, state: Any) -> Any:
        """Return a tree of shardings for a state or parameters, real or abstract."""
        return sharding.shardings(state, self.mesh, roles=self._roles, min_size=self._min_size)

    def _shapes(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Trace make_state, which initialises the model, and keeps the roles of its parameters."""
        with roles.collecting() as found:
            shapes = jax.eval_shape(lambda: make_state())  # a new function, since JAX remembers what it traced
        self._roles |= found
        return shapes

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Return shapes and types with shardings: every process reads its own shards of a checkpoint."""
        state = self._shapes(make_state)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, self.state_sharding(state)
        )

    def new_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Make the state in shards: no device ever holds the whole of it."""
        return jax.jit(make_state, out_shardings=self.state_sharding(self._shapes(make_state)))()

    def place_state(self, state: Any) -> Any:
        """Cut each leaf into its shards; a leaf that is cut that way already stays where it is."""

        def place(x, sharding):
            if isinstance(x, jax.Array):
                return jax.device_put(x, sharding)
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        return jax.tree.map(place, state, self.state_sharding(state))

    def place_batch(self, batch: Batch) -> Batch:
        """Make the global `[B, ...]` of this process's `[b, ...]`."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.batch_sharding, x), batch)

    def compile_train_step(self, train_step: Callable) -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
        """Compile by `jax.jit`, with the state donated."""

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
            with self._in_scope():
                state, metrics = train_step(state, batch)
            # The new state is cut as the old one was, so that the same program takes it again.
            return jax.lax.with_sharding_constraint(state, self.state_sharding(state)), metrics

        return self._finish(jax.jit(step, donate_argnums=0, out_shardings=(None, self._replicated)))

    def compile_eval_step(self, eval_step: Callable) -> Callable:
        """Compile by `jax.jit`, nothing donated; every device gets all sums and rows."""

        def step(params: Params, batch: Batch) -> tuple[dict, dict]:
            with self._in_scope():
                return eval_step(params, batch)

        return self._finish(jax.jit(step, out_shardings=self._replicated))

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """Return the state as it is, and the batch cut into slices."""
        return state, jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.batch_sharding), batch
        )

    def fetch(self, tree: Any) -> Any:
        """Copy whole arrays; with several processes, only of leaves that every device has all of."""
        # Copied, since on the CPU it may be the very memory that the next step, to which the state is donated, writes.
        return jax.tree.map(np.array, jax.device_get(tree))

    def snapshot(self, state: TrainState) -> TrainState:
        """Return the sharded arrays themselves, of which every process saves its own shards."""
        # Orbax brings them to the host before it returns, except on the CPU, where it saves from the very memory that
        # the next step, to which the state is donated, writes.
        return jax.tree.map(jnp.copy, state) if self._platform == "cpu" else state

    @contextlib.contextmanager
    def _in_scope(self) -> Iterator[None]:
        """Tell `batch_axes.keep_cut` of the mesh, and the ops which platform they are compiled for."""
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh), platform.compiling_for(self._platform):
            yield


def _sizes(sizes: dict[str, int], num_devices: int) -> dict[str, int]:
    """Return the axes' sizes with -1 filled in."""
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise InputError(f"parallel.{name} is {size}; valid: 1 or more, or -1 for the devices left")
    rest = [name for name, size in sizes.items() if size == -1]
    if len(rest) > 1:
        raise InputError(f"{' and '.join(f'parallel.{name}' for name in rest)} are -1; valid: one of them")
    given = math.prod(size for size in sizes.values() if size != -1)
    filled = {name: num_devices // given if size == -1 else size for name, size in sizes.items()}
    if math.prod(filled.values()) != num_devices:
        raise InputError(
            f"parallel.data, fsdp and tensor are {', '.join(map(str, sizes.values()))}, but there are {num_devices} "
            f"devices; valid: sizes whose product is {num_devices}, one of them -1 for the devices left"
        )
    return filled


def _grid(sizes: dict[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Arrange the devices along the axes, `[data, fsdp, tensor]`, each group of `tensor` within one process.

    JAX's own arrangement follows the network, and is used if it keeps the groups within processes. On TPUs it may not:
    in a `v5e:4x4` it makes rows of 4 chips, while a host has 2x2 of them.
    """
    options: Any = {"devices": devices, "allow_split_physical_axes": True}
    grid = mesh_utils.create_device_mesh(tuple(sizes.values()), **options)
    if all(len({device.process_index for device in group}) == 1 for group in grid.reshape(-1, sizes["tensor"])):
        return grid
    num_local = len(devices) // len({device.process_index for device in devices})
    groups, rest = divmod(num_local, sizes["tensor"])
    if rest:
        raise InputError(
            f"parallel.tensor is {sizes['tensor']}, which spans processes, and they read different examples; "
            f"valid: a size that divides the {num_local} devices of a process"
        )
    fsdp = math.gcd(groups, sizes["fsdp"])
    within = {"data": groups // fsdp, "fsdp": fsdp, "tensor": sizes["tensor"]}
    across = tuple(size // within[name] for name, size in sizes.items())
    return mesh_utils.create_hybrid_device_mesh(tuple(within.values()), across, process_is_granule=True, **options)
