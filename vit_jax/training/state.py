"""The training state of a run that starts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.ops.keys import example_streams, seed_key
from vit_jax.training.optimizer import Optimizer
from vit_jax.training.problem import Problem, forward, without_masked_rows
from vit_jax.types import Batch, TrainState


def make_init(problem: Problem, optimizer: Optimizer, *, moving_average: bool) -> Callable[[int, Batch], TrainState]:
    """Make `init(seed, batch) -> TrainState` at step 0.

    Args:
        problem: what is learned.
        optimizer: what it keeps for each trainable leaf.
        moving_average: whether the moving average of the parameters is kept.

    Raises:
        InputError: the task needs the moving average and none is kept.
    """
    if problem.task.needs_moving_average and not moving_average:
        name = type(problem.task).__module__.rpartition(".")[2]
        raise InputError(f"ema_decay is 0, but task {name!r} learns from the moving average; valid: above 0, as 0.996")

    def init(seed: int, batch: Batch) -> TrainState:
        init_key, base_key = jax.random.split(seed_key(seed))
        prepared = without_masked_rows(problem.prepare(None, batch))
        variables: Any = dict(problem.task.initialise(problem.model, init_key, prepared))
        params = variables.pop("params")
        trainable, _ = optimizer.split(params)
        companions = {name: companion.zeros() for name, companion in problem.companions.items()}

        def metrics() -> dict[str, Any]:
            outputs, _ = forward(
                problem,
                prepared,
                params=params,
                variables=variables,
                rngs={"dropout": base_key, **example_streams(base_key, prepared["index"])},
                train=True,
                ema_params=params,
                companions=companions,
                step=jnp.zeros((), jnp.int32),
            )
            return problem.task.metrics(outputs, prepared, train=True)

        names = ["loss", *jax.eval_shape(metrics), "gradient_norm"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.transform.init(trainable),
            ema_params=jax.tree.map(jnp.copy, params) if moving_average else None,
            key=jax.random.key_data(base_key),
            sums={name: (jnp.zeros(()), jnp.zeros(())) for name in names},
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_row=jnp.zeros((), jnp.int32),
            nonfinite_leaf=jnp.full((), -1, jnp.int32),
            variables=variables,
            companions=companions,
        )

    return init
