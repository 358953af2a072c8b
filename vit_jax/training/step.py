"""The train step and the evaluation step: pure functions of a state and a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from vit_jax.errors import InputError
from vit_jax.training import optimizer as optimizers
from vit_jax.training.optimizer import Optimizer
from vit_jax.training.teacher import Teacher
from vit_jax.types import Batch, Params, Prepare, TrainState

ROWS: dict[str, Callable[[Any, Any, Any, Batch], jax.Array]] = {
    "label": lambda task, outputs, features, batch: batch["label"],
    "prediction": lambda task, outputs, features, batch: outputs.argmax(axis=-1).astype(jnp.int32),
    "confidence": lambda task, outputs, features, batch: task.probabilities(outputs).max(axis=-1),
    "probabilities": lambda task, outputs, features, batch: task.probabilities(outputs),
    "features": lambda task, outputs, features, batch: features.pooled.astype(jnp.float32),
}
"""What an evaluation step can give of each example, `[B, ...]`; `types.Rows` tells what they are."""


def make_init(
    model: nn.Module, task, optimizer: Optimizer, *, prepare: Prepare, ema: bool, teacher: Teacher | None = None
):
    """Makes `init(seed, batch) -> TrainState` at step 0.

    Args:
        model: images to outputs.
        task: what `metrics` it sums.
        optimizer: what it keeps for each trainable leaf.
        prepare: the same as the train step's.
        ema: whether the moving average of the parameters is kept.
        teacher: whose parameters the state has a place for, of zeros.
    """

    def init(seed: int, batch: Batch) -> TrainState:
        init_key, base_key = jax.random.split(jax.random.key(seed))
        images = prepare(None, batch)["image"]
        params = model.init({"params": init_key}, images, train=False)["params"]
        trainable, _ = optimizer.split(params)

        outputs = jax.eval_shape(lambda: model.apply({"params": params}, images, train=False))
        sums = jax.eval_shape(lambda: task.metrics(jax.tree.map(lambda x: jnp.zeros(x.shape), outputs), batch))
        names = [*sums, "gradient_norm"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.transform.init(trainable),
            ema_params=jax.tree.map(jnp.copy, params) if ema else None,
            key=jax.random.key_data(base_key),
            sums={name: (jnp.zeros(()), jnp.zeros(())) for name in names},
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_row=jnp.zeros((), jnp.int32),
            nonfinite_leaf=jnp.full((), -1, jnp.int32),
            teacher=teacher.zeros() if teacher else None,
        )

    return init


def make_train_step(
    model: nn.Module,
    task,
    optimizer: Optimizer,
    *,
    prepare: Prepare,
    ema_decay: float = 0.0,
    accumulate_steps: int = 1,
    log_every_steps: int = 1,
    max_skipped_steps: int = 10,
    axis_name: str | None = None,
    teacher: Teacher | None = None,
):
    """Makes `train_step(state, batch) -> (state, metrics)`.

    The gradient is that of the mean loss over the whole batch, all devices together. A step whose loss, gradients
    or new parameters are not finite changes nothing but the step number and is counted; once `max_skipped_steps`
    of them came in a row, every later step is left out too, so that the state stays as it was until the host
    looks (`skipped_in_row`).

    Args:
        model: images to outputs.
        task: loss and metrics of the outputs.
        optimizer: what the gradients do.
        prepare: random augmentation and normalisation of the batch, a function of a key and each example's index.
        ema_decay: of the parameters' moving average; 0 is none.
        accumulate_steps: in how many parts, one after the other, each device takes its share of the batch, which takes
            less memory. Gradients and metrics are the whole batch's; each part has a dropout key of its own.
        log_every_steps: after how many steps the sums in `metrics` start anew.
        max_skipped_steps: after how many skipped steps in a row nothing changes any more; 1 or more.
        axis_name: the device axis under `pmap`; None where one program holds the whole batch.
        teacher: what adds `teacher_logits` to the batch, from the augmented images.

    Returns:
        A function. Its metrics are name -> (sum, count), `[]` float32: the task's and `gradient_norm` over the
        steps since the last log, and of this step alone `learning_rate`, `skipped_steps`, `skipped_in_row`
        and `nonfinite_leaf`.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        base_key = jax.random.wrap_key_data(state.key)
        augment_key, dropout_key = jax.random.split(base_key)
        batch = prepare(augment_key, batch, axis_name)
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))

        mask = batch.get("mask", jnp.ones(batch["image"].shape[0], jnp.float32))
        count = _sum_over_devices(mask.sum(), axis_name)
        trainable, frozen = optimizer.split(state.params)

        def share_of_loss(trainable: Params, part: Batch, key: jax.Array):
            params = optimizers.merge(trainable, frozen)
            outputs = model.apply({"params": params}, part["image"], train=True, rngs={"dropout": key})
            loss = jnp.where(part["mask"] > 0, task.loss(outputs, part), 0.0).sum() / count
            return loss, task.metrics(outputs, part)

        def one_part(part: Batch, key: jax.Array):
            if teacher is not None:
                part = part | {"teacher_logits": teacher.logits(state.teacher, part["image"])}
            return jax.value_and_grad(share_of_loss, has_aux=True)(trainable, part, key)

        values = _sum_over_parts(one_part, batch | {"mask": mask}, dropout_key, accumulate_steps)
        (loss, new_sums), gradients = _sum_over_devices(values, axis_name)
        new_sums["gradient_norm"] = (optax.global_norm(gradients), jnp.ones(()))

        rate = optimizer.schedule(state.step)
        updates, opt_state = optimizer.transform.update(gradients, state.opt_state, trainable)
        factors = optimizer.rate_factors(trainable)
        trainable = jax.tree.map(lambda p, u, factor: p - rate * factor * u, trainable, updates, factors)

        # An update may overflow though its gradient does not.
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(trainable), strict=True)
        leaves_ok = jnp.stack([jnp.isfinite(g).all() & jnp.isfinite(p).all() for g, p in pairs])
        # The least of a sorted array, not `all`, of which XLA would make a chain of operations that it repeats in the
        # update of every leaf: compiling would take time with the square of their number.
        all_ok = jnp.sort(leaves_ok)[0]
        finite = jnp.isfinite(loss) & all_ok
        ok = finite & (state.skipped_in_row < max_skipped_steps)
        params = optimizers.merge(trainable, frozen)
        ema_params = state.ema_params
        if ema_params is not None:
            ema_params = optimizers.moving_average(ema_params, params, ema_decay)

        # A bad step's sums must not reach the log either; the sums start anew after each log.
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


