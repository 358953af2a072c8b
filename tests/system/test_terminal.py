"""What is printed: names from elsewhere stay on their line, and no stream is too narrow for them."""

import errno
import io
import json
import sys

import pytest

from vit_jax.errors import InputError
from vit_jax.system import terminal
from vit_jax.system.progress import ProgressLine, progress_bar

FORGED = "cat\n\x1b]0;title\x07\x9b2Jdog\r\u2028\u2029\x85\u202e\u2066\u200f\x7f\udcff"
SHOWN = r"cat\n\x1b]0;title\x07\x9b2Jdog\r\u2028\u2029\x85\u202e\u2066\u200f\x7f\udcff"


def test_what_a_terminal_would_obey_is_written_as_an_escape():
    assert terminal.visible(FORGED) == SHOWN
    assert terminal.visible(SHOWN) == SHOWN
    for name in ("", "a  b", r"C:\new", "naïve 日本 עברית \u200d👩\u200d🚀 $x^2$ a\u0301 {}%"):
        assert terminal.visible(name) == name


def test_a_line_is_one_line_on_either_stream(capsys):
    terminal.say(FORGED)
    terminal.note(FORGED)
    terminal.complain("program", ValueError(FORGED))
    terminal.say_lines(f"a\nb {FORGED[4:]}")
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\na\nb {SHOWN[5:]}\n"
    assert err == f"{SHOWN}\nprogram: {SHOWN}\n"


def test_json_holds_the_name_as_it_is(capsys):
    terminal.say_json({FORGED: [FORGED]})
    out = capsys.readouterr().out
    assert json.loads(out) == {FORGED: [FORGED]}
    assert out.isascii() and out.removesuffix("\n").isprintable()


def test_progress_stays_on_its_line(capsys):
    stream = io.StringIO()
    progress = ProgressLine(stream)
    progress.show(FORGED, last=True)
    progress.print(FORGED)
    assert stream.getvalue() == f"{SHOWN}\n{SHOWN}\n"
    assert progress_bar(FORGED, 1, "B").desc.startswith(SHOWN)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_stream_cannot_write_is_escaped(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    terminal.accept_any_text()
    terminal.say("é 猫 \udcff")
    assert written.getvalue().decode(encoding) == {"ascii": "\\xe9", "latin-1": "é"}[encoding] + " \\u732b \\udcff\n"


def test_a_closed_stream_is_not_written_to(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    terminal.accept_any_text()
    terminal.say("a")
    terminal.complain("program", "b")
    terminal.flush_output()
    progress_bar("c", 1, "B").close()


def test_a_full_disk_under_the_output_is_named(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="standard output"):
        terminal.say("a")


def test_an_errors_text_is_one_line_in_a_traceback_too():
    assert str(InputError(f"{FORGED} is not there")) == f"{SHOWN} is not there"
