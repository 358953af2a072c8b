"""The kind of device that a program is being traced for, where one kind wants its arrays otherwise than another."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_TARGET = contextvars.ContextVar[str | None]("target", default=None)


def target() -> str:
    """`cpu`, `gpu` or `tpu`: what `compiling_for` says, else the default devices of this process."""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Return what is traced in this context is for such devices, which need not be there."""
    token = _TARGET.set(platform)
    try:
        yield
    finally:
        _TARGET.reset(token)
