"""Roles of parameters: what sharding, optimizers and the loading of weights must know of each.

A layer declares the role where it makes the parameter. Tracing the initialisation of a model collects the roles of all
its parameters (`roles_of`); nothing has to be read off their paths.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import flax.traverse_util
import jax
from flax import linen as nn

from vit_jax.types import Params

Kind = Literal["kernel", "stem", "head", "position_grid", "bias_table", "other"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """The axis of a parameter that tensor parallelism cuts.

    axis: counted from the last, -1.
    units: what lies along it, for messages: `attention heads`.
    """

    axis: int
    units: str


@dataclasses.dataclass(frozen=True)
class Role:
    """What a parameter is for.

    kind: what it is, and what loading it into another model may do with it:
        `kernel`: weights of a linear map.
        `stem`: the kernel `[h, w, C, D]` that sees the image; it is adapted to another number of channels C.
        `head`: the kernel of a task's last layer; it starts at zero and may differ between tasks.
        `position_grid`: a position embedding `[h, w, D]`; it is resized to another grid.
        `bias_table`: biases by offset `[2 h - 1, 2 w - 1, heads]`; it is resized to another window.
        `other`: biases, scales, tokens and all else.
    is_decayed: whether weight decay applies.
    num_inputs: number of leading axes that a kernel sums over, if it is one matrix; None for any other parameter, and
        for many small filters such as those of a depth-wise convolution.
    cut: how tensor parallelism cuts it; None is not at all.
    is_fixed: whether it is never trained. No gradient reaches it.
    in_block: whether it lies in a block, as `declare_block` says; filled in when roles are collected.
    """

    kind: Kind = "other"
    is_decayed: bool = False
    num_inputs: int | None = None
    cut: Cut | None = None
    is_fixed: bool = False
    in_block: bool = False


OTHER = Role()


def kernel(num_inputs: int | None, *, kind: Kind = "kernel", cut: Cut | None = None) -> Role:
    """Make the role of a kernel, which decays."""
    return Role(kind, is_decayed=True, num_inputs=num_inputs, cut=cut)


Roles = Mapping[str, Role]
"""Path of a parameter, `encoder/block_0/mlp/fc1/kernel` -> role."""


class _Collector:
    """The roles declared so far, and the paths of the blocks."""

    def __init__(self) -> None:
        self.roles: dict[str, Role] = {}
        self.blocks: set[str] = set()

    def add(self, path: str, role: Role) -> None:
        in_block = any(path.startswith(f"{block}/") for block in self.blocks)
        self.roles[path] = dataclasses.replace(role, in_block=in_block)


_COLLECTOR = contextvars.ContextVar[_Collector | None]("collector", default=None)


def declare(module: nn.Module, name: str, role: Role) -> None:
    """Declare the role of a parameter; called by the module that has it, or by one around it, on the way to it.

    Args:
        module: the module, bound.
        name: the parameter's path within the module: `kernel`, `attention/bias_table`.
        role: the role. It is kept while roles are collected and the module is initialised.
    """
    collector = _COLLECTOR.get()
    if collector is not None and module.is_initializing():
        collector.add("/".join((*module.path, name)), role)


def declare_block(module: nn.Module) -> None:
    """Declare that a module is a block of a stack; called at the start of its `__call__`."""
    collector = _COLLECTOR.get()
    if collector is not None and module.is_initializing():
        collector.blocks.add("/".join(module.path))


def param(module: nn.Module, name: str, init: Callable, shape: Sequence[int], role: Role) -> jax.Array:
    """Make a float32 parameter of a module and declares its role; no gradient reaches a fixed one.

    Args:
        module: the module, within its `setup` or compact method.
        name: of the parameter.
        init: Linen initialiser.
        shape: of the parameter.
        role: its role.
    """
    declare(module, name, role)
    value = module.param(name, init, tuple(shape))
    return jax.lax.stop_gradient(value) if role.is_fixed else value


def add(roles: Roles, *, prefix: str) -> None:
    """Add the roles of another model to those that are being collected, such as a teacher's in a training state.

    Args:
        roles: path -> role.
        prefix: put before the paths, `companions/teacher`.
    """
    collector = _COLLECTOR.get()
    if collector is not None:
        collector.roles |= {f"{prefix}/{path}": role for path, role in roles.items()}


@contextlib.contextmanager
def collecting() -> Iterator[dict[str, Role]]:
    """Collect the roles that are declared in this context, where models are initialised, traced or not.

    Yields:
        A dict that fills: path from the root of the model that is initialised -> role. Parameters without a declared
        role are not in it; see `role_of`.
    """
    collector = _Collector()
    token = _COLLECTOR.set(collector)
    try:
        yield collector.roles
    finally:
        _COLLECTOR.reset(token)


def role_of(roles: Roles, path: str) -> Role:
    """Look up the role of an array that belongs to a parameter.

    Args:
        roles: of a model.
        path: of the parameter, or one that ends with it, as the paths of an optimizer's moments and of moving averages
            do: `opt_state/1/mu/encoder/norm/scale`.

    Returns:
        The role that the longest ending of the path has, else one by the path's last name: a `kernel` decays.
    """
    declared = next((roles[ending] for ending in _endings(path) if ending in roles), None)
    return declared or (kernel(None) if path.rpartition("/")[2] == "kernel" else OTHER)


def _endings(path: str) -> Iterator[str]:
    """Yield a path and what is left of it without its first names, longest first."""
    while path:
        yield path
        path = path.partition("/")[2]


@dataclasses.dataclass(frozen=True)
class Traced:
    """What tracing an initialisation tells.

    shapes: nested dict like the parameters, of `jax.ShapeDtypeStruct`.
    roles: of every parameter. Those that have none declared get one by their names: a `kernel` decays and its last axis
        alone is an output, all else is `other`.
    """

    shapes: Params
    roles: dict[str, Role]


def trace(initialise: Callable[[], Params]) -> Traced:
    """Trace a function that makes a model's parameters; nothing is computed.

    Args:
        initialise: gives the nested dict of parameters. It may put a prefix before the paths of the model.
    """
    collector = _Collector()
    token = _COLLECTOR.set(collector)
    try:
        shapes = jax.eval_shape(lambda: initialise())  # a new function, since JAX remembers what it traced
    finally:
        _COLLECTOR.reset(token)
    flat: Any = flax.traverse_util.flatten_dict(shapes, sep="/")
    return Traced(shapes, {path: _completed(collector, path, leaf.ndim) for path, leaf in flat.items()})


def roles_of(model: nn.Module, images: Any) -> dict[str, Role]:
    """Collect the roles of all parameters of a model.

    Args:
        model: called with `(images, train=False)`.
        images: `[B, H, W, C]`, an array or a `jax.ShapeDtypeStruct`.

    Returns:
        Path -> role, see `Traced`.
    """

    def initialise() -> Params:
        return model.init(jax.random.key(0), jax.numpy.zeros(images.shape, images.dtype), train=False)["params"]

    return trace(initialise).roles


def _completed(collector: _Collector, path: str, ndim: int) -> Role:
    """Return the declared role of a parameter, or one by its last name."""
    if any(ending in collector.roles for ending in _endings(path)):
        return role_of(collector.roles, path)
    role = kernel(ndim - 1) if path.rpartition("/")[2] == "kernel" else OTHER
    in_block = any(ending.startswith(f"{block}/") for block in collector.blocks for ending in _endings(path))
    return dataclasses.replace(role, in_block=in_block)
