"""How fast images reach the training loop: streamed and decoded, against tf.data, and from memory.

python benchmarks/input_pipeline.py --folder PHOTOS [--cache DIR] [--rounds 5]
python benchmarks/input_pipeline.py --tar photos.tar

Streamed: JPEG files, as they are on disk, to random resized crops of 224 x 224 in batches of 64, by two workers each.
tf.data runs in an environment of its own, which is made in the cache's folder (once, some 1.5 GB from PyPI) and given
two parallel calls and two threads. Each loader is a process that is stopped (SIGSTOP) while another one's window is
measured, so that the windows alternate in one run.

tf.data flips on the host. Ours does not: flipping is part of the compiled train step. So that both do the same work,
the process that takes our batches flips half of the images with OpenCV, inside of the measured time.
"""

import argparse
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from vit_jax.data.augment.random_crop import RandomCrop
from vit_jax.data.images.decoding import Picture, Reading, fast_libraries
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.data.loading.loader import Share
from vit_jax.data.loading.memory import InMemory
from vit_jax.data.loading.pipeline import Pipeline
from vit_jax.data.loading.streaming import Streaming
from vit_jax.data.loading.workers import batches_from_workers
from vit_jax.data.sources.examples import Examples
from vit_jax.data.sources.files import Files
from vit_jax.types import class_fields

BATCH, SIZE, WORKERS = 64, 224, 2
PEER = pathlib.Path(__file__).with_name("input_pipeline_tf_data.py")
NAMES = {
    "antialias": "vit_jax, the default (Pillow, antialiasing)",
    "fast": "vit_jax, data.antialias=false (simplejpeg, OpenCV)",
    "tf.data": "tf.data (decode_and_crop_jpeg, tf.image.resize, which does not antialias)",
}


def main() -> int:
    """Run all of it, or one loader for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--folder", type=pathlib.Path, help="of JPEG files, at any depth")
    images.add_argument("--tar", type=pathlib.Path, help="of such a folder")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("~/.cache/vit_jax/benchmarks").expanduser())
    parser.add_argument("--rounds", type=int, default=5, help="windows of each loader")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a window")
    parser.add_argument("--serve", choices=("antialias", "fast"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(streamed(jpeg_files(args.folder), args.serve))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or pathlib.Path(scratch)
        if args.tar:
            with tarfile.open(args.tar) as tar:
                tar.extractall(scratch, filter="data")
        files = jpeg_files(folder)
        print(f"{platform.platform()}, {_cpu()}, {os.cpu_count()} cores; {len(files)} JPEG files")
        compare(folder, args.cache, rounds=args.rounds, seconds=args.seconds)
        parts(files)
    in_memory(rounds=args.rounds)
    return 0


def compare(folder: pathlib.Path, cache: pathlib.Path, *, rounds: int, seconds: float) -> None:
    """Measure the loaders in turn, and prints images/s and ratios to the peer."""
    ours = [sys.executable, __file__, "--folder", str(folder), "--serve"]
    loaders = {
        "antialias": Server([*ours, "antialias"]),
        "fast": Server([*ours, "fast"]),
        "tf.data": Server([str(_peer_python(cache)), str(PEER), str(folder), str(BATCH), str(SIZE), str(WORKERS)]),
    }
    try:
        figures = {name: [] for name in loaders}
        for _ in range(rounds):
            for name, server in loaders.items():
                figures[name].append(server.measure(seconds))
    finally:
        for server in loaders.values():
            server.end()
    print(f"streamed, {WORKERS} workers each, {rounds} windows of {seconds:g} s in turn, images/s (and its range):")
    for name, rates in figures.items():
        ratios = [a / b for a, b in zip(rates, figures["tf.data"], strict=True)]
        spread = f"({min(rates):,.0f} to {max(rates):,.0f})"
        print(f"  {statistics.median(rates):8,.0f} {spread:<18} {statistics.median(ratios):.2f} x  {NAMES[name]}")


class Server:
    """A loader in a process group of its own, which stands still except while it is measured."""

    def __init__(self, command: list[str]) -> None:
        """Start it and waits for its first batches."""
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        if command[0] != sys.executable:
            environment.pop("PYTHONPATH", None)  # it has its own packages
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True
        )
        self._read()
        os.killpg(self._process.pid, signal.SIGSTOP)

    def measure(self, seconds: float) -> float:
        """Images/s over a window, from the second second on: what had been prepared before is used up by then."""
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        rate = float(self._read())
        os.killpg(self._process.pid, signal.SIGSTOP)
        return rate

    def end(self) -> None:
        """End it with its workers."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended")
        return line


