"""A progress bar on standard error."""

import sys

from tqdm import tqdm


def progress_bar(what: str, total: int, unit: str) -> tqdm:
    """A bar that shows after a second; a log that is no terminal gets a line a minute."""
    seconds = 0.1 if sys.stderr.isatty() else 60.0
    return tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", mininterval=seconds, delay=1.0)
