"""Lets each of the system's calls of saving or restoring fail in turn, and asks how that ends.

python benchmarks/failing_disk.py [--errors EIO ENOSPC] [--runs 4]

A library that is loaded before the C library (LD_PRELOAD; it needs Linux and cc) counts the calls of a kind (open,
write, fsync, rename, mkdir, read) that concern a checkpoint's folder, and makes the n-th of them fail, for every n.
    A save must end within 30 seconds, with nothing or with an OSError that names the checkpoint, and the newest
        checkpoint that is then there must be whole.
    Restoring must give the newest checkpoint all the same, or an InputError that says that the failure may pass, and
        leave the checkpoint in its place.
    --runs of train.py, with failures at random places of a save, must end with status 2 and one line that names the
        checkpoint, and must be continued by the same command.
"""

import argparse
import collections
import contextlib
import ctypes
import errno
import functools
import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vit_jax.errors import InputError
from vit_jax.info import new_info
from vit_jax.training.checkpoints.writing import Checkpoints
from vit_jax.types import TrainState, class_fields

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 30
KINDS = ("open", "write", "fsync", "rename", "mkdir", "read")

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, WRITE, FSYNC, RENAME, MKDIR, READ, KINDS };
static char under[PATH_MAX];
static atomic_int counts[KINDS], armed = -1, nth, number, failed;

void failing_arm(const char *path, int kind, int n, int error) {
  armed = -1;
  strncpy(under, path, sizeof under - 1);
  for (int i = 0; i < KINDS; i++) counts[i] = 0;
  failed = 0; nth = n; number = error; armed = kind;
}
int failing_failed(void) { return failed; }

/* For programs: FAILING="path kind n errno". */
__attribute__((constructor)) static void from_environment(void) {
  char path[PATH_MAX]; int kind, n, error;
  const char *text = getenv("FAILING");
  if (text && sscanf(text, "%4095s %d %d %d", path, &kind, &n, &error) == 4) failing_arm(path, kind, n, error);
}

