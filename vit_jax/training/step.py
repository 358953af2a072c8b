"""The train step: a pure function of a state and a batch, for any task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.errors import InputError
from vit_jax.ops.keys import example_streams
from vit_jax.training import optimizer as optimizers
from vit_jax.training.optimizer import Optimizer
from vit_jax.training.problem import Problem, forward, without_masked_rows
from vit_jax.types import Batch, Params, TrainState, Variables

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, tuple[jax.Array, jax.Array]]]]


def make_train_step(
    problem: Problem,
    optimizer: Optimizer,
    *,
    ema_decay: float | optax.Schedule = 0.0,
    accumulate_steps: int = 1,
    log_every_steps: int = 1,
    max_skipped_steps: int = 10,
    axis_name: str | None = None,
) -> TrainStep:
    """Make `train_step(state, batch) -> (state, metrics)`.

    The gradient is that of the sum of the losses over the sum of the weights (`Task.weight`), of the whole batch, all
    devices together. A step whose loss, gradients or new parameters are not finite changes nothing but the step number
    and is counted; once `max_skipped_steps` of them came in a row, every later step is skipped too, so that the state
    stays as it was until the host looks (`skipped_in_row`).

    Args:
        problem: what is learned.
        optimizer: what the gradients do.
        ema_decay: decay of the parameters' moving average, or a function of the steps done; only with a state that
            keeps one.
        accumulate_steps: micro-batches per step (gradient accumulation); must divide the per-device batch size.
            Gradients and metrics are those of the whole batch; each micro-batch has a dropout key of its own, and the
            variables pass from one to the next.
        log_every_steps: number of steps after which the sums in `metrics` start again from zero.
        max_skipped_steps: number of skipped steps in a row after which nothing changes any more; 1 or more.
        axis_name: the device axis under `pmap`; None where one program holds the whole batch.

    Returns:
        A function. Its metrics are name -> (sum, count), `[]` float32: `loss`, those of the task and `gradient_norm`
        over the steps since the last log, and of this step alone `learning_rate`, `skipped_steps`, `skipped_in_row`
        and `nonfinite_leaf`.
    """
    decay_at: Any = ema_decay if callable(ema_decay) else lambda step: ema_decay

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        base_key = jax.random.wrap_key_data(state.key)
        augment_key, dropout_key = jax.random.split(base_key)
        batch = without_masked_rows(problem.prepare(augment_key, batch, axis_name))
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))

        weights = jnp.where(batch["is_example"] > 0, problem.task.weight(batch), 0.0)
        total_weight = sum_over_devices(weights.sum(), axis_name)
        total_weight = jnp.where(total_weight > 0, total_weight, 1.0)  # nothing to learn from is no division by 0
        trainable, frozen = optimizer.split(state.params)

        def share_of_loss(trainable: Params, variables: Variables, part: dict, dropout_key: jax.Array):
            outputs, variables = forward(
                problem,
                part["batch"],
                params=optimizers.merge(trainable, frozen),
                variables=variables,
                rngs={"dropout": dropout_key, **part["streams"]},
                train=True,
                ema_params=state.ema_params,
                companions=state.companions,
                step=state.step,
                axis_name=axis_name,
            )
            mask = part["batch"]["is_example"]
            loss = jnp.where(mask > 0, problem.task.loss(outputs, part["batch"]), 0.0).sum()
            sums = {"loss": (loss, part["weights"].sum()), **problem.task.metrics(outputs, part["batch"], train=True)}
            return loss / total_weight, (sums, variables)

        def gradient(part: dict, dropout_key: jax.Array, variables: Variables):
            (loss, (sums, variables)), gradients = jax.value_and_grad(share_of_loss, has_aux=True)(
                trainable, variables, part, dropout_key
            )
            return (loss, sums, gradients), variables

        whole = {"batch": batch, "weights": weights, "streams": example_streams(base_key, batch["index"])}
        totals, variables = sum_over_parts(gradient, whole, dropout_key, state.variables, num_parts=accumulate_steps)
        loss, new_sums, gradients = sum_over_devices(totals, axis_name)
        new_sums["gradient_norm"] = (optax.global_norm(gradients), jnp.ones(()))

        rate = optimizer.schedule(state.step)
        updates, opt_state = optimizer.transform.update(gradients, state.opt_state, trainable)
        factors = optimizer.rate_factors(trainable)
        trainable = jax.tree.map(lambda p, u, factor: p - rate * factor * u, trainable, updates, factors)

        leaves_ok = _finite_leaves(gradients, trainable)
        # The least of a sorted array, not `all`, of which XLA would make a chain of operations that it repeats in the
        # update of every leaf: compiling would take time with the square of their number.
        all_ok = jnp.sort(leaves_ok)[0]
        ok = jnp.isfinite(loss) & all_ok & (state.skipped_in_row < max_skipped_steps)
        params = optimizers.merge(trainable, frozen)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optimizers.moving_average(ema_params, params, decay_at(state.step))

        # A bad step's sums must not reach the log either; the sums start again after each log.
        restart = state.step % log_every_steps == 0
        sums = jax.tree.map(
            lambda old, new: jnp.where(restart, 0.0, old) + jnp.where(ok, new, 0.0), state.sums, new_sums
        )
        first_bad = jnp.where(all_ok, leaves_ok.size, jnp.argmin(leaves_ok))
        new_state = state.replace(
            step=state.step + 1,
            params=_where(ok, params, state.params),
            opt_state=_where(ok, opt_state, state.opt_state),
            ema_params=_where(ok, ema_params, state.ema_params),
            variables=_where(ok, variables, state.variables),
            sums=sums,
            skipped=state.skipped + ~ok,
            skipped_in_row=jnp.where(ok, 0, state.skipped_in_row + 1),
            nonfinite_leaf=jnp.where(
                ok, -1, jnp.where(state.skipped_in_row == 0, first_bad, state.nonfinite_leaf)
            ).astype(jnp.int32),
        )
        now = {
            "learning_rate": rate,
            "skipped_steps": new_state.skipped,
            "skipped_in_row": new_state.skipped_in_row,
            "nonfinite_leaf": new_state.nonfinite_leaf,
        }
        metrics = sums | {name: (jnp.asarray(value, jnp.float32), jnp.ones(())) for name, value in now.items()}
        return new_state, metrics

    return train_step


def check_accumulate_steps(accumulate_steps: int, *, batch_size: int, num_slices: int) -> None:
    """Check that the micro-batches of a device are equal.

    Raises:
        InputError: the number of them does not divide the device's examples.
    """
    share = batch_size // num_slices
    if accumulate_steps < 1 or share % accumulate_steps:
        valid = ", ".join(str(steps) for steps in range(1, share + 1) if share % steps == 0)
        raise InputError(
            f"accumulate_steps is {accumulate_steps}, which does not divide the {share} examples of each device; "
            f"valid: {valid}"
        )


def sum_over_parts(
    function: Callable[[Any, jax.Array, Any], tuple[Any, Any]],
    whole: Any,
    key: jax.Array,
    carry: Any,
    *,
    num_parts: int,
) -> tuple[Any, Any]:
    """Sum function(part, key, carry) over equal parts of a tree, in turn.

    Args:
        function: gives what is summed, and the carry for the next part.
        whole: a tree of arrays `[B, ...]`.
        key: each part gets one of its own, made of it.
        carry: for the first part.
        num_parts: must divide B.

    Returns:
        The sum, and the carry after the last part.
    """
    if num_parts == 1:
        return function(whole, key, carry)
    # Part i is every num_parts-th row from the i-th on, so that a device that holds consecutive rows of a larger batch
    # has the same number of rows of each part and none has to move.
    parts = jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1), whole)
    keys = jax.random.split(key, num_parts)
    shapes, _ = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts), key, carry)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def one(totals: tuple[Any, Any], each: tuple[Any, jax.Array]):
        total, carry = totals
        value, carry = function(*each, carry)
        return (jax.tree.map(jnp.add, total, value), carry), None

    totals, _ = jax.lax.scan(one, (zeros, carry), (parts, keys))
    return totals


def sum_over_devices(tree: Any, axis_name: str | None) -> Any:
    """Sum each leaf over the devices of an axis; None is none."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _finite_leaves(gradients: Params, trainable: Params) -> jax.Array:
    """Tell of each leaf whether its gradient and its new value are finite, `[leaves]` bool."""
    # An update may overflow though its gradient does not.
    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(trainable), strict=True)
    return jnp.stack([jnp.isfinite(g).all() & jnp.isfinite(p).all() for g, p in pairs])


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
