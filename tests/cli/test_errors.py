"""How a command ends when Ctrl-C comes, and which warnings are shown."""

import os
import subprocess
import sys
import warnings

import pytest
from conftest import ROOT

from vit_jax.cli.errors import one_line_errors

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


def test_a_warning_is_a_line_unless_it_is_pillows(monkeypatch, capsys):
    """What Pillow says of an image names no file."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    warnings.simplefilter("always")
    with one_line_errors("vit-jax predict"):
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "/lib/PIL/TiffImagePlugin.py", 1)
        warnings.warn_explicit("2 images were skipped", UserWarning, "/lib/vit_jax/data/sources/files.py", 1)
    assert capsys.readouterr().err == "vit-jax predict: 2 images were skipped\n"


def test_what_takes_long_to_import_is_imported_where_ctrl_c_is_answered():
    code = (
        "import sys, train, vit_jax.cli.main; print([name for name in ('jax', 'numpy', 'absl') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stdout == "[]\n", result.stderr


def test_ctrl_c_is_one_line_while_the_command_line_is_imported(tmp_path):
    (tmp_path / "argparse.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    code = "import signal, runpy\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "runpy.run_module('vit_jax', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "vit-jax: interrupted\n")
