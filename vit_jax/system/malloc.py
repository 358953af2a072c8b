"""Keeps the memory that XLA's CPU programs free in the process.

XLA allocates the temporary arrays of a program, often a gigabyte, at each execution. By default glibc returns blocks of
that size to the kernel at once, which then gives them out page by page, each zeroed and each with a page fault: 30 % of
the time of a training step on two cores (docs/measurements.md).
"""

import ctypes
import importlib.util
import os
import platform

# From glibc's malloc.h. Large blocks come from the heap instead of from maps of their own, the heap never shrinks, and
# all threads share one heap, since the heaps that glibc makes for further threads hold 64 MB at most. None of the three
# settings has an effect without the others.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_ARENA_MAX": (-8, 1)}


def keep_freed_memory() -> bool:
    """Make malloc keep what this process frees.

    Call it before JAX is used: threads that have allocated already keep their own heaps. The command-line programs
    call it; importing the library does not. It does nothing without glibc, or where JAX has an accelerator: its memory
    is not malloc's, and many decoding threads are faster with a heap each.

    Returns:
        Whether malloc was set.
    """
    if platform.libc_ver()[0] != "glibc" or not _runs_on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(parameter, value) == 1 for parameter, value in _SETTINGS.values())


def _runs_on_cpu() -> bool:
    """Find out whether JAX will compute on the CPU, without starting JAX."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))
