"""Damages a checkpoint at random, and asks whether reading it notices; or measures what its checksums cost.

python benchmarks/damage.py [--damages 1000] [--seed 0]
python benchmarks/damage.py --cost 500

Each damage is done to a copy of the newer of a run's two checkpoints, which two devices saved in shards. The copy is
then loaded for inference and restored for training, whole and in shards. What comes back must be what was saved, or
what the older checkpoint holds, with a line that says so:
    harmless: the damage is to what is not read, or means the same
    noticed: the older checkpoint is used, and a line says why
    silent: something else came back, or the older checkpoint without a line
    fatal: no checkpoint came back, or none within a minute
Ends with status 1 if any damage is silent or fatal.

--cost takes a state of as many megabytes as it says and compares saving and restoring it with and without digests.
"""

import argparse
import collections
import contextlib
import functools
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from typing import Any

os.environ["JAX_NUM_CPU_DEVICES"] = "2"

import jax
import numpy as np

import train
import vit_jax
from configs import digits
from vit_jax.build.experiment import experiment
from vit_jax.info import new_info
from vit_jax.parallel import strategy as parallel
from vit_jax.training.checkpoints import digest
from vit_jax.training.checkpoints.writing import Checkpoints
from vit_jax.types import TrainState, class_fields

OLDER, NEWER = 20, 40
SECONDS = 60

Rng = random.Random


def main() -> int:
    """Do what the flags say; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", type=int, metavar="MB", help="measure what the checksums cost instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return _cost(pathlib.Path(folder), args.cost) if args.cost else _damages(pathlib.Path(folder), args)


def flip_bit(file: pathlib.Path, rng: Rng) -> None:
    """Flip one bit."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def flip_bits(file: pathlib.Path, rng: Rng) -> None:
    """Flip 2 to 8 bits."""
    for _ in range(rng.randint(2, 8)):
        flip_bit(file, rng)


def _overwrite(file: pathlib.Path, rng: Rng, make: Callable[[int], bytes]) -> None:
    data = bytearray(file.read_bytes())
    size = min(len(data), rng.choice([1, 16, 512, 4096]))
    start = rng.randint(0, len(data) - size)
    data[start : start + size] = make(size)
    file.write_bytes(data)


def overwrite(file: pathlib.Path, rng: Rng) -> None:
    """Overwrite a block with random bytes."""
    _overwrite(file, rng, rng.randbytes)


def zero(file: pathlib.Path, rng: Rng) -> None:
    """Overwrite a block with zeros."""
    _overwrite(file, rng, bytes)


def truncate(file: pathlib.Path, rng: Rng) -> None:
    """Cut the end off, or all of it."""
    os.truncate(file, rng.choice([0, rng.randrange(file.stat().st_size)]))


def insert(file: pathlib.Path, rng: Rng) -> None:
    """Insert a few bytes, in the middle or at the end."""
    data = file.read_bytes()
    start = rng.choice([len(data), rng.randrange(len(data))])
    file.write_bytes(data[:start] + rng.randbytes(rng.randint(1, 9)) + data[start:])


def delete(file: pathlib.Path, rng: Rng) -> None:
    """Delete the file, or the folder that it is in."""
    folder = file.parent
    if rng.random() < 0.3 and folder.name != str(NEWER):
        shutil.rmtree(folder)
    else:
        file.unlink()


def swap(file: pathlib.Path, rng: Rng) -> None:
    """Swap the file with another of the checkpoint."""
    other = rng.choice(_files(_checkpoint(file)))
    first, second = file.read_bytes(), other.read_bytes()
    file.write_bytes(second)
    other.write_bytes(first)


def take_older(file: pathlib.Path, rng: Rng) -> None:
    """Put a file of the older checkpoint in the file's place, one of the same item."""
    item = file.relative_to(_checkpoint(file)).parts[0]
    files = [f for f in _files(_checkpoint(file).with_name(str(OLDER))) if item in f.parts]
    same = [f for f in files if f.name == file.name or f.parent.name == file.parent.name == "d"]
    shutil.copyfile(rng.choice(same or files), file)


def take_older_folder(file: pathlib.Path, _: Rng) -> None:
    """Put the older checkpoint's whole item in the item's place."""
    checkpoint = _checkpoint(file)
    item = file.relative_to(checkpoint).parts[0]
    older = checkpoint.with_name(str(OLDER)) / item
    if older.is_dir():
        shutil.rmtree(checkpoint / item)
        shutil.copytree(older, checkpoint / item)
    else:
        shutil.copyfile(older, checkpoint / item)


