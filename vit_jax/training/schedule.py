"""Learning rates over steps, and when something is due."""

import dataclasses

import jax.numpy as jnp
import optax

from vit_jax.errors import InputError

SCHEDULES = ("constant", "cosine", "linear", "rsqrt")


def learning_rate(
    name: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    end: float = 0.0,
    timescale_steps: int = 10_000,
) -> optax.Schedule:
    """Make a schedule: step (int, steps done so far) -> learning rate (float32 scalar).

    The rate rises linearly from 0 at step 0 to `peak` at `warmup_steps`; then, with u from 0 to 1 between
    there and `total_steps`,

    - constant: stays at peak;
    - cosine: end + (peak - end) (1 + cos(pi u)) / 2;
    - linear: peak + (end - peak) u;
    - rsqrt: peak sqrt(timescale_steps / (timescale_steps + steps since the warm-up)).

    In the last `cooldown_steps` it is multiplied by a factor that falls linearly from 1 to 0.

    Raises:
        InputError: an unknown name, or a value out of its range.

    Source: cosine from Loshchilov and Hutter 2016 (arXiv:1608.03983) without restarts; rsqrt with cool-down
    from Zhai et al. 2021 (arXiv:2106.04560), section 3.5.
    """
    if name not in SCHEDULES:
        raise InputError(f"optimizer.schedule is {name!r}; valid: {', '.join(SCHEDULES)}")
    for key, value in (("warmup_steps", warmup_steps), ("cooldown_steps", cooldown_steps)):
        if value < 0:
            raise InputError(f"optimizer.{key} is {value}; valid: 0 or more")
    for key, value in (("learning_rate", peak), ("end_learning_rate", end)):
        if not 0.0 <= value < float("inf"):
            raise InputError(f"optimizer.{key} is {value}; valid: 0 or more")
    if timescale_steps < 1:
        raise InputError(f"optimizer.rsqrt_timescale_steps is {timescale_steps}; valid: 1 or more")

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        since = jnp.maximum(step - warmup_steps, 0.0)
        u = jnp.minimum(since / max(total_steps - warmup_steps, 1), 1.0)
        rate = {
            "constant": lambda: jnp.full_like(u, peak),
            "cosine": lambda: end + (peak - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * u)),
            "linear": lambda: peak + (end - peak) * u,
            "rsqrt": lambda: peak * jnp.sqrt(timescale_steps / (timescale_steps + since)),
        }[name]()
        if warmup_steps:
            rate = jnp.where(step < warmup_steps, peak * step / warmup_steps, rate)
        if cooldown_steps:
            rate = rate * jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
        return rate

    return schedule


@dataclasses.dataclass(frozen=True)
class Every:
    """Due at every `steps`-th step, and at the last one.

    steps: 0 or less means at the last step alone.
    total_steps: the run's length.
    """

    steps: int
    total_steps: int

    def is_due(self, step: int) -> bool:
        """Return whether something is due once `step` steps are done (so never at 0)."""
        if step <= 0:
            return False
        return step == self.total_steps or (self.steps > 0 and step % self.steps == 0)