def make_eval_step(
    model: nn.Module, task, *, prepare: Prepare, row_names: Sequence[str] = (), axis_name: str | None = None
):
    """Makes `eval_step(params, batch) -> (sums, rows)`.

    Args:
        model: images to outputs; it holds the encoder as `encoder`.
        task: what metrics it sums.
        prepare: the same as the train step's.
        row_names: of ROWS, what is wanted of each example.
        axis_name: the device axis under `pmap`; None where one program holds the whole batch.

    Returns:
        A function. Its sums are name -> (sum, count) over the batch's unmasked examples, all devices; `examples` is how
        many there are. Its rows are name -> `[B, ...]`, B being the whole batch: the wanted ones, the `index` of each
        example, and the `mask`. Without `row_names` there are none.
    """

    def eval_step(params: Params, batch: Batch) -> tuple[dict, dict]:
        batch = prepare(None, batch)
        # Unasked, nothing is collected, so that the model is spared what its outputs do not need.
        outputs, seen = model.apply(
            {"params": params},
            batch["image"],
            train=False,
            capture_intermediates="features" in row_names and (lambda module, _: module.path == ("encoder",)),
            mutable=[],
        )
        examples = batch["mask"].sum()
        sums = task.metrics(outputs, batch) | {"examples": (examples, examples)}
        rows = {}
        if row_names:
            features = seen["intermediates"]["encoder"]["__call__"][0] if seen else None
            rows = {name: ROWS[name](task, outputs, features, batch) for name in row_names}
            rows |= {name: batch[name] for name in ("index", "mask")}
        return _sum_over_devices(sums, axis_name), _all_of_devices(rows, axis_name)

    return eval_step


def check_accumulate_steps(accumulate_steps: int, *, batch_size: int, num_slices: int) -> None:
    """Raises InputError unless each device's share of the batch has so many equal parts."""
    share = batch_size // num_slices
    if accumulate_steps < 1 or share % accumulate_steps:
        valid = ", ".join(str(steps) for steps in range(1, share + 1) if share % steps == 0)
        raise InputError(
            f"accumulate_steps is {accumulate_steps}, which does not divide the {share} examples of each device; "
            f"valid: {valid}"
        )


def _sum_over_parts(function: Callable[[Batch, jax.Array], Any], batch: Batch, key: jax.Array, num_parts: int):
    """The sum of function(part, key) over equal parts of the batch, one after the other."""
    if num_parts == 1:
        return function(batch, key)
    # Part i is every num_parts-th row from the i-th on, so that a device that holds consecutive rows of a larger batch
    # has the same number of rows of each part and none has to move.
    parts = jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, num_parts)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(
        lambda total, each: (jax.tree.map(jnp.add, total, function(*each)), None), zeros, (parts, keys)
    )
    return total


def _sum_over_devices(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _all_of_devices(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.all_gather(tree, axis_name, tiled=True)


def _where(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
