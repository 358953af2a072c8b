"""How commands end: one line for what the user can mend, a traceback for what they cannot."""

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterator
from typing import Any

from vit_jax.errors import InputError, TrainingDiverged
from vit_jax.system import hosts, os_errors, terminal

_PATHS = {errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR}
_AGAIN_SECONDS = 0.05
# TensorStore and array_record report the system's errors in errors of their own, with the path in the text.
_STORES = re.compile(r"os_error_code=|array_record")


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End the process with one line on standard error where that says it all; a warning is a line as well.

    Exit status 2 for an InputError, for a path that cannot be used and for a disk that is full, not writable or
    failing, 1 for training that diverged and for the loss of another process, 130 for Ctrl-C, 141 without a line where
    whoever reads the output has closed it. Any other error keeps its traceback.
    """
    terminal.accept_any_text()

    def show(message: Warning | str, category: type[Warning], filename: str, *_: object) -> None:
        if os.path.basename(os.path.dirname(filename)) != "PIL":  # whose warnings, of an image's metadata, name no file
            terminal.complain(program, message)

    warnings.showwarning = show
    try:
        with _interruptible_imports(program), _no_interrupt_is_lost(), _flushed():
            yield
    except InputError as error:
        _end(program, str(error), 2)
    except TrainingDiverged as error:
        _end(program, str(error), 1)
    except KeyboardInterrupt:
        _end(program, "interrupted", 130, at_once=True)
    except MemoryError as error:
        text = f"out of memory: {terminal.in_one_line(error)}" if str(error) else "out of memory"
        _end(program, f"{text}; valid: a smaller model, image size or batch_size", 2)
    except BrokenPipeError:  # whoever reads the output has enough of it
        os._exit(141)
    except Exception as error:
        if "RESOURCE_EXHAUSTED: Out of memory" in str(error):
            _end(program, f"{str(error).splitlines()[0]}; valid: a smaller model, image size or batch_size", 2)
        if isinstance(error, FileExistsError) and error.filename:  # of a folder that is to be made
            _end(program, f"{error.filename} exists already and is no folder", 2)
        if isinstance(error, OSError) and error.errno in _PATHS:
            text = f"{error.strerror}: {error.filename}" if error.filename else terminal.in_one_line(error)
            _end(program, text, 2)
        number = os_errors.number_of(error)
        if number not in os_errors.DISK or not (isinstance(error, OSError) or _STORES.search(str(error))):
            if hosts.is_loss(error):
                _end(program, hosts.LOST, 1)
            if not hosts.joined():
                raise
            traceback.print_exc()
            os._exit(1)
        path = getattr(error, "filename", None) or _path_in(str(error))
        reason = os.strerror(number)
        _end(program, f"{reason}: {path}" if path else reason, 2, at_once=True)


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Write what standard output holds while an error of that is still reported, not when the interpreter ends."""
    try:
        yield
    except SystemExit:  # of --help and --version
        terminal.flush_output()
        raise
    terminal.flush_output()


@contextlib.contextmanager
def _interruptible_imports(program: str) -> Iterator[None]:
    """Let Ctrl-C end the process at once while a module is imported.

    Extension modules (jaxlib, NumPy) crash if it is raised in their import, or make other errors of it; and there is
    nothing yet to clear up.
    """

    def on_interrupt(number: int, frame: types.FrameType | None) -> None:
        inner = frame
        while inner is not None and inner.f_code.co_filename != "<frozen importlib._bootstrap>":
            inner = inner.f_back
        if inner is None:
            signal.default_int_handler(number, frame)
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    replaces = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if replaces:
        signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        if replaces:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _no_interrupt_is_lost() -> Iterator[None]:
    """Send Ctrl-C once more where Python came to it in a callback whose errors it ignores.

    Such callbacks are those of the garbage collector, of which JAX has one, and finalizers. Python looks for signals
    between its own instructions alone, so that after a long call of compiled code it is often there.
    """
    before = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            threading.Timer(_AGAIN_SECONDS, signal.raise_signal, [signal.SIGINT]).start()
        else:
            before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _end(program: str, message: str, status: int, *, at_once: bool = False) -> None:
    """Print one line and exits.

    At once where writers, flushed at the exit, would only fail again, where JAX, interrupted, would crash at the exit,
    and where it would wait for other processes, which only learn that this one is lost once it is gone.
    """
    with contextlib.suppress(OSError):
        terminal.complain(program, message)
    if at_once or hosts.joined():
        with contextlib.suppress(OSError):
            terminal.flush_output()
        os._exit(status)
    sys.exit(status)


def _path_in(text: str) -> str:
    """Return the first absolute path in an error's text; without one the text, if it is more than a number."""
    match = re.search(r"/[\w./+@~-]+", text)
    return match[0] if match else re.sub(r"^\[Errno \d+\] .*$", "", text)
