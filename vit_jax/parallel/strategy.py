"""How a run is spread over devices.

A strategy makes and places the state, places the batches, compiles steps and hands the state out for saving; nothing
else in the project knows how many devices there are.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from vit_jax.errors import InputError
from vit_jax.parallel.mesh import Mesh
from vit_jax.parallel.pmap import Pmap, PmapAhead
from vit_jax.types import Batch, Params, TrainState

STRATEGIES = ("pmap", "mesh")


class Strategy(Protocol):
    """Spreads a run over devices."""

    @property
    def axis_name(self) -> str | None:
        """Name of the device axis that steps reduce over; None where the compiler sees the whole batch."""
        ...

    @property
    def num_devices(self) -> int:
        """Number of devices of all processes."""
        ...

    @property
    def num_slices(self) -> int:
        """Number of slices that a global batch is cut into; it must divide the batch size."""
        ...

    @property
    def layout(self) -> str:
        """How the devices are arranged, `data=2 x fsdp=4 x tensor=1`; empty if there is only one way."""
        ...

    def notes(self, params: Params) -> list[str]:
        """List what may surprise the user about how these parameters, real or abstract, are spread."""
        ...

    def abstract_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Return the shapes and types of the state, and its shardings where a checkpoint is read in shards.

        Args:
            make_state: makes the whole state, whatever trees it holds.

        Raises:
            InputError: the state cannot be cut as the strategy's sizes say.
        """
        ...

    def new_state(self, make_state: Callable[[], TrainState]) -> TrainState:
        """Compile and runs `make_state`; returns what `place_state` takes."""
        ...

    def place_state(self, state: Any) -> Any:
        """Put a tree of arrays on the devices.

        Args:
            state: a state, or any part of one, from `new_state`, a checkpoint or NumPy.
        """
        ...

    def place_batch(self, batch: Batch) -> Batch:
        """Put this process's share of a batch, NumPy arrays `[b, ...]`, on its devices."""
        ...

    def compile_train_step(self, train_step: Callable) -> Callable:
        """Compile `(state, batch) -> (state, metrics)`; the step may reuse the memory of the state it is given."""
        ...

    def compile_eval_step(self, eval_step: Callable) -> Callable:
        """Compile `(params, batch) -> (sums, rows)`; `params` is any tree that `place_state` placed."""
        ...

    def abstract_arguments(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
        """Return the shapes, types and shardings of a compiled train step's arguments; nothing is placed.

        Args:
            state: as `abstract_state` gives it.
            batch: shapes and types of the global `[B, ...]`.
        """
        ...

    def fetch(self, tree: Any) -> Any:
        """Copy a placed tree back into NumPy arrays."""
        ...

    def snapshot(self, state: TrainState) -> TrainState:
        """Return what `Checkpoints.save` takes: a form of a placed state that later steps do not change."""
        ...


def create(
    strategy: str,
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    fsdp_min_size: int = 2**14,
    absent: Sequence[Any] | None = None,
) -> Strategy:
    """Make a strategy by its name, over all devices.

    Args:
        strategy: one of STRATEGIES.
        data: size of the axis `data`, see `Mesh`; `pmap` takes -1 alone.
        fsdp: size of the axis `fsdp`; `pmap` takes 1 alone.
        tensor: size of the axis `tensor`; `pmap` takes 1 alone.
        fsdp_min_size: of the leaves that `mesh` cuts over `fsdp`, in elements.
        absent: devices that are not there, for which to compile only; None uses the real ones.

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
    """Raise InputError unless the batch can be cut into the strategy's slices."""
    slices = strategy.num_slices
    if batch_size < 1 or batch_size % slices:
        what = "devices" if slices == strategy.num_devices else "slices (parallel.data x fsdp)"
        below = max(batch_size // slices, 1) * slices
        raise InputError(
            f"batch_size {batch_size} is not a multiple of the {slices} {what}; "
            f"valid: {below}, {below + slices} and other multiples"
        )
