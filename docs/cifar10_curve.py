"""Draws docs/images/cifar10.png: python docs/cifar10_curve.py WORKDIR..., the runs of configs/cifar10.py by seed."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = pathlib.Path(__file__).resolve().parent / "images" / "cifar10.png"
FIGURES = (("test/accuracy", "test accuracy (%)", 100.0), ("train/loss", "training loss", 1.0))


def main(workdirs: list[str]) -> None:
    """Accuracy and loss over the epochs, a line a run."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for workdir in map(pathlib.Path, workdirs):
        config = json.loads((workdir / "config.json").read_text())
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        for panel, (key, label, factor) in zip(panels, FIGURES, strict=True):
            epochs = config["batch_size"] / 50_000
            points = [(line["step"] * epochs, line[key] * factor) for line in lines if key in line]
            text = f"seed {config['seed']}"
            if key == "test/accuracy":
                text += f": {points[-1][1]:.2f} %"
            panel.plot(*zip(*points, strict=True), marker="o" if len(points) < 20 else None, markersize=3, label=text)
            panel.set_xlabel("epochs")
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
            panel.legend()
    figure.savefig(OUT, dpi=120)


if __name__ == "__main__":
    main(sys.argv[1:])
