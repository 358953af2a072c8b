"""Stops a run between two steps when a signal comes."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType

import jax
from jax.experimental import multihost_utils

from vit_jax.system import terminal

STOPPING = "stopping when the current step or evaluation is done and saved; Ctrl-C (again) ends at once, unsaved"
ENDED = "ended at once; the same command continues from the last checkpoint"
_SAME_SECONDS = 0.5
"""Two Ctrl-Cs within this time are one: a program that starts others passes on what the terminal has sent to all."""


class StopSignals:
    """Catches SIGTERM and Ctrl-C inside `with`: sets `received` and prints a line; a second Ctrl-C ends the process.

    Further SIGTERMs change nothing, since schedulers send several. When the process ends at once, the files on disk are
    whole, as after SIGKILL: checkpoints have their names only once they are complete.

    Python runs handlers in the main thread, which may compile for minutes. Another thread therefore prints the line and
    ends the process; it reads the byte that Python writes for each signal (`signal.set_wakeup_fd`).

    With several processes JAX handles SIGTERM and tells the others of it; Ctrl-C is passed on as a SIGTERM.
    """

    def __init__(self) -> None:
        """Change nothing yet."""
        self.received: int | None = None
        """Number of the first signal, or None."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        """Take the signals over."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
        self._thread.start()
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def agreed(self, step: int) -> bool:
        """Say whether to stop after this step, with the same answer in all processes.

        Several processes agree on the first step that none of them has passed; their devices take no part in it.

        Args:
            step: done so far; has to be asked after each step.
        """
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.received = self.received or signal.SIGTERM
            return True
        return jax.process_count() == 1 and self.received is not None

    def exit_status(self) -> int:
        """Return 143 after SIGTERM, 130 after Ctrl-C, and 0 if neither came."""
        return 0 if self.received is None else 128 + self.received

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or number  # at the latest when the step that it came in is done

    def _watch(self) -> None:
        """Handle each signal when it comes, in a thread."""
        first = None
        while numbers := os.read(self._read, 1):
            number = numbers[0]
            if number not in self._before:  # some other handler's
                continue
            if first is None:
                first = time.monotonic()
                with contextlib.suppress(OSError):  # nobody reads it
                    terminal.note(STOPPING)
                if jax.process_count() > 1:
                    os.kill(os.getpid(), signal.SIGTERM)
            elif number == signal.SIGINT and time.monotonic() - first > _SAME_SECONDS:
                os.write(2, f"{ENDED}\n".encode())
                os._exit(128 + number)