def replace(file: pathlib.Path, rng: Rng) -> None:
    """Put a pipe, a folder, a link to nothing or a link to a device in the file's place."""
    file.unlink()
    rng.choice([os.mkfifo, os.mkdir, lambda f: os.symlink("nothing", f), lambda f: os.symlink("/dev/zero", f)])(file)


DAMAGES = [
    *(flip_bit, flip_bits, overwrite, zero, truncate, insert, delete, swap, take_older, take_older_folder, replace)
]


def _checkpoint(file: pathlib.Path) -> pathlib.Path:
    return next(folder for folder in file.parents if folder.name == str(NEWER))


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def _damages(folder: pathlib.Path, args: argparse.Namespace) -> int:
    whole, config = folder / "run", _config()
    with contextlib.redirect_stdout(sys.stderr):
        train.train(config, whole)
    restore, shards = _restorer(_config("pmap")), _restorer(config)
    loaded = {step: _model(vit_jax.load(whole, step=step)) for step in (OLDER, NEWER)}
    states = {NEWER: _bytes(restore(whole).state)}
    shutil.copytree(whole, folder / "before")
    shutil.rmtree(folder / "before" / "checkpoints" / str(NEWER))
    states[OLDER] = _bytes(restore(folder / "before").state)

    def load(workdir: pathlib.Path) -> tuple[int, Any, Any]:
        with warnings.catch_warnings(record=True) as lines:
            warnings.simplefilter("always")
            model = vit_jax.load(workdir)
        return model.info["step"], _model(model), lines

    def continued(restore: Callable[[pathlib.Path], Any], workdir: pathlib.Path) -> tuple[int, Any, Any]:
        restored = restore(workdir)
        return restored.step, _bytes(restored.state), restored.notes

    ways = (
        ("load", load, loaded),
        ("restore", functools.partial(continued, restore), states),
        ("restore in shards", functools.partial(continued, shards), states),
    )
    rng, counts = random.Random(args.seed), collections.Counter()
    for number in range(args.damages):
        damage = DAMAGES[number % len(DAMAGES)]
        copy, spare = folder / "copy", folder / "spare"
        shutil.copytree(whole, copy)
        files = _files(copy / "checkpoints" / str(NEWER))
        by_size = rng.random() < 0.5
        [file] = rng.choices(files, [f.stat().st_size if by_size else 1 for f in files])
        damage(file, rng)
        for what, read, expected in ways:
            subprocess.run(["cp", "-a", copy, spare], check=True)  # restoring moves a damaged checkpoint away
            outcome, text = _outcome(lambda: read(spare), expected)  # noqa: B023
            shutil.rmtree(spare)
            counts[what, damage.__name__, outcome] += 1
            if outcome in ("silent", "fatal"):
                place = file.relative_to(copy / "checkpoints" / str(NEWER))
                print(f"{number} {damage.__name__} of {place}: {what} is {outcome}: {text}", flush=True)
        shutil.rmtree(copy)
        if number % 100 == 99:
            print(f"{number + 1} of {args.damages}", file=sys.stderr, flush=True)
    for what, _, _ in ways:
        print(f"{what:<18}" + "".join(f"{outcome:>10}" for outcome in ("noticed", "harmless", "silent", "fatal")))
        for name in (damage.__name__ for damage in DAMAGES):
            row = [counts[what, name, outcome] for outcome in ("noticed", "harmless", "silent", "fatal")]
            print(f"  {name:<16}" + "".join(f"{count:>10}" for count in row))
    bad = sum(count for (_, _, outcome), count in counts.items() if outcome in ("silent", "fatal"))
    print(f"{args.damages} damages, each read in three ways: {bad} silent or fatal")
    return 1 if bad else 0


def _outcome(read: Callable[[], tuple[int, Any, Any]], expected: dict[int, Any]) -> tuple[str, str]:
    try:
        with _within(SECONDS):
            step, found, lines = read()
    except Exception as error:
        return "fatal", f"{type(error).__name__}: {str(error)[:300]}"
    if found != expected[step]:
        return "silent", f"another content of step {step}; {lines}"
    if step == NEWER:
        return "harmless", ""
    return ("noticed", "") if lines else ("silent", f"step {step} without a line")


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    def expired(*_: Any) -> None:
        raise TimeoutError(f"not within {seconds} s")

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _config(strategy: str = "mesh") -> Any:
    config = digits.get_config()
    config.parallel.strategy = strategy
    if strategy == "mesh":
        config.parallel.fsdp, config.parallel.fsdp_min_size = 2, 256
    config.num_steps, config.ema_decay = NEWER, 0.9
    config.checkpoint.every_steps, config.checkpoint.keep_last = OLDER, 2
    config.model.options.depth = 1
    return config


