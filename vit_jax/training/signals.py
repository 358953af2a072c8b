"""Stopping a run in good order."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopSignals:
    """While active, SIGTERM and Ctrl-C only set `received`; a second one acts as usual, at once.

    With several processes SIGTERM stays with JAX, which tells the others of it; Ctrl-C is passed on as one.
    """

    def __init__(self) -> None:
        """Changes nothing yet."""
        self.received: int | None = None
        """The signal's number, or None."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        """Takes over both signals."""
        for number in (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the same answer in all processes.

        Several processes agree, by way of their hosts alone, on the first step that none of them is past.

        Args:
            step: done so far; to be asked after each one.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.received = self.received or signal.SIGTERM
            return True
        return jax.process_count() == 1 and self.received is not None

    def exit_status(self) -> int:
        """143 after SIGTERM, 130 after Ctrl-C, 0 if neither came."""
        return 0 if self.received is None else 128 + self.received

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self.__exit__()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
