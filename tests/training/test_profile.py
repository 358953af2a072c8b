"""The trace of a few steps: it is there, it holds the steps, and nothing is there where none was asked for."""

import gzip
import json
import re

import jax
import jax.numpy as jnp
import pytest

from vit_jax.errors import InputError
from vit_jax.training.profile import Profile


def run(directory, *, start_step, num_steps, total_steps):
    @jax.jit
    def traced_step(x):
        return x + 1

    x = jnp.zeros(())
    with Profile(directory, start_step=start_step, num_steps=num_steps, total_steps=total_steps) as profile:
        for step in range(1, total_steps + 1):
            x = traced_step(x)
            profile.after(step, x)


def test_the_steps_are_in_the_trace(tmp_path):
    """Two of them, and one where the run ends before the trace does."""
    counts = []
    for total_steps in (5, 3):
        directory = tmp_path / str(total_steps)
        run(directory, start_step=2, num_steps=2, total_steps=total_steps)
        assert list(directory.rglob("*.xplane.pb"))
        (file,) = directory.rglob("perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        counts.append(sum(event.get("name") == "PjitFunction(traced_step)" for event in events))
    assert counts[0] == 2 * counts[1] > 0  # a call has several events


@pytest.mark.parametrize(
    ("done", "num_steps", "says"),
    [
        (1, 2, None),  # it starts after the next step
        (2, 2, r"after step 2, and profile.start_step is 2; valid for one: 3 to 9$"),
        (8, 2, r"after step 8, and profile.start_step is 2; valid for one: 9 to 9$"),
        (9, 2, r"valid for one: a longer run$"),
        (10, 2, None),  # nothing is left to run
        (5, 0, None),
    ],
)
def test_a_run_that_continues_past_the_start_says_that_there_is_no_trace(tmp_path, done, num_steps, says):
    note = Profile(tmp_path, start_step=2, num_steps=num_steps, total_steps=10).note(done)
    assert note is None if says is None else re.search(says, note or "")


def test_no_trace_unless_asked_for(tmp_path):
    run(tmp_path, start_step=2, num_steps=0, total_steps=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("start_step", "num_steps", "message"),
    [
        (0, 1, "start_step is 0"),
        (1, -1, "num_steps is -1"),
        (5, 1, "start_step is 5, but the run has 5 steps; valid: 1 to 4"),
    ],
)
def test_bad_values(tmp_path, start_step, num_steps, message):
    with pytest.raises(InputError, match=message):
        Profile(tmp_path, start_step=start_step, num_steps=num_steps, total_steps=5)
