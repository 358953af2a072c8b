"""Writes lines to standard output and standard error, where names from elsewhere cannot pass for output of their own.

Class names, file names and the texts of errors come from checkpoints, folders and web pages that others have made. A
line break in one of them would look like a line of the program, and an escape sequence can change what a terminal
shows. Everything that is printed or drawn therefore goes through `visible`.
"""

import io
import json
import re
import sys
from typing import Any, Literal

# C0 and C1 controls and DEL; line and paragraph separators; what changes the direction of text (Unicode's property
# Bidi_Control); and lone surrogates, by which Python stands for bytes of a file name that are no UTF-8.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Write control characters as escapes, so that a text stays on one line and shows all that it holds.

    Args:
        text: any string.

    Returns:
        The text with `\n`, `\x1b`, `\u202e` and their kin in place of control characters, changes of direction, line
        separators and lone surrogates. All else is as it was, backslashes too.

    Example:
        >>> print(visible("cat\x1b[2J\nzoë"))
        cat\x1b[2J\nzoë
    """
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def in_one_line(text: object) -> str:
    r"""Join the lines of a library's error, or of another text whose line breaks mean nothing, by spaces.

    Example:
        >>> in_one_line("not found:\n  the file")
        'not found: the file'
    """
    return re.sub(r"\s*[\r\n]+\s*", " ", str(text).strip())


def accept_any_text() -> None:
    """Make both streams write what their encoding lacks as escapes, rather than raise.

    They lack it under `PYTHONIOENCODING=ascii` or `LC_ALL=en_US.ISO-8859-1`, for example.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where there is none, or a notebook's
            stream.reconfigure(errors="backslashreplace")


def say(line: object) -> None:
    """Print one line, whose control characters show as `visible` writes them.

    Raises:
        OSError: it cannot be written; the error names the stream. So do the functions below.
    """
    _write(f"{visible(str(line))}\n", "stdout")


def say_lines(text: str) -> None:
    """Print a text of several lines, such as a table; whoever puts it together makes its cells visible."""
    _write("".join(f"{visible(line)}\n" for line in text.split("\n")), "stdout")


def say_json(value: Any, *, indent: int | None = None) -> None:
    """Print JSON, in one line unless it is indented; all but printable ASCII is escaped as JSON does it."""
    _write(json.dumps(value, indent=indent).replace("\x7f", "\\u007f") + "\n", "stdout")


def note(line: object) -> None:
    """Print one line on standard error, as `say` does."""
    _write(f"{visible(str(line))}\n", "stderr")


def complain(program: str, message: object) -> None:
    """Print one line on standard error that starts with the program's name."""
    note(f"{program}: {message}")


def flush_output() -> None:
    """Write what standard output still holds."""
    _write("", "stdout")


def _write(text: str, name: Literal["stdout", "stderr"]) -> None:
    stream = getattr(sys, name)
    if stream is None:  # closed by whoever started the program
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        error.filename = {"stdout": "standard output", "stderr": "standard error"}[name]
        raise
