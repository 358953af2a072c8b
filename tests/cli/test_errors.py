"""How a command ends when Ctrl-C comes."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

IN_IMPORT = """
try:
    import interrupted_here
except BaseException:
    print("went on")
"""
IN_WORK = """
try:
    signal.raise_signal(signal.SIGINT)
finally:
    print("cleared up")
"""
IN_CALLBACK = """
import gc, time

def callback(*_):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)
    time.sleep(0)

gc.callbacks.append(callback)
try:
    gc.collect()
    time.sleep(60)
    print("went on")
finally:
    print("cleared up")
"""


@pytest.mark.parametrize(
    ("work", "output"),
    [(IN_IMPORT, ""), (IN_WORK, "cleared up\n"), (IN_CALLBACK, "cleared up\n")],
    ids=["in an import", "in work", "in a callback"],
)
def test_ctrl_c_is_one_line_whatever_it_comes_in(tmp_path, work, output):
    (tmp_path / "interrupted_here.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    # As in a terminal: a shell has what it starts in the background ignore Ctrl-C.
    lines = ["import signal", "signal.signal(signal.SIGINT, signal.default_int_handler)"]
    lines += ["from vit_jax.cli.errors import one_line_errors", "with one_line_errors('program'):"]
    script = "\n".join([*lines, *(f"    {line}" for line in work.splitlines())])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, output, "program: interrupted\n")


def test_what_takes_long_to_import_is_imported_where_ctrl_c_is_answered():
    code = (
        "import sys, train, vit_jax.cli.main; print([name for name in ('jax', 'numpy', 'absl') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stdout == "[]\n", result.stderr
