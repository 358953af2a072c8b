"""Shows from a trace that the training loop does not hold the device up; draws docs/images/loop_trace.png.

    python benchmarks/loop_trace.py [--out docs/images/loop_trace.png]

Trains a ViT of 192 x 6 on the digits for 24 steps on one CPU device, with a log line every 4 steps and a checkpoint
every 8, traces 10 of the steps, and prints when each was handed over and when the device worked on it. "Ahead" is how
long before the device was done with one step the next was handed over, "idle" how long it then had nothing to do.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = {
    "model.options.hidden_dim": 192,
    "model.options.depth": 6,
    "model.options.mlp_dim": 768,
    "model.options.num_heads": 3,
    "batch_size": 256,
    "num_steps": 24,
    "optimizer.warmup_steps": 5,
    "log_every_steps": 4,
    "checkpoint.every_steps": 8,
    "evaluation.every_steps": 24,
    "profile.start_step": 10,
    "profile.num_steps": 10,
}
DEVICE = "ThunkExecutor::Execute (wait for completion)"
"""What XLA's CPU client calls the time from the start of a program to its end."""
HOST = ("train", "log", "save", "wait for the batch", "wait for an earlier step")


def trace(workdir: pathlib.Path) -> pathlib.Path:
    """Train; gives the file with the trace."""
    command = [sys.executable, "train.py", "--config=configs/digits.py", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in CONFIG.items()]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return next((workdir / "profile").rglob("*.xplane.pb"))


def read(file: pathlib.Path) -> dict[str, list[tuple[float, float]]]:
    """Return what went on -> (start, end) of each time, in milliseconds after the first step was handed over."""
    from jax.profiler import ProfileData

    spans = {name: [] for name in (DEVICE, *HOST)}
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in spans:
                    spans[event.name].append((event.start_ns / 1e6, event.end_ns / 1e6))
    first = min(spans["train"])[0]
    longest = max(end - start for start, end in spans[DEVICE])
    spans = {name: sorted((start - first, end - first) for start, end in of) for name, of in spans.items()}
    # Copies of the state for a checkpoint are programs too, and short.
    spans["copies"] = [(start, end) for start, end in spans[DEVICE] if end - start < longest / 10]
    spans[DEVICE] = [span for span in spans[DEVICE] if span not in spans["copies"]]
    return spans


def table(spans: dict[str, list[tuple[float, float]]]) -> str:
    """Return a line a step."""
    lines = ["step  handed over  device from       to    ahead     idle   (milliseconds)"]
    before = None
    start_step = CONFIG["profile.start_step"] + 1
    for step, (handed, device) in enumerate(zip(spans["train"], spans[DEVICE], strict=True), start_step):
        line = f"{step:4d} {handed[0]:12.1f} {device[0]:12.1f} {device[1]:8.1f}"
        if before is not None:
            line += f" {before - handed[1]:8.1f} {device[0] - before:8.1f}"
        lines.append(line)
        before = device[1]
    return "\n".join(lines)


def draw(spans: dict[str, list[tuple[float, float]]], out: pathlib.Path) -> None:
    """Return the same as bars along the time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 3.2), layout="constrained")
    rows = {"device: steps": DEVICE, "host: hand a step over": "train"}
    rows |= {f"host: {name}": name for name in HOST if name != "train"}
    for row, name in enumerate(rows.values()):
        for number, (start, end) in enumerate(spans[name]):
            shade = "C0" if name == DEVICE and number % 2 else "C9" if name == DEVICE else "C1"
            axes.barh(row, max(end - start, 4), left=start, height=0.7, color=shade)
            if name == DEVICE:
                step = number + CONFIG["profile.start_step"] + 1
                axes.text((start + end) / 2, row, str(step), ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.set_title("Ten steps, log lines every 4, a checkpoint after step 16", fontsize=10)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Train, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "images" / "loop_trace.png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spans = read(trace(pathlib.Path(folder)))
    print(table(spans))
    for name in ("log", "save"):
        print(f"{name}: {', '.join(f'{end - start:.1f} ms at {start:.1f}' for start, end in spans[name])}")
    draw(spans, args.out)


if __name__ == "__main__":
    main()
