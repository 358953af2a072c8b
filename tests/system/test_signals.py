"""Signals while the main thread is in a call that gives nothing back to Python, as XLA's compilation is."""

import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from vit_jax.system import signals

SCRIPT = """
import ctypes
from vit_jax.system.signals import StopSignals
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with StopSignals():
    libc.pthread_mutex_lock(mutex)
    print("busy", flush=True)
    libc.pthread_mutex_lock(mutex)  # for ever; no signal ends the wait
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_word_at_once_and_a_later_ctrl_c_ends_the_process(first):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(first)
        assert process.stderr.readline() == f"{signals.STOPPING}\n"
        process.send_signal(signal.SIGINT)  # too soon to be another one
        time.sleep(2 * signals._SAME_SECONDS)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", f"{signals.ENDED}\n")
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()


def test_both_signals_are_given_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with signals.StopSignals() as stop:
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
        assert not stop.agreed(1) and stop.exit_status() == 0
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed(2) and stop.exit_status() == 143
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.set_wakeup_fd(-1) == -1
