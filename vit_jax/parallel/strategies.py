"""How a run is spread over devices.

A strategy makes and places the state, places the batches, compiles steps and hands the state out for saving; nothing
else in the project knows how many devices there are.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.ops import platform
from vit_jax.ops.batch_axes import BATCH_AXES
from vit_jax.parallel import sharding
from vit_jax.types import Batch, Params, TrainState

STRATEGIES = ("pmap", "mesh")


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

    @property
    def num_slices(self) -> int:
        """Into how many slices a global batch is cut, which must divide it."""
        ...

    @property
    def layout(self) -> str:
        """How the devices are arranged, in words; nothing if there is only one way."""
        ...

    def notes(self, params: Params) -> list[str]:
        """What the user may not expect of how these parameters, real or abstract, are spread."""
        ...

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """The shapes and types of what make_state gives; with shardings where a checkpoint is to be read sharded.

        Raises:
            InputError: the state cannot be spread as the strategy was told to.
        """
        ...

    def new_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Compiles and runs make_state; gives what `place_state` takes."""
        ...

    def place_state(self, state: Any) -> Any:
        """Puts a tree (state or parameters), from `new_state`, a checkpoint or NumPy, on the devices."""
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

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """The shapes, types and shardings of what a compiled train step takes; nothing is placed.

        Args:
            state: as `abstract_state` gives it.
            batch: shapes and types of the global `[B, ...]`.
        """
        ...

    def fetch(self, tree: Any) -> Any:
        """Brings a placed state, parameters or metrics back as NumPy arrays."""
        ...

    def snapshot(self, state: TrainState) -> TrainState:
        """What `Checkpoints.save` takes of a placed state, which later steps do not change."""
        ...


class _OneAtATime:
    """A compiled step that is done when it returns.

    XLA's CPU collectives can deadlock with many steps in flight.
    """

    def __init__(self, step: Any) -> None:
        self._step, self.lower = step, step.lower

    def __call__(self, *args: Any) -> Any:
        return jax.block_until_ready(self._step(*args))


class Pmap:
    """Pure data parallelism under `jax.pmap`: each device holds the whole state and a slice of the batch."""

    axis_name = "batch"

    def __init__(self, devices: Sequence[Any] | None = None) -> None:
        """Takes the given devices of this process, or all devices of all processes."""
        self._devices = devices
        self.num_devices = self.num_slices = jax.device_count() if devices is None else len(devices)
        local = jax.local_devices() if devices is None else devices
        self._num_local = len(local)
        self._sharding = NamedSharding(
            jax.sharding.Mesh(np.array(local), (self.axis_name,)), PartitionSpec(self.axis_name)
        )
        self._finished = _finished(local[0], self.num_devices)

    layout = ""

    def notes(self, params: Params) -> list[str]:
        """None: every device has all."""
        return []

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Shapes and types alone: a checkpoint is read into NumPy arrays."""
        return jax.eval_shape(make_state)

    def new_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Made on the first device and fetched."""
        return jax.device_get(jax.jit(make_state)())

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

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """With the device axis that `place_state` and `place_batch` make, over this process's devices."""
        share = self._num_local / self.num_devices

        def stacked(x):
            return jax.ShapeDtypeStruct((self._num_local, *x.shape), x.dtype)

        def split(x):
            size = int(x.shape[0] * share) // self._num_local
            return jax.ShapeDtypeStruct((self._num_local, size, *x.shape[1:]), x.dtype)

        return jax.tree.map(stacked, state), jax.tree.map(split, batch)

    def fetch(self, tree: Any) -> Any:
        """The first local device's copy, without its device axis."""
        first = jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))
        # Sliced on the host, since the device would do it after the steps under way; copied, since on the CPU it may
        # be the very memory that the next step, to which the state is donated, writes to.
        return jax.tree.map(lambda x: np.array(x[0]), first)

    def snapshot(self, state: TrainState) -> TrainState:
        """As NumPy arrays."""
        return self.fetch(state)


