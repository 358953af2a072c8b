"""A trace of a few training steps, for TensorBoard or Perfetto."""

import pathlib
from typing import Any

import jax

from vit_jax.errors import InputError


class Profile:
    """Traces the `num_steps` steps after `start_step`; a context manager, at whose end an open trace is closed.

    In the directory are then TensorBoard's files (its profile plug-in opens them) and `perfetto_trace.json.gz`, which
    https://ui.perfetto.dev opens.
    """

    def __init__(self, directory: pathlib.Path, *, start_step: int, num_steps: int, total_steps: int) -> None:
        """Take where the trace goes, after which step of the run it starts, for how many, and the run's length.

        Raises:
            InputError: a start before the first step, which compiles, or after the last, or a negative number of steps;
                0 is no trace.
        """
        if start_step < 1:
            raise InputError(f"profile.start_step is {start_step}; valid: 1 (after the step that compiles) or more")
        if num_steps < 0:
            raise InputError(f"profile.num_steps is {num_steps}; valid: 0 (no trace) or more")
        if num_steps > 0 and start_step >= total_steps:
            raise InputError(
                f"profile.start_step is {start_step}, but the run has {total_steps} steps; "
                f"valid: 1 to {total_steps - 1}"
            )
        self.directory, self._start, self._end = directory, start_step, start_step + num_steps
        self._total, self._is_on = total_steps, False

    def note(self, done: int) -> str | None:
        """Say that there will be no trace of a run that continues after step `done`; None if there will be one."""
        if not self._start <= done or self._start == self._end or done >= self._total:
            return None
        first = f"{done + 1} to {self._total - 1}" if done + 1 < self._total else "a longer run"
        return (
            f"no trace is made: the run continues after step {done}, and profile.start_step is {self._start}; valid "
            f"for one: {first}"
        )

    def after(self, step: int, result: Any) -> bool:
        """Start or ends the trace if it is time, once the devices have computed the step's result; True at its end."""
        if step == self._start < self._end:
            jax.block_until_ready(result)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call of a Python function takes longer than a small step does
            jax.profiler.start_trace(self.directory, create_perfetto_trace=True, profiler_options=options)
            self._is_on = True
            return False
        if step == self._end and self._is_on:
            jax.block_until_ready(result)
            self._stop()
            return True
        return False

    def __enter__(self) -> "Profile":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End a trace that the end of the run cut short."""
        if self._is_on:
            self._stop()

    def _stop(self) -> None:
        self._is_on = False
        jax.profiler.stop_trace()
