"""What malloc keeps: the pages of large arrays are the process's until its end, and nothing else changes."""

import json
import os
import platform
import subprocess
import sys

import pytest

from vit_jax.system import malloc

# Three large arrays, of a thread as XLA's are, one after the other; the page faults that the last one costs.
SCRIPT = """
import json, resource, sys, threading
from vit_jax.system.malloc import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
import numpy as np
def work():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        total = float(np.ones(24_000_000, np.float32).sum())
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        totals.append(total)
faults, totals = [], []
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(json.dumps([kept, faults[-1], totals]))
"""


def run(mode, **environment):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "NUMPY_MADVISE_HUGEPAGE": "0"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_a_large_array_takes_the_pages_of_the_one_before():
    kept, faults, totals = run("keep")
    kept_without, faults_without, totals_without = run("leave")
    assert kept and not kept_without
    assert totals == totals_without == [24e6] * 3
    assert faults < 100 < faults_without  # 96 MB are 23,438 pages


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu"])
def test_with_an_accelerator_nothing_changes(monkeypatch, platforms):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert not malloc.keep_freed_memory()


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not malloc.keep_freed_memory()