class PmapAhead:
    """What `Pmap` compiles, for devices that are not there, for which `jax.pmap` does not compile.

    `jax.shard_map` over a mesh of one axis gives each device the same program: the whole state, its slice of the batch,
    and sums over the axis by name. Nothing can be placed or run.
    """

    axis_name = "batch"

    def __init__(self, devices: Sequence[Any]) -> None:
        self.num_devices = self.num_slices = len(devices)
        self.mesh = jax.sharding.Mesh(np.array(devices), (self.axis_name,), axis_types=(AxisType.Auto,))

    def notes(self, params: Params) -> list[str]:
        """None: every device has all."""
        return []

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Shapes and types, every device having all."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(make_state)
        )

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """The state as it is, the batch in its slices."""
        sliced = NamedSharding(self.mesh, PartitionSpec(self.axis_name))
        return state, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sliced), batch)

    def compile_train_step(self, train_step: Callable) -> Any:
        """`jax.jit` of `jax.shard_map` with the state donated."""
        whole, sliced = PartitionSpec(), PartitionSpec(self.axis_name)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
            with platform.compiling_for(self.mesh.devices.flat[0].platform):
                return train_step(state, batch)

        step = jax.shard_map(step, mesh=self.mesh, in_specs=(whole, sliced), out_specs=(whole, whole), check_vma=False)
        return jax.jit(step, donate_argnums=0)


class Mesh:
    """`jax.jit` over a mesh of devices with the axes `data`, `fsdp` and `tensor`.

    A batch is cut over `data` and `fsdp`, the state over `fsdp` and `tensor` (`sharding.partition`). The step sees the
    whole batch and the whole state; XLA finds out what each device does and what the devices tell each other. Its
    random numbers therefore do not depend on the devices.
    """

    axis_name = None

    def __init__(
        self, data: int = -1, fsdp: int = 1, tensor: int = 1, *, min_size: int = 2**14, devices: Sequence | None = None
    ) -> None:
        """Takes the sizes of the axes.

        Args:
            data: how many groups of devices hold copies of the state; -1 is as many as the other axes leave.
            fsdp: over how many devices each large leaf of the state is cut; -1 likewise.
            tensor: over how many devices attention heads and MLP hidden units are cut; -1 likewise.
            min_size: leaves of fewer elements are not cut over fsdp.
            devices: to be used; None is all of all processes.

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
        self._finished = _finished(devices[0], self.num_devices)

    @property
    def layout(self) -> str:
        """The sizes of the axes."""
        return " x ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items())

    def notes(self, params: Params) -> list[str]:
        """Says so if fsdp cuts nothing."""
        size = self.mesh.shape["fsdp"]
        specs = [sharding.spec for sharding in jax.tree.leaves(self.state_sharding(params))]
        if size == 1 or any("fsdp" in spec for spec in specs):
            return []
        return [
            f"fsdp={size} cuts none of the parameters: each has fewer than parallel.fsdp_min_size={self._min_size:,} "
            f"elements, or no dimension that {size} divides"
        ]

    def state_sharding(self, state: Any) -> Any:
        """A tree of shardings for a state or parameters, real or abstract."""
        return sharding.shardings(state, self.mesh, roles=self._roles, min_size=self._min_size)

    def _shapes(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Traces make_state, which initialises the model; keeps the roles of its parameters."""
        with roles.collecting() as found:
            shapes = jax.eval_shape(lambda: make_state())  # a new function, since JAX remembers what it traced
        self._roles |= found
        return shapes

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Shapes and types with shardings: every process reads its shards of a checkpoint."""
        state = self._shapes(make_state)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, self.state_sharding(state)
        )

    def new_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Made in shards: no device ever holds the whole."""
        return jax.jit(make_state, out_shardings=self.state_sharding(self._shapes(make_state)))()

    def place_state(self, state: Any) -> Any:
        """Each leaf in its shards; one that lies so already stays."""

        def place(x, sharding):
            if isinstance(x, jax.Array):
                return jax.device_put(x, sharding)
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        return jax.tree.map(place, state, self.state_sharding(state))

    def place_batch(self, batch: Batch) -> Batch:
        """This process's `[b, ...]` of the global `[B, ...]`."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.batch_sharding, x), batch)

    def compile_train_step(self, train_step: Callable) -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
        """`jax.jit` with the state donated."""

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
            with self._in_scope():
                state, metrics = train_step(state, batch)
            # The new state lies as the old one did, so that the same program takes it again.
            return jax.lax.with_sharding_constraint(state, self.state_sharding(state)), metrics

        return self._finished(jax.jit(step, donate_argnums=0, out_shardings=(None, self._replicated)))

    def compile_eval_step(self, eval_step: Callable) -> Callable:
        """`jax.jit`, nothing donated; every device gets all of the sums and rows."""

        def step(params: Params, batch: Batch) -> tuple[dict, dict]:
            with self._in_scope():
                return eval_step(params, batch)

        return self._finished(jax.jit(step, out_shardings=self._replicated))

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """The state as it is, the batch in its slices."""
        return state, jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.batch_sharding), batch
        )

    def fetch(self, tree: Any) -> Any:
        """Whole arrays; with several processes, of what every device has all of."""
        # Copied, since on the CPU it may be the very memory that the next step, to which the state is donated, writes.
        return jax.tree.map(np.array, jax.device_get(tree))

    def snapshot(self, state: TrainState) -> TrainState:
        """The sharded arrays themselves, of which every process saves its own."""
        # Orbax brings them to the host before it returns, except on the CPU, where it saves from the very memory that
        # the next step, to which the state is donated, writes.
        return jax.tree.map(jnp.copy, state) if self._platform == "cpu" else state

    @contextlib.contextmanager
    def _in_scope(self) -> Iterator[None]:
        """The mesh, for `batch_axes.keep_cut`, and its devices' kind: they need not be there."""
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh), platform.compiling_for(self._platform):
            yield