def serve(batches: Iterator[np.ndarray]) -> None:
    """Say that it is ready, then for each number of seconds on standard input the images/s over that time."""
    next(batches)
    print("ready", flush=True)
    for line in sys.stdin:
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            next(batches)
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + float(line):
            count += len(next(batches))
        print(count / (time.perf_counter() - start), flush=True)


def streamed(files: list[pathlib.Path], how: str) -> Iterator[np.ndarray]:
    """Batch of our loader, flipped at random."""
    preprocessing = Preprocessing((SIZE, SIZE))
    reading = Reading(reduced=True, antialias=how == "antialias")
    data = Streaming(Pipeline(source(files), preprocessing, placing=RandomCrop(), reading=reading), num_workers=WORKERS)
    cv2, rng = fast_libraries()[0], np.random.default_rng(0)
    for batch in data.train_batches(Share(BATCH), seed=0, start_step=0, total_steps=10**6):
        for place in np.flatnonzero(rng.random(BATCH) < 0.5):
            batch["image"][place] = cv2.flip(batch["image"][place], 1)
        yield batch["image"]


def parts(files: list[pathlib.Path]) -> None:
    """Print what each part of the work takes of one core, by its processor time, the best of three passes."""
    encoded = [file.read_bytes() for file in files]
    preprocessing = Preprocessing((SIZE, SIZE))
    crop = RandomResizedCrop(preprocessing)

    def milliseconds(work: Callable) -> float:
        best = float("inf")
        for _ in range(3):
            rng, start = np.random.default_rng(0), time.process_time()
            for image in encoded:
                work(image, rng)
            best = min(best, time.process_time() - start)
        return 1000 * best / len(encoded)

    def decode_alone(antialias: bool) -> float:
        return milliseconds(lambda x, _: Picture(x, 3).decode() if antialias else Picture(x, 3).pixels())

    print("one core's time an image, ms:")
    for how, antialias in (("antialias", True), ("fast", False)):
        reading = Reading(reduced=True, antialias=antialias)
        decode, both = decode_alone(antialias), milliseconds(lambda x, rng, r=reading: crop(x, rng, r))
        print(f"  {both:.2f}: decoding the whole image {decode:.2f}, the rest crop and resize; {NAMES[how]}")
    batches = batches_from_workers(_Same(), range(10**6), blank=_Same.batch(), num_workers=1)
    for _ in range(10):
        next(batches)
    start = time.perf_counter()
    for _ in range(100):
        next(batches)
    passed = 10 * (time.perf_counter() - start) / BATCH
    batches.close()  # type: ignore[attr-defined]
    print(f"  {passed:.2f}: passing it on from a worker that has nothing else to do")
    small = sum(Picture(x, 3).largest_reduction(min(_shape(x)) / SIZE) > 1 for x in encoded)
    print(f"  {small} of {len(files)} images are large enough for reduced decoding at all; JPEG decoding is the bound")


class _Same:
    """The same image each time."""

    image = np.zeros((SIZE, SIZE, 3), np.uint8)

    @classmethod
    def batch(cls) -> dict[str, np.ndarray]:
        return {"image": np.zeros((BATCH, *cls.image.shape), np.uint8)}

    def __call__(self, _: int) -> dict[str, np.ndarray]:
        return {"image": self.image}


def in_memory(*, rounds: int) -> None:
    """Print the images/s of the memory path at CIFAR-10's size."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    data = InMemory(Pipeline(Examples("random", class_fields(["a"]), _Arrays(images)), Preprocessing((32, 32))))
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        count = sum(len(x["image"]) for x in data.train_batches(Share(512), seed=0, start_step=0, total_steps=500))
        rates.append(count / (time.perf_counter() - start))
    spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
    print(f"in memory, 50,000 images of 32 x 32, batches of 512: {statistics.median(rates):,.0f} images/s ({spread})")


class _Arrays:
    def __init__(self, images: np.ndarray) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, record: int) -> dict:
        return {"image": self._images[record], "label": 0}


def source(files: list[pathlib.Path]) -> Examples:
    """JPEG files without classes."""
    stored = Files("/", [str(file) for file in files], np.zeros(len(files), np.int32))
    return Examples("photos", class_fields(["any"]), stored)


def jpeg_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All that there are in a folder, sorted."""
    return sorted(file.resolve() for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))


def _shape(image: bytes) -> tuple[int, int]:
    picture = Picture(image, 3)
    return picture.height, picture.width


def _peer_python(cache: pathlib.Path) -> pathlib.Path:
    """Return the interpreter of an environment with TensorFlow."""
    python = cache / "tensorflow" / "bin" / "python"
    done = cache / "tensorflow" / "installed"
    if not done.exists():
        print(f"installing TensorFlow in {cache / 'tensorflow'}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(cache / "tensorflow")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "tensorflow-cpu"], check=True)
        done.touch()
    return python


def _cpu() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit(main())
