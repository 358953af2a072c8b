"""Only damage is damage: what may pass ends the command, and nothing is moved away."""

import errno
import os
import pathlib
import resource
import shutil
import time

import pytest
from test_writing import INFO, restore, saved, state

from vit_jax.errors import InputError
from vit_jax.training.checkpoints import damage, reading
from vit_jax.training.checkpoints.writing import Checkpoints

STORE = "UNKNOWN: Error reading \"a/0\" in OCDBT database: Failed to read from file: Oops [os_error_code='{}']"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EMFILE, "Too many open files"),
        ValueError(STORE.format(errno.EIO)),
        ValueError(STORE.format(errno.EMFILE)),
        ValueError("UNAVAILABLE: the server does not answer"),
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."),
        ImportError("no zstd"),
    ],
)
def test_what_may_pass_is_no_damage(error):
    assert not damage.is_damage(error)
    line = str(damage.hindrance(pathlib.Path("/runs/a/checkpoints/7"), error))
    assert line.startswith("/runs/a/checkpoints/7 cannot be read, which may pass (") and "\n" not in line


@pytest.mark.parametrize(
    "error",
    [
        damage.Damaged("params/a is not what was saved"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        FileNotFoundError("no metadata"),
        ValueError("DATA_LOSS: Error decoding zstd"),
        ValueError(STORE.format(errno.ENOENT)),
        UnicodeDecodeError("utf8", b"\xff", 0, 1, "invalid start byte"),
        KeyError("tree_metadata"),
        RecursionError(),
    ],
)
def test_what_comes_from_the_content_is(error):
    assert damage.is_damage(error)


def failing(monkeypatch, part, number):
    """Makes reading the files fail whose path has a part."""
    read = pathlib.Path.read_bytes

    def read_bytes(path):
        if part in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_bytes)


def test_an_error_that_may_pass_ends_a_run_and_moves_nothing(tmp_path, monkeypatch):
    directory = tmp_path / "checkpoints"
    saved(directory, [1, 2], keep_last=2)
    failing(monkeypatch, "/2/info/", errno.EIO)
    for read in (
        lambda: restore(directory),
        lambda: reading.read_model(tmp_path),
        lambda: reading.last_info(directory),
    ):
        with pytest.raises(
            InputError, match=r"checkpoints/2 cannot be read, which may pass \(EIO, .*; valid: the same"
        ):
            read()
    monkeypatch.undo()
    assert restore(directory).step == 2


@pytest.mark.parametrize(
    "place", ["info/metadata", "checksums/metadata", "ema_params/_METADATA", "ema_params/manifest.ocdbt"]
)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_damage_and_reading_ends(place, make, tmp_path):
    directory = tmp_path / "checkpoints"
    saved(directory, [1, 2], keep_last=2)
    (directory / "2" / place).unlink()
    make(directory / "2" / place)
    with pytest.warns(UserWarning, match="2 is incomplete or damaged .*; using checkpoint 1"):
        assert reading.read_model(tmp_path).step == 1
    assert restore(directory).step == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.write_text("[1]")])
def test_what_orbax_says_of_a_checkpoint_is_not_needed(make, tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    (tmp_path / "1" / "_CHECKPOINT_METADATA").unlink()
    make(tmp_path / "1" / "_CHECKPOINT_METADATA")
    assert restore(tmp_path).step == 2
    assert saved(tmp_path, [3], keep_last=2) == [2, 3]


@pytest.mark.parametrize("place", ["info/metadata", "ema_params/_METADATA", "ema_params/manifest.ocdbt"])
def test_a_file_that_claims_to_be_huge_is_damage(place, tmp_path):
    saved(tmp_path, [1, 2], keep_last=2)
    os.truncate(tmp_path / "2" / place, 2**40)
    assert restore(tmp_path).step == 1


@pytest.mark.parametrize("name", ["9" * 200, str(2**31), "007", "²"])
def test_a_number_that_is_no_step_is_named_before_it_stops_saving(name, tmp_path):
    saved(tmp_path / "checkpoints", [1])
    (tmp_path / "checkpoints" / name).mkdir()
    assert reading.read_model(tmp_path).step == 1
    with pytest.raises(InputError, match=f"checkpoints/{name} is no checkpoint, though its name is a number"):
        restore(tmp_path / "checkpoints")


def test_a_later_step_does_not_keep_a_run_from_saving_without_a_word(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state(5), INFO, None)
        with pytest.raises(InputError, match="holds step 5, so that step 4 cannot be saved"):
            checkpoints.save(4, state(4), INFO, None)


@pytest.mark.parametrize("text", ["", "{}", '{"best": -5.0}', "[" * 100_000])
def test_a_damaged_score_counts_for_nothing(text, tmp_path):
    directory, options = tmp_path / "checkpoints", {"best_metric": "test/loss", "known_metrics": ["test/loss"]}
    saved(directory, [1, 2, 3], {1: 0.9, 2: 0.7, 3: 0.8}, keep_last=3, **options)
    (directory / "1" / "metrics" / "metrics").write_text(text)
    with pytest.warns(UserWarning, match=r"checkpoint 1 is incomplete or damaged .*; using checkpoint 3"):
        assert reading.read_model(tmp_path, "best").step == 3
    with Checkpoints(directory, keep_last=3, **options) as checkpoints:
        notes = checkpoints.restore(state(0), INFO, max_step=9).notes
    assert ["no longer counts for the best" in note for note in notes] == [True]
    assert reading.read_model(tmp_path, "best").step == 3


def test_a_disk_that_fails_names_the_checkpoint_and_leaves_the_one_before(tmp_path):
    saved(tmp_path, [1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="File too large") as caught, Checkpoints(tmp_path) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
        try:
            checkpoints.save(2, state(2), INFO, None)
            checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "2"))
    assert reading.steps_in(tmp_path) == [1]


def test_a_folder_that_cannot_be_made_ends_a_save_at_once(tmp_path, monkeypatch):
    make = os.mkdir

    def mkdir(path, *args, **options):
        if "ema_params" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        make(path, *args, **options)

    started = time.monotonic()
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(os, "mkdir", mkdir)
        with pytest.raises(OSError, match="Input/output error") as caught:
            checkpoints.save(2, state(2), INFO, None)
    assert caught.value.filename == str(tmp_path / "2") and time.monotonic() - started < 30


@pytest.mark.parametrize("name", ["a[1]", "a*", "a\\", "gs:"])
def test_a_folder_may_have_any_name(name, tmp_path):
    saved(tmp_path / "a1" / "checkpoints", [1])  # what the pattern `a[1]` and `a*` match
    directory = tmp_path / name / "checkpoints"
    saved(directory, [2, 3], keep_last=2)
    assert restore(directory).step == 3
    assert reading.read_model(directory.parent).step == 3
    reading.write_params(tmp_path / name / "converted" / "checkpoints", 0, state(0).params, INFO)
    assert reading.read_model(tmp_path / name / "converted").step == 0
    shutil.rmtree(directory / "3" / "params")
    notes = restore(directory).notes
    assert any("moved it to unreadable-3" in note for note in notes)
