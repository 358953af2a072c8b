"""Swin-T and PVT v2-B1 at 224 px, float32, batch 8, inference on the CPU: this library, timm and transformers, in turn.

    python benchmarks/families_cpu.py [--models swin,pvt] [--rounds 5] [--torch-python PATH]

Each side is a process of its own that compiles once and then waits; one at a time runs a few steps, round after round,
so that whatever else the machine does meets all alike. The sides are what their users get:

- ours: the model under `jax.jit`, with the malloc settings of `vit-jax` and train.py;
- timm: its model in evaluation mode under `torch.inference_mode`;
- transformers: the same of its own.

--torch-python is a Python that has torch, timm and transformers; without it a virtual environment is made for them.
Aimed at: at least as fast as both.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH, STEPS = 8, 3

MODELS = {
    "swin": {
        "ours": ("swin", "T/7"),
        "timm": "swin_tiny_patch4_window7_224",
        "transformers": ("SwinForImageClassification", "SwinConfig", {}),
        "params": 28_288_354,
    },
    "pvt": {
        "ours": ("pvt", "B1"),
        "timm": "pvt_v2_b1",
        "transformers": (
            "PvtV2ForImageClassification",
            "PvtV2Config",
            {
                "hidden_sizes": [64, 128, 320, 512],
                "num_attention_heads": [1, 2, 5, 8],
                "depths": [2, 2, 2, 2],
                "mlp_ratios": [8, 8, 4, 4],
            },
        ),
        "params": 14_009_000,
    },
}
"""What the sides call a model, and how many parameters it has with 1,000 classes."""


def ours(model: str):
    """Return the forward pass of this library."""
    import jax
    import numpy as np

    from vit_jax.build import plugins
    from vit_jax.system.malloc import keep_freed_memory

    keep_freed_memory()
    name, variant = MODELS[model]["ours"]
    module = plugins.create_model(name, variant, num_classes=1000)
    images = np.random.default_rng(0).normal(size=(BATCH, 224, 224, 3)).astype(np.float32)
    params = jax.jit(lambda: module.init(jax.random.key(0), images[:1], train=False))()
    check(model, sum(leaf.size for leaf in jax.tree.leaves(params)))
    forward = jax.jit(lambda params, images: module.apply(params, images, train=False))
    images = jax.device_put(images)
    return lambda: jax.block_until_ready(forward(params, images))


def timm_peer(model: str):
    """Return the same of timm."""
    import timm

    return torch_step(model, timm.create_model(MODELS[model]["timm"]))


def transformers_peer(model: str):
    """Return the same of transformers."""
    import transformers

    module, config, options = MODELS[model]["transformers"]
    config = getattr(transformers, config)(num_labels=1000, **options)
    return torch_step(model, getattr(transformers, module)(config))


def torch_step(model: str, module):
    """Return the forward pass of a PyTorch module."""
    import torch

    check(model, sum(parameter.numel() for parameter in module.parameters()))
    module.eval()
    images = torch.randn(BATCH, 3, 224, 224)

    def step():
        with torch.inference_mode():
            module(images)

    return step


def check(model: str, count: int) -> None:
    """All sides have the same model, to the last parameter."""
    assert count == MODELS[model]["params"], (model, count)


SIDES = {"ours": ours, "timm": timm_peer, "transformers": transformers_peer}


def work(side: str, model: str) -> None:
    """Compile, then runs a few steps for each line on standard input; seconds a step go out."""
    step = SIDES[side](model)
    step()
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        print((time.perf_counter() - start) / STEPS, flush=True)


def torch_python() -> str:
    """Return the Python of a new virtual environment with the peers, in the user's cache folder; made once."""
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vit_jax" / "torch"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "torch", "timm", "transformers"], check=True)
    return str(python)


def measure(model: str, sides: list[str], rounds: int, python: str | None) -> dict[str, list[float]]:
    """Side -> seconds a step in each round."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    processes = {}
    for side in sides:  # one after the other, so that none compiles while another is warmed up
        interpreter = sys.executable if side == "ours" else python or torch_python()
        command = [interpreter, __file__, "--worker", side, "--models", model]
        pipe = subprocess.PIPE
        processes[side] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        ask(processes[side])
        print(f"{model}: {side} is ready", file=sys.stderr, flush=True)
    seconds = {side: [] for side in sides}
    for _ in range(rounds):
        for side, process in processes.items():
            seconds[side].append(float(ask(process, "go")))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return seconds


def ask(process: subprocess.Popen, question: str = "") -> str:
    """Send a line, if any, and gives the answer."""
    if question:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"{' '.join(map(str, process.args))} ended early")
    return answer


def main() -> None:
    """Run the sides of each model in turn, prints a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="which, with commas; default all")
    parser.add_argument("--sides", default=",".join(SIDES), help="which, with commas, `ours` among them; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch-python", help="a Python that has torch, timm and transformers")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.models)
        return
    seconds = {}
    for model in args.models.split(","):
        seconds[model] = measure(model, args.sides.split(","), args.rounds, args.torch_python)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    for model, of in seconds.items():
        for side, values in of.items():
            # Ratios round by round, since rounds share what else the machine did.
            ratio = statistics.median(theirs / own for theirs, own in zip(values, of["ours"], strict=True))
            speed = BATCH / statistics.median(values)
            print(f"{model:<5} {side:<13} {speed:7.2f} images/s   ours is {ratio:.2f} times as fast")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
