"""Memory that XLA's CPU programs free stays with the process.

XLA allocates the temporary arrays of a program, often a gigabyte, anew for each execution. By default glibc gives
blocks of that size back to the kernel at once, which then hands them out page by page, each zeroed and each a page
fault: 30 % of the time of a training step on two cores (docs/speed.md).
"""

import ctypes
import importlib.util
import os
import platform

# glibc's malloc.h. Large blocks come from the heap instead of maps of their own; the heap never shrinks; and there is
# one heap, since those that glibc makes for further threads hold 64 MB at most. Each alone changes nothing.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_ARENA_MAX": (-8, 1)}


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed, for all of this process; gives whether it did.

    To be called before JAX is used: threads that have allocated already keep their own heaps. The command-line programs
    do it; importing the library does not. Nothing happens without glibc, or where JAX has an accelerator, whose
    memory is not malloc's and whose many decoding threads are better off with a heap each.
    """
    if platform.libc_ver()[0] != "glibc" or not _runs_on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(parameter, value) == 1 for parameter, value in _SETTINGS.values())


def _runs_on_cpu() -> bool:
    """Whether JAX will compute on the CPU, without starting it."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(plugin) for plugin in ("jax_plugins", "libtpu"))
