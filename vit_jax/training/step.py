"""The train step and the evaluation step: pure functions of a state and a batch."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from vit_jax.training import optimizer as optimizers
from vit_jax.training.optimizer import Optimizer
from vit_jax.types import Batch, Params, Prepare, TrainState


def make_init(model: nn.Module, task, optimizer: Optimizer, *, prepare: Prepare, ema: bool):
    """Makes `init(seed, batch) -> TrainState` at step 0.

    Args:
        model: images to outputs.
        task: what `metrics` it sums.
        optimizer: what it keeps for each trainable leaf.
        prepare: the same as the train step's.
        ema: whether the moving average of the parameters is kept.
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
        )

    return init


def make_train_step(
    model: nn.Module,
    task,
    optimizer: Optimizer,
    *,
    prepare: Prepare,
    ema_decay: float = 0.0,
    log_every_steps: int = 1,
    max_skipped_steps: int = 10,
    axis_name: str | None = None,
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
        log_every_steps: after how many steps the sums in `metrics` start anew.
        max_skipped_steps: after how many skipped steps in a row nothing changes any more; 1 or more.
        axis_name: the device axis under `pmap`; None where one program holds the whole batch.

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

        def mean_loss(trainable: Params):
            params = optimizers.merge(trainable, frozen)
            outputs = model.apply({"params": params}, batch["image"], train=True, rngs={"dropout": dropout_key})
            return jnp.where(mask > 0, task.loss(outputs, batch), 0.0).sum() / count, outputs

        (loss, outputs), gradients = jax.value_and_grad(mean_loss, has_aux=True)(trainable)
        loss, gradients, new_sums = _sum_over_devices((loss, gradients, task.metrics(outputs, batch)), axis_name)
        new_sums["gradient_norm"] = (optax.global_norm(gradients), jnp.ones(()))

        rate = optimizer.schedule(state.step)
        updates, opt_state = optimizer.transform.update(gradients, state.opt_state, trainable)
        factors = optimizer.rate_factors(trainable)
        trainable = jax.tree.map(lambda p, u, factor: p - rate * factor * u, trainable, updates, factors)

        # An update may overflow though its gradient does not.
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(trainable), strict=True)
        leaves_ok = jnp.stack([jnp.isfinite(g).all() & jnp.isfinite(p).all() for g, p in pairs])
        finite = jnp.isfinite(loss) & leaves_ok.all()
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
        first_bad = jnp.where(leaves_ok.all(), leaves_ok.size, jnp.argmin(leaves_ok))
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


def make_eval_step(model: nn.Module, task, *, prepare: Prepare, axis_name: str | None = None):
    """Makes `eval_step(params, batch) -> name -> (sum, count)` over the batch's unmasked examples, all devices.

    `examples` is how many there are.
    """

    def eval_step(params: Params, batch: Batch) -> dict:
        batch = prepare(None, batch)
        outputs = model.apply({"params": params}, batch["image"], train=False)
        examples = batch["mask"].sum()
        sums = task.metrics(outputs, batch) | {"examples": (examples, examples)}
        return _sum_over_devices(sums, axis_name)

    return eval_step


def _sum_over_devices(tree, axis_name: str | None):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _where(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
