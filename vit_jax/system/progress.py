"""Progress on standard error: a bar for work of a known size, and a line for a run."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

from vit_jax.system.terminal import visible

_SECONDS_BETWEEN = {True: 0.2, False: 10.0}
"""Least time between two states of a `ProgressLine`: on a terminal, and elsewhere."""


def progress_bar(what: str, total: int, unit: str) -> tqdm:
    """Make a bar that shows after a second; a log that is no terminal gets a line each minute.

    Args:
        what: is being done, the bar's first words.
        total: number of units; 0 if it is not known.
        unit: ` images`, or `B` for bytes, which are counted in kB, MB and so on.
    """
    seconds = 0.1 if sys.stderr is not None and sys.stderr.isatty() else 60.0
    return tqdm(
        total=total,
        desc=visible(what),
        unit=unit,
        unit_scale=unit == "B",
        mininterval=seconds,
        delay=1.0,
        disable=sys.stderr is None,  # closed by whoever started the program
    )


class ProgressLine:
    """One line that a terminal shows in place of the last; a plain line every ten seconds elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        """Take the stream, which stays open."""
        self._stream, self._is_terminal = stream, stream.isatty()
        self._shown_at, self._line = float("-inf"), ""

    def show(self, line: str, *, last: bool) -> None:
        """Show a state of the work, unless the one before was shown just now.

        Args:
            line: without its newline; `visible` is applied to it, as in `print`.
            last: shows it in any case.
        """
        line, now = visible(line), time.monotonic()
        if not last and now - self._shown_at < _SECONDS_BETWEEN[self._is_terminal]:
            return
        self._shown_at = now
        if self._is_terminal:
            self._stream.write(f"\r\x1b[2K{line}")
            self._line = line
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def print(self, line: str) -> None:
        """Print a line that stays, above the state."""
        line = visible(line)
        self._stream.write(f"\r\x1b[2K{line}\n{self._line}" if self._is_terminal and self._line else f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line that a terminal shows."""
        if self._line:
            self._stream.write("\n")
            self._line = ""