def _restorer(config: Any) -> Callable[[pathlib.Path], Any]:
    strategy, parts = parallel.create(**config.parallel), experiment(config)
    template = strategy.abstract_state(functools.partial(parts.init, config.seed, parts.example))

    def restore(workdir: pathlib.Path) -> Any:
        with Checkpoints(workdir / "checkpoints", keep_last=2) as checkpoints:
            return checkpoints.restore(template, parts.info, max_step=NEWER)

    return restore


def _bytes(tree: Any) -> list[tuple[str, bytes]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), np.asarray(leaf).tobytes()) for path, leaf in leaves]


def _model(predictor: Any) -> Any:
    return predictor.info, _bytes(predictor.params), _bytes(predictor.variables)


def _cost(folder: pathlib.Path, megabytes: int) -> int:
    state = _state(megabytes)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    seconds: dict[str, list[float]] = {"save": [], "restore": [], "save without": [], "restore without": []}
    digests: list[float] = []
    compute = digest.digests

    def timed(leaves: Any) -> Any:
        started = time.perf_counter()
        result = compute(leaves)
        digests.append(time.perf_counter() - started)
        return result

    def none(leaves: Any) -> Any:
        return np.zeros(len(leaves), np.uint64)

    for repeat in range(12):
        for name, function in (("", timed), (" without", none)):
            with unittest.mock.patch.object(digest, "digests", function):
                save, restore = _save_and_restore(folder / f"{repeat}{name}", state)
            if repeat > 1:  # the first ones start threads
                seconds[f"save{name}"].append(save)
                seconds[f"restore{name}"].append(restore)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    both = median["save"] + median["restore"]
    without = median["save without"] + median["restore without"]
    digest_seconds = 2 * statistics.median(digests[4:])
    print(f"{size:.0f} MB, {os.cpu_count()} cores, medians of 10:")
    for name, value in median.items():
        print(f"  {name:<16} {value:.3f} s")
    print(f"  digests of both  {digest_seconds:.3f} s: {digest_seconds / without:.1%} of saving and restoring without")
    print(f"  with and without differ by {(both - without) / without:+.1%}")
    return 0


def _save_and_restore(folder: pathlib.Path, state: TrainState) -> tuple[float, float]:
    names = class_fields(["a", "b"])
    info = new_info(model={"name": "vit", "variant": "B/16", "options": {}}, task=None, fields=names, preprocessing={})
    with Checkpoints(folder) as checkpoints:
        started = time.perf_counter()
        checkpoints.save(1, state, info, None)
        checkpoints.wait()
        saved = time.perf_counter()
        checkpoints.restore(state, info, max_step=1)
        restored = time.perf_counter()
    shutil.rmtree(folder)
    return saved - started, restored - saved


def _state(megabytes: int) -> TrainState:
    """Make a state of ViT-B's leaves with Adam's moments, of about as many megabytes."""
    rng, width = np.random.default_rng(0), 768

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(scale=0.02, size=shape).astype(np.float32)

    params: dict[str, Any] = {}
    while 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(params)) < megabytes * 1e6:
        params[f"block_{len(params)}"] = {
            "attention": {"qkv": {"kernel": normal(width, 3 * width), "bias": normal(3 * width)}},
            "out": {"kernel": normal(width, width), "bias": normal(width)},
            "fc1": {"kernel": normal(width, 4 * width), "bias": normal(4 * width)},
            "fc2": {"kernel": normal(4 * width, width), "bias": normal(width)},
            "norm": {"scale": normal(width), "bias": normal(width)},
        }
    moments = {"mu": jax.tree.map(np.copy, params), "nu": jax.tree.map(np.square, params)}
    zero = np.int32(0)
    return TrainState(
        step=np.int32(1),
        params=params,
        opt_state=moments,
        ema_params=None,
        key=np.zeros(2, np.uint32),
        sums={},
        skipped=zero,
        skipped_in_row=zero,
        nonfinite_leaf=zero,
    )


if __name__ == "__main__":
    sys.exit(main())
