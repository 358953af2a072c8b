"""Preparations that are interrupted, repeated or started twice."""

import signal
import subprocess
import sys

import pytest
from archive_files import encoded, examples, pets, random

from vit_jax.data.prepare import prepare, shards
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError

PREPARE = """
import sys, os
from vit_jax.data.prepare import prepare, shards
prepare.SHARD_BYTES = 2000
write = shards._write_file
def counted(file, *arguments):
    if "{stop}" in file.name:
        {how}
    write(file, *arguments)
shards._write_file = counted
prepare.prepare("pets", sys.argv[1], sys.argv[2])
"""


def run_prepare(source, out, stop="nothing", how=""):
    code = PREPARE.format(stop=stop, how=how or "pass")
    return subprocess.run([sys.executable, "-c", code, str(source), str(out)], capture_output=True, text=True)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "raise KeyboardInterrupt"])
def test_an_interrupted_preparation_continues(how, tmp_path):
    folder = pets(tmp_path / "pets")
    whole, again = tmp_path / "whole" / "pets" / "1.0.0", tmp_path / "again" / "pets" / "1.0.0"
    assert run_prepare(folder, tmp_path / "whole").returncode == 0
    names = sorted(name for name in contents(whole) if "train" in name)
    assert len(names) > 3
    stopped = run_prepare(folder, tmp_path / "again", stop=names[2], how=how)
    assert stopped.returncode in (-signal.SIGKILL, -signal.SIGINT, 1)
    incomplete = again.with_name("1.0.0.incomplete")
    assert not again.exists() and (incomplete / names[1]).exists() and not (incomplete / names[2]).exists()
    with pytest.raises(InputError, match="unknown dataset 'pets'"):
        sources.open_source("pets", "train", str(tmp_path / "again"))
    # What is finished is not written again.
    before = (incomplete / names[1]).stat().st_mtime_ns
    assert run_prepare(folder, tmp_path / "again", stop=names[0], how="sys.exit(7)").returncode == 0
    assert (again / names[1]).stat().st_mtime_ns == before
    assert contents(again) == contents(whole)
    assert not incomplete.exists()


def test_other_input_starts_anew(tmp_path):
    folder = pets(tmp_path / "pets")
    out = tmp_path / "out"
    run_prepare(folder, out, stop="train.array_record-00002", how="sys.exit(7)")
    (folder / "cat" / "0.png").write_bytes(encoded(random(5, 5, 3, seed=9)))
    assert run_prepare(folder, out).returncode == 0
    found = examples("pets", "train", out) | examples("pets", "test", out)
    assert found == {file.read_bytes(): file.parent.name for file in folder.rglob("*.*g")}


def test_a_second_process_is_kept_out(tmp_path):
    target = tmp_path / "pets" / "1.0.0"
    code = "import sys; from vit_jax.data.prepare import prepare; prepare.prepare('pets', *sys.argv[1:])"
    with shards.new_folder(target) as incomplete:
        (incomplete / "kept").touch()
        command = [sys.executable, "-c", code, str(pets(tmp_path / "in")), str(tmp_path)]
        other = subprocess.run(command, capture_output=True, text=True)
        assert "another process is writing" in other.stderr and (incomplete / "kept").exists()
    with pytest.raises(InputError, match="is there already"):
        prepare.prepare("pets", str(tmp_path / "in"), str(tmp_path))
