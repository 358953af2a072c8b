"""Worker processes: they end the run with a reason when they die or raise, and never keep it waiting."""

import collections
import errno
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from vit_jax.data.loading.shared_memory import FOLDER
from vit_jax.data.loading.workers import batches_from_workers
from vit_jax.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[3]
BLANK = {"image": np.zeros((4, 2), np.uint8), "index": np.zeros(4, np.int64)}
WATCHDOG_SECONDS = 120  # hangs are what is tested here


@pytest.fixture(autouse=True)
def watchdog():
    def fail(*_):
        raise TimeoutError("the loader hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(WATCHDOG_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def load(number):
    return {"image": np.full(2, number, np.uint8), "index": number}


def load_or_die(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(number)


def load_or_bus(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGBUS)
    return load(number)


def load_or_exit(number):
    if number == 5:
        os._exit(0)
    return load(number)


def load_or_raise(number):
    if number == 5:
        raise KeyError("a mistake in the program")
    return load(number)


@pytest.mark.parametrize(("count", "num_workers"), [(0, 1), (3, 2), (30, 3)])
def test_batches_come_in_order_and_the_last_has_the_rest(count, num_workers):
    batches = list(batches_from_workers(load, range(count), blank=BLANK, num_workers=num_workers))
    assert [len(batch["index"]) for batch in batches] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    if batches:
        np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in batches]), np.arange(count))
        np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in batches])[:, 1], np.arange(count))


def test_a_batch_stays_as_it_is_while_others_come():
    batches = batches_from_workers(load, range(40), blank=BLANK, num_workers=1)
    first = next(batches)["index"]
    assert len(list(batches)) == 9
    np.testing.assert_array_equal(first, np.arange(4))


def test_workers_end_with_the_batches():
    batches = batches_from_workers(load, range(10**6), blank=BLANK, num_workers=2)
    next(batches)
    batches.close()
    assert not [process for process in multiprocessing.active_children() if process.name == "loader"]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (load_or_die, r"was killed \(SIGKILL\)"),
        (load_or_exit, "ended with status 0"),
        (load_or_bus, r"was ended by SIGBUS.* shared memory \(/dev/shm\)"),
    ],
)
def test_a_worker_that_dies_ends_the_run_with_its_reason(function, reason):
    batches = batches_from_workers(function, range(40), blank=BLANK, num_workers=2)
    assert next(batches)["index"].tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match=f"a worker process that decodes images {reason}.*num_workers"):
        list(batches)


def test_a_worker_that_is_killed_from_outside_is_noticed():
    batches = batches_from_workers(load, range(10**6), blank=BLANK, num_workers=2)
    next(batches)
    victim = next(process for process in multiprocessing.active_children() if process.name == "loader")
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(InputError, match="SIGKILL"):
        list(batches)


def test_signals_to_the_whole_process_group_do_not_end_the_workers():
    batches = batches_from_workers(load, range(40), blank=BLANK, num_workers=2)
    next(batches), next(batches)  # one of each worker, which has started then
    for process in multiprocessing.active_children():
        if process.name == "loader":
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGINT)
    assert len(list(batches)) == 8


def test_signals_to_workers_that_have_only_begun_to_start_do_not_end_them():
    batches = batches_from_workers(load, range(40), blank=BLANK, num_workers=2)
    sent = set()

    def send():  # to each, as soon as it is there
        while len(sent) < 2:
            for process in multiprocessing.active_children():
                if process.name == "loader" and process.pid not in sent:
                    sent.add(process.pid)
                    os.kill(process.pid, signal.SIGTERM)
                    os.kill(process.pid, signal.SIGINT)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert len(list(batches)) == 10
    sender.join()
    assert not {signal.SIGTERM, signal.SIGINT} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_too_little_shared_memory_is_said_before_a_worker_starts(monkeypatch):
    before, asked = set(FOLDER.iterdir()), []

    def full(descriptor, offset, size):
        asked.append((offset, size, os.fstat(descriptor).st_size))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2**20, 0, 2**20))
    blank = {"image": np.zeros((4, 2**16), np.uint8)}
    message = (
        "3 worker processes need 1.5 MiB of shared memory, 2 batches of 0.2 MiB for each, and /dev/shm has 1.0 MiB "
        "left; valid: data.num_workers=2, a smaller batch, or more shared memory (docker run --shm-size="
    )
    with pytest.raises(InputError, match=re.escape(message)):
        next(batches_from_workers(load, range(40), blank=blank, num_workers=3))
    assert asked == [(0, 3 * 2**19, 3 * 2**19)]
    assert set(FOLDER.iterdir()) <= before and not multiprocessing.active_children()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_memory_cannot_be_reserved_it_is_used_all_the_same(number, monkeypatch):
    def refuse(descriptor, offset, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert len(list(batches_from_workers(load, range(4), blank=BLANK, num_workers=1))) == 1


def test_an_internal_error_says_where_it_happened():
    with pytest.raises(KeyError, match="a mistake in the program") as caught:
        list(batches_from_workers(load_or_raise, range(40), blank=BLANK, num_workers=2))
    assert any("load_or_raise" in note for note in caught.value.__notes__)


def test_a_damaged_image_is_named_by_file(tmp_path):
    # Not above, where each worker of the other tests would import it.
    from vit_jax.data.images.transforms import Preprocessing
    from vit_jax.data.loading.loader import Share
    from vit_jax.data.loading.pipeline import Pipeline
    from vit_jax.data.loading.streaming import Streaming
    from vit_jax.data.sources.examples import Examples
    from vit_jax.data.sources.files import Files
    from vit_jax.types import class_fields

    (tmp_path / "damaged.png").write_bytes(b"no image")
    files = Files(str(tmp_path), ["damaged.png"], np.zeros(1, np.int32))
    data = Streaming(Pipeline(Examples("one", class_fields(["a"]), files), Preprocessing((8, 8))), num_workers=1)
    with pytest.raises(InputError, match=r"damaged\.png: the image is not an image in a format"):
        list(data.train_batches(Share(2), seed=0, start_step=0, total_steps=1))


def test_workers_end_when_their_parent_is_killed():
    program = (
        "import os\n"
        "from tests.data.loading.test_workers import BLANK, batches_from_workers, load\n"
        "batches = batches_from_workers(load, range(10**6), blank=BLANK, num_workers=1)\n"
        "next(batches)\n"
        "os._exit(7)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.communicate(timeout=WATCHDOG_SECONDS)  # ends when the worker, which writes to the same pipe, has ended
    assert run.returncode == 7