def _finished(device: Any, num_devices: int) -> Callable[[Any], Callable]:
    """What a compiled step is wrapped in."""
    return _OneAtATime if device.platform == "cpu" and num_devices > 1 else lambda step: step


def _sizes(sizes: dict[str, int], num_devices: int) -> dict[str, int]:
    """The axes' sizes with -1 filled in."""
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
    """The devices along the axes, `[data, fsdp, tensor]`, each group of `tensor` within a process.

    As their network suits best, if that leaves the groups within processes. On TPUs it may not: in a `v5e:4x4` it makes
    rows of 4 chips, and a host has 2x2 of them.
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


def create(
    strategy: str,
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    fsdp_min_size: int = 2**14,
    absent: Sequence[Any] | None = None,
) -> Strategy:
    """Makes a strategy by name over all devices.

    Args:
        strategy: one of STRATEGIES.
        data: see `Mesh`, as for the others.
        fsdp: of `mesh` alone.
        tensor: of `mesh` alone.
        fsdp_min_size: of `mesh` alone.
        absent: devices that are not there, to compile for them alone; None is the real ones.

    Raises:
        InputError: an unknown name, or sizes that do not fit the strategy or the devices.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"parallel.strategy is {strategy!r}; valid: {', '.join(STRATEGIES)}")
    if strategy == "mesh":
        return Mesh(data, fsdp, tensor, min_size=fsdp_min_size, devices=absent)
    if (data, fsdp, tensor) != (-1, 1, 1):
        raise InputError(
            f"parallel.data, fsdp and tensor are {data}, {fsdp}, {tensor}, which parallel.strategy 'pmap' does not "
            "have; valid: -1, 1, 1, or parallel.strategy 'mesh'"
        )
    return Pmap() if absent is None else cast(Strategy, PmapAhead(absent))


def check_batch_size(batch_size: int, strategy: Strategy) -> None:
    """Raises InputError unless the slices of a batch, one a device or group of devices, divide it."""
    slices = strategy.num_slices
    if batch_size < 1 or batch_size % slices:
        what = "devices" if slices == strategy.num_devices else "slices (parallel.data x fsdp)"
        below = max(batch_size // slices, 1) * slices
        raise InputError(
            f"batch_size {batch_size} is not a multiple of the {slices} {what}; "
            f"valid: {below}, {below + slices} and other multiples"
        )
