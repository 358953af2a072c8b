"""Compiles a train step for one batch size after another, and says what comes of it."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax

from vit_jax.build.experiment import Step
from vit_jax.ops.keys import example_streams
from vit_jax.parallel.pmap import PmapAhead
from vit_jax.parallel.strategy import Strategy
from vit_jax.planning import flops, hlo, plan, search
from vit_jax.planning.hardware import Rates
from vit_jax.planning.plan import Compiled
from vit_jax.training.problem import Problem, forward, without_masked_rows
from vit_jax.types import Batch, TrainState, encoder_of


class Trial:
    """A train step on devices that need not be there.

    found: batch size -> what the compiler says of the step; of every size that was tried.
    available: bytes of memory of a device; None if it is not known.
    """

    def __init__(
        self,
        step: Step,
        strategy: Strategy,
        *,
        seed: int,
        accumulate_steps: int,
        available: int | None,
        asks_for_memory: bool,
        say: Callable[[str], None],
    ) -> None:
        """Compile nothing yet.

        Args:
            step: what a config describes.
            strategy: with the devices.
            seed: of the run.
            accumulate_steps: micro-batches per step.
            available: see the class.
            asks_for_memory: see `plan.compile_step`.
            say: takes lines of progress.
        """
        self.available = available
        self.found: dict[int, Compiled] = {}
        self._step, self._strategy, self._say = step, strategy, say
        self._accumulate_steps, self._asks_for_memory = accumulate_steps, asks_for_memory
        self._train_step = step.make_train_step(strategy.axis_name)
        self._make_state = functools.partial(step.init, seed, step.example)

    def compile(self, batch_size: int) -> Compiled:
        """Compile the step for a batch size, with lines of progress."""
        self._say(f"compiling for batch size {batch_size}")
        start = time.perf_counter()
        one = plan.compile_step(
            self._train_step,
            self._make_state,
            self._step.example,
            batch_size,
            strategy=self._strategy,
            available=self.available,
            asks_for_memory=self._asks_for_memory,
        )
        verdict = {True: "fits", False: "does not fit", None: "whether it fits is unknown"}[one.fits]
        seconds = time.perf_counter() - start
        self._say(f"{verdict}: {one.memory.total / 2**30:.2f} GiB on each device ({seconds:.0f} s)")
        self.found[batch_size] = one
        return one

    def largest(self, max_compilations: int) -> int | None:
        """Search for the largest batch size that fits.

        Args:
            max_compilations: how often to compile at most, what was compiled before included.

        Returns:
            The largest size that was seen to fit, 0 if none was; None where the memory is not known.
        """
        available, unit = self.available, self._strategy.num_slices * self._accumulate_steps
        if available is None:
            return None

        def room(one: Compiled) -> tuple[bool, int]:
            return bool(one.fits), available - one.memory.total

        tried = {size // unit: room(one) for size, one in self.found.items()}
        return unit * search.largest(tried, lambda n: room(self.compile(n * unit)), limit=max_compilations)

    def work(self, one: Compiled, rates: Rates) -> dict[str, Any]:
        """Say what a device does in a step, and the least time that it takes.

        Args:
            one: a step that fits.
            rates: of a device.

        Returns:
            Name -> figure, as `vit-jax plan --json` prints them.
        """
        assert one.flops is not None and one.memory_bytes is not None and one.collectives is not None
        sent, formula = sum(each.sent_bytes for each in one.collectives), self._formula_flops(one.batch_size)
        bounds = plan.bounds(
            flops=max(one.flops, formula or 0.0), memory_bytes=one.memory_bytes, sent_bytes=sent, rates=rates
        )
        seconds, longest = max(
            ((bound.seconds, bound.name) for bound in bounds if bound.seconds is not None), default=(None, None)
        )
        return {
            "batch_size": one.batch_size,
            "formula_flops": formula,
            "xla_flops": one.flops,
            "memory_bytes": one.memory_bytes,
            "xla_bytes": one.bytes_accessed,
            "collectives": hlo.summary(one.collectives),
            "sent_bytes": sent,
            "bounds": [dataclasses.asdict(bound) for bound in bounds],
            "bound_by": longest,
            "step_seconds": seconds,
            "images_per_second": one.batch_size / seconds if seconds else None,
        }

    def notes(self, asked: Compiled, shown: Compiled | None, *, knows_network: bool) -> list[str]:
        """List what a reader of the figures has to know.

        Args:
            asked: the step of the config's batch size.
            shown: the step whose work is shown; None if nothing fits.
            knows_network: whether there is a rate of the network.
        """
        found = self._strategy.notes(self._state.params)
        if isinstance(self._strategy, PmapAhead):
            found.append(
                "jax.pmap does not compile for devices that are not there: this is the same step under jax.shard_map "
                "over a mesh of one axis, which gives each device the same program"
            )
        if shown is None:
            return [*found, "nothing that was tried fits, so that there is no program to count the work of"]
        if shown is not asked:
            found.append(
                f"there is no program for what does not fit: the work is that of batch size {shown.batch_size:,}"
            )
        return found + self._notes_on_flops(shown) + self._notes_on_collectives(shown, knows_network)

    def _notes_on_flops(self, shown: Compiled) -> list[str]:
        loops = self._accumulate_steps > 1 or getattr(encoder_of(self._step.problem.model), "scan", False)
        found = []
        if loops:
            found.append(
                "XLA counts what is in a loop (accumulate_steps, model.options.scan) once: its FLOPs and bytes are too "
                "low. The other figures count it as often as it runs"
            )
        formula = self._formula_flops(shown.batch_size)
        if formula is None:
            found.append("no FLOPs by formula: some parameters are frozen, or the task learns from its moving average")
        elif not loops and shown.flops is not None and abs(shown.flops / formula - 1) > 0.02:
            found.append(
                f"XLA counts {shown.flops / formula:.2f} times the formula's FLOPs. The formula is the matrix products "
                "of three forward passes (and one of each companion); XLA counts all arithmetic, also what is computed "
                "again (model.options.remat), but not what it hands to libraries"
            )
        return found

    def _notes_on_collectives(self, shown: Compiled, knows_network: bool) -> list[str]:
        collectives, num_devices, found = shown.collectives or [], self._strategy.num_devices, []
        if any(not each.times_known for each in collectives):
            found.append("some collectives are in loops whose length the program does not show; they count once")
        parts = [one.group_size for one in collectives if 1 < one.group_size < num_devices]
        if knows_network and parts:
            found.append(
                "the network's time takes all links of a chip to send at once; collectives among a part of the devices "
                f"(here {min(parts)} of {num_devices}) may run along one side of the torus, over 2 of 4 links (v5e, "
                "v6e) or of 6 (v4, v5p), and then take 2 or 3 times as long"
            )
        return found

    @functools.cached_property
    def _state(self) -> TrainState:
        return jax.eval_shape(self._make_state)

    @functools.cached_property
    def _formula_flops_of_one(self) -> int | None:
        """FLOPs of training on one example; see `training_flops`."""
        _, frozen = self._step.optimizer.split(self._state.params)
        if jax.tree.leaves(frozen):
            return None
        return training_flops(self._step.problem, self._state, self._step.example)

    def _formula_flops(self, batch_size: int) -> float | None:
        """Return a device's share of the formula."""
        each = self._formula_flops_of_one
        return None if each is None else each * batch_size / self._strategy.num_devices


def training_flops(problem: Problem, state: TrainState, example: Batch) -> int | None:
    """Count the matrix products of three forward passes for one example, and of one of each companion.

    The backward pass has about two for each product of the forward pass: by its left and by its right operand.

    Args:
        problem: what is learned.
        state: shapes and types.
        example: a batch of one example, as the loader gives it.

    Returns:
        FLOPs, a multiply-add as two; None if the task also runs the moving average, which is not trained.
    """
    if problem.task.needs_moving_average:
        return None
    prepared = jax.eval_shape(lambda batch: without_masked_rows(problem.prepare(None, batch)), example)

    def run(params: Any, variables: Any, companions: Any, batch: Batch) -> Any:
        key = jax.random.key(0)
        rngs = {"dropout": key, **example_streams(key, batch["index"])}
        return forward(problem, batch, params=params, variables=variables, companions=companions, rngs=rngs, train=True)

    together = flops.matrix_flops(run, state.params, state.variables, state.companions, prepared)
    theirs = sum(
        flops.matrix_flops(companion.apply, state.companions[name], prepared["image"])
        for name, companion in problem.companions.items()
    )
    return 3 * together - 2 * theirs
