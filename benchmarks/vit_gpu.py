"""Training a ViT in bfloat16 on one GPU: `vit-jax benchmark` and timm with torch.compile and AMP, in turn.

    python benchmarks/vit_gpu.py [--torch-python PATH] [--variant B/16] [--batch-size 256] [--rounds 3]

Each measurement is a process of its own, since both libraries take most of the GPU's memory for themselves; both train
with AdamW at 224 px on one batch of made-up images that stays on the GPU. Prints images/s, MFU and the ratio.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIMM = {
    "Ti/16": "vit_tiny_patch16_224",
    "S/16": "vit_small_patch16_224",
    "B/16": "vit_base_patch16_224",
    "L/16": "vit_large_patch16_224",
}


def timm_images_per_second(variant: str, batch_size: int, *, steps: int, windows: int, device: str) -> float:
    """Return the median window of timm's training, in the process of a Python with torch."""
    import timm
    import torch

    model = torch.compile(timm.create_model(TIMM[variant]).to(device).train())
    adamw = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.1, fused=device == "cuda")
    images = torch.randn(batch_size, 3, 224, 224, device=device)
    labels = torch.randint(1000, (batch_size,), device=device)

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            adamw.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            adamw.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run(3)  # compiles
    return batch_size * steps / statistics.median(run(steps) for _ in range(windows))


def main() -> None:
    """Run both in turn and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--torch-python", default=sys.executable, help="a Python that has torch and timm; default this one"
    )
    parser.add_argument("--variant", choices=TIMM, default="B/16")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only tries the script out")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = {"steps": args.steps, "windows": args.windows}
    if args.worker:
        print(timm_images_per_second(args.variant, args.batch_size, device=args.device, **size))
        return
    flags = [f"--variant={args.variant}", f"--batch-size={args.batch_size}"]
    flags += [f"--{name}={value}" for name, value in size.items()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": args.device}
    own_command = [sys.executable, "-m", "vit_jax", "benchmark", *flags, "--train", "--dtype=bfloat16", "--json"]
    timm_command = [args.torch_python, __file__, *flags, f"--device={args.device}", "--worker"]
    ratios = []
    for _ in range(args.rounds):
        own = json.loads(subprocess.run(own_command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
        theirs = float(subprocess.run(timm_command, stdout=subprocess.PIPE, check=True).stdout)
        ratios.append(own["images_per_second"] / theirs)
        mfu = "unknown" if own["mfu"] is None else f"{own['mfu']:.1%}"
        print(
            f"ours {own['images_per_second']:.1f} images/s (MFU {mfu}), timm {theirs:.1f}: {ratios[-1]:.2f}", flush=True
        )
    print(
        f"{own['device']}; {args.variant}, batch {args.batch_size}: ours is {statistics.median(ratios):.2f} times timm"
    )


if __name__ == "__main__":
    main()
