"""What is learned, and its forward pass, which training and evaluation share."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.contracts import Forward, Prepare, Task
from vit_jax.errors import InputError
from vit_jax.ops.batch_axes import sliced_over
from vit_jax.training.companions import Companion
from vit_jax.types import Batch, Params, Variables, mask_of


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything a step needs but the optimizer.

    model: what the task wrapped around its encoder.
    task: forward pass, loss and metrics.
    prepare: random augmentation and normalisation of the batch, a function of a key and each example's index.
    companions: name -> model that the task uses in training and that never changes.
    """

    model: nn.Module
    task: Task
    prepare: Prepare
    companions: Mapping[str, Companion] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that no field of the data is called as a batch calls something else.

        Raises:
            InputError: one is.
        """
        for name in ("is_example", "index"):
            if name in self.task.fields:
                raise InputError(
                    f"the data has a field called {name!r}, which in a batch says which rows are examples, or which "
                    "example a row is; valid: another name"
                )


def without_masked_rows(batch: Batch) -> Batch:
    """Replace the numbers of masked rows by zeros, and adds the mask where there is none.

    So that a row that fills the batch up changes neither a value nor a gradient, even if it holds NaN: the gradient of
    a `where` after the loss is NaN if the loss's is.
    """
    mask = mask_of(batch)

    def cleared(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        return jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)) > 0, x, jnp.zeros_like(x))

    return {**jax.tree.map(cleared, batch), "is_example": mask}


def forward(
    problem: Problem,
    batch: Batch,
    *,
    params: Params,
    variables: Variables,
    rngs: Mapping[str, jax.Array],
    train: bool,
    ema_params: Params | None = None,
    companions: Mapping[str, Params] | None = None,
    step: Any = 0,
    axis_name: str | None = None,
) -> tuple[Any, Variables]:
    """Run a task's forward pass.

    Args:
        problem: what is learned.
        batch: prepared.
        params: of the model.
        variables: of the model.
        rngs: see `Task.forward`.
        train: see `Task.forward`.
        ema_params: moving average of the parameters; None without one.
        companions: name -> parameters.
        step: `[]` int32, steps done.
        axis_name: the device axis if the batch is a device's slice.

    Returns:
        Outputs, and the variables after them.
    """
    bound = {
        name: functools.partial(problem.companions[name].apply, theirs) for name, theirs in (companions or {}).items()
    }
    given = Forward(problem.model, params, ema_params, variables, bound, step)
    with sliced_over(axis_name):
        return problem.task.forward(given, batch, rngs=rngs, train=train)