static int fails(int kind, const char *path) {
  if (!under[0] || !strstr(path, under)) return 0;
  int n = ++counts[kind];
  if (kind != armed || n != nth) return 0;
  failed = 1;
  errno = number;
  return 1;
}
static int fails_at(int kind, int fd, const char *path) {
  char text[PATH_MAX] = "", link[64];
  if (path && (path[0] == '/' || fd < 0)) return fails(kind, path);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (readlink(link, text, sizeof text - 1) < 0) return 0;
  return fails(kind, text);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define MODE va_list list; va_start(list, flags); mode_t mode = va_arg(list, int); va_end(list)
#define OPENS(name) int name(const char *path, int flags, ...) \
  { MODE; REAL(name); return fails_at(OPEN, -1, path) ? -1 : real(path, flags, mode); }
#define OPENS_AT(name) int name(int fd, const char *path, int flags, ...) \
  { MODE; REAL(name); return fails_at(OPEN, fd, path) ? -1 : real(fd, path, flags, mode); }
#define CALLS(type, name, kind, fd, path, given, passed) type name given \
  { REAL(name); return fails_at(kind, fd, path) ? -1 : real passed; }
OPENS(open) OPENS(open64) OPENS_AT(openat) OPENS_AT(openat64)
CALLS(ssize_t, write, WRITE, fd, 0, (int fd, const void *data, size_t size), (fd, data, size))
CALLS(ssize_t, pwrite, WRITE, fd, 0, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
CALLS(ssize_t, pwrite64, WRITE, fd, 0, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
CALLS(ssize_t, writev, WRITE, fd, 0, (int fd, const struct iovec *data, int n), (fd, data, n))
CALLS(ssize_t, pwritev, WRITE, fd, 0, (int fd, const struct iovec *data, int n, off_t at), (fd, data, n, at))
CALLS(ssize_t, pwritev64, WRITE, fd, 0, (int fd, const struct iovec *data, int n, off64_t at), (fd, data, n, at))
CALLS(ssize_t, read, READ, fd, 0, (int fd, void *data, size_t size), (fd, data, size))
CALLS(ssize_t, pread, READ, fd, 0, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
CALLS(ssize_t, pread64, READ, fd, 0, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
CALLS(ssize_t, readv, READ, fd, 0, (int fd, const struct iovec *data, int n), (fd, data, n))
CALLS(ssize_t, preadv, READ, fd, 0, (int fd, const struct iovec *data, int n, off_t at), (fd, data, n, at))
CALLS(int, fsync, FSYNC, fd, 0, (int fd), (fd))
CALLS(int, fdatasync, FSYNC, fd, 0, (int fd), (fd))
CALLS(int, rename, RENAME, -1, to, (const char *from, const char *to), (from, to))
CALLS(int, renameat, RENAME, at, to, (int from_at, const char *from, int at, const char *to), (from_at, from, at, to))
CALLS(int, renameat2, RENAME, at, to, (int from_at, const char *from, int at, const char *to, unsigned flags),
      (from_at, from, at, to, flags))
CALLS(int, mkdir, MKDIR, -1, path, (const char *path, mode_t mode), (path, mode))
CALLS(int, mkdirat, MKDIR, at, path, (int at, const char *path, mode_t mode), (at, path, mode))
"""


def main() -> int:
    """Run all cases; gives 1 if a save ends otherwise than it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--errors", nargs="+", default=["EIO", "ENOSPC"], metavar="ERRNO")
    parser.add_argument("--runs", type=int, default=4, help="of train.py as a whole")
    parser.add_argument("--seed", type=int, default=0, help="of the places where these runs fail")
    parser.add_argument("--cases", nargs=4, help=argparse.SUPPRESS)  # what a process of this script does
    args = parser.parse_args()
    if args.cases:
        folder, what, kind, first = args.cases
        _cases(pathlib.Path(folder), what, kind, int(first), args.errors)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "failing.c").write_text(LIBRARY)
        library = folder / "failing.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, folder / "failing.c", "-ldl"], check=True)
        bad = sum(_watched(folder, library, "save", kind, args.errors) for kind in KINDS[:-1])
        bad += sum(_watched(folder, library, "restore", kind, args.errors) for kind in ("open", "read"))
        bad += _runs(folder, library, args)
    print(f"{bad} ended otherwise than they must")
    return 1 if bad else 0


def _watched(folder: pathlib.Path, library: pathlib.Path, what: str, kind: str, errors: list[str]) -> int:
    """Run the cases of a kind in a process of their own, another one after each that does not end; counts the bad."""
    counts: collections.Counter[str] = collections.Counter()
    slowest, bad, first = 0.0, 0, 1
    while True:
        process = subprocess.Popen(
            [sys.executable, __file__, "--errors", *errors, "--cases", str(folder), what, kind, str(first)],
            env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        ended = False
        while line := _line_within(process, 4 * SECONDS):
            case = json.loads(line)
            ended = case["outcome"] == "end"
            if not ended:
                first = case["n"] + 1
                counts[case["outcome"]] += 1
                slowest = max(slowest, case["seconds"])
                if case["bad"] or case["seconds"] > SECONDS:
                    bad += 1
                    print(f"  {what}, {kind} {case['n']}: {case['outcome']} after {case['seconds']:.1f} s", flush=True)
        process.kill()
        process.wait()
        if ended:
            break
        bad += 1
        print(f"  {what}, {kind} {first}: no end, or the process died", flush=True)
        first += 1
    ends = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(f"{what}, {kind}: {sum(counts.values())} failures, the slowest {slowest:.1f} s; {ends}", flush=True)
    return bad


def _line_within(process: subprocess.Popen, seconds: float) -> str:
    import select

    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if ready and process.stdout else ""


def _cases(folder: pathlib.Path, what: str, kind: str, first: int, errors: list[str]) -> None:
    """Fail the n-th call of a kind, for each n from the first to the last; a line of JSON for each."""
    library = ctypes.CDLL(None)
    subject = Subject()
    before = folder / f"before-{os.getpid()}"
    subject.save(before, 1)
    if what == "restore":
        subject.save(before, 2)
    for n in itertools.count(first):
        for name in errors:
            # A folder for each, since TensorStore's threads may still write after a failure.
            directory = folder / f"{kind}-{n}-{name}-{os.getpid()}" / "checkpoints"
            shutil.copytree(before, directory)
            step, failure = 0, None
            started = time.perf_counter()
            arguments = (str(directory).encode(), KINDS.index(kind), n, getattr(errno, name))
            arm = functools.partial(library.failing_arm, *arguments)
            try:
                step = subject.save(directory, 2, arm) if what == "save" else subject.restored(directory, arm)
            except Exception as error:
                failure = error
            seconds = time.perf_counter() - started
            happened = library.failing_failed()
            library.failing_arm(b"/nowhere", -1, 0, 0)
            if not happened:
                print(json.dumps({"outcome": "end"}), flush=True)
                return
            if failure is None:
                outcome, is_good = "unnoticed", step == 2
            elif what == "save":
                is_good = isinstance(failure, OSError) and failure.filename == str(directory / "2")
                outcome = "named" if is_good else f"{type(failure).__name__}: {failure}"
            else:
                is_good = isinstance(failure, InputError) and "may pass" in str(failure)
                outcome = "one line" if is_good else f"{type(failure).__name__}: {failure}"
            whole = _settled(functools.partial(subject.restored, directory))
            is_good = is_good and whole in ((1, 2) if what == "save" and failure else (2,))
            case = {"n": n, "outcome": f"{outcome}, checkpoint {whole} whole", "bad": not is_good, "seconds": seconds}
            print(json.dumps(case), flush=True)
            shutil.rmtree(directory.parent, ignore_errors=True)


class Subject:
    """A small state of any step, saved and restored."""

    def __init__(self) -> None:
        """Make what does not change."""
        rng = np.random.default_rng(0)
        self._params = {f"layer_{i}": {"kernel": rng.normal(size=(64, 64)).astype(np.float32)} for i in range(3)}
        model = {"name": "vit", "variant": "Ti/16", "options": {}}
        self._info = new_info(model=model, task=None, fields=class_fields(["a", "b"]), preprocessing={})

    def state(self, step: int) -> TrainState:
        """Return the state of a step."""
        zero: Any = np.int32(0)
        key: Any = np.array([0, step], np.uint32)
        scaled = jax.tree.map(lambda x: x * np.float32(step), self._params)
        return TrainState(zero + step, scaled, self._params, None, key, {}, zero, zero, zero - 1)

    def save(self, directory: pathlib.Path, step: int, arm: Callable[[], Any] = int) -> int:
        """Save the state of a step, and call `arm` before."""
        with Checkpoints(directory, keep_last=2) as checkpoints:
            arm()
            checkpoints.save(step, self.state(step), self._info, None)
            checkpoints.wait()
        return step

    def restored(self, directory: pathlib.Path, arm: Callable[[], Any] = int) -> int:
        """Call `arm`, and restore the newest checkpoint; gives its step, or 0 if its state is another one."""
        arm()
        with Checkpoints(directory, keep_last=2) as checkpoints:
            found = checkpoints.restore(self.state(0), self._info, max_step=9)
        if found is None:
            return 0
        pairs = zip(jax.tree.leaves(found.state), jax.tree.leaves(self.state(found.step)), strict=True)
        return found.step if all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs) else 0


def _settled(restored: Any) -> int:
    """Restore; once more a little later while threads of the failed save still write into its folder."""
    for _ in range(5):
        with contextlib.suppress(OSError):
            return restored()
        time.sleep(1)
    return 0


def _runs(folder: pathlib.Path, library: pathlib.Path, args: argparse.Namespace) -> int:
    rng, bad = random.Random(args.seed), 0
    for number in range(args.runs):
        workdir = folder / f"run {number}"
        kind, name = KINDS[number % len(KINDS)], rng.choice(args.errors)
        n = rng.randint(1, 40 if kind in ("open", "write", "fsync") else 12)
        failing = f"{workdir.name.split()[-1]}/checkpoints/2 {KINDS.index(kind)} {n} {getattr(errno, name)}"
        ended = _train(workdir, {"LD_PRELOAD": str(library), "FAILING": failing})
        *progress, line = ended.stderr.strip().splitlines()
        is_good = ended.returncode == 2 and line.startswith("train.py: ") and str(workdir / "checkpoints") in line
        is_good = is_good and not any("Error" in text or "Traceback" in text for text in progress)
        again = _train(workdir, {})
        is_good = is_good and again.returncode == 0
        bad += not is_good
        print(f"train.py, {name} of {kind} {n}: status {ended.returncode}, {line}; then {again.returncode}", flush=True)
    return bad


def _train(workdir: pathlib.Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", f"--workdir={workdir}", "--config.num_steps=30"]
    command += ["--config.checkpoint.every_steps=10", "--config.model.options.depth=1"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
