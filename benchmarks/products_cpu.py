"""The matrix products of a training step of ViT-S/16, batch 16, float32, on the CPU, one by one: XLA and PyTorch.

    python benchmarks/products_cpu.py [--rounds 5] [--torch-python PATH]

A bound for both: what `vit_cpu.py` measures above the sum of a side's products is everything else that it does. Each
side is a process of its own, and they take turns; XLA has the malloc settings of `vit-jax`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from vit_cpu import ROOT, ask, torch_python

TOKENS, DIM, MLP, HEADS, BLOCKS = (16, 197), 384, 1536, 6, 11
ROWS = TOKENS[0] * TOKENS[1]

# name -> (how many a step has, the product, the shapes of its operands). A kernel is [inputs, outputs]. Left out is the
# twelfth block, which computes the class token alone, but for its keys and values.
PRODUCTS = {}
for name, times, inputs, outputs in (
    ("projections", 4 * BLOCKS + 2, DIM, DIM),
    ("fc1", BLOCKS, DIM, MLP),
    ("fc2", BLOCKS, MLP, DIM),
):
    x, kernel, y = (ROWS, inputs), (inputs, outputs), (ROWS, outputs)
    PRODUCTS |= {
        f"{name}, forward": (times, "ni,io->no", x, kernel),
        f"{name}, gradient of tokens": (times, "no,io->ni", y, kernel),
        f"{name}, gradient of kernel": (times, "ni,no->io", x, y),
    }
# The step has this tall kernel's gradient the other way round.
PRODUCTS["fc2, gradient of kernel"] = (0, *PRODUCTS["fc2, gradient of kernel"][1:])
PRODUCTS["fc2, gradient of transposed kernel"] = (BLOCKS, "no,ni->oi", (ROWS, DIM), (ROWS, MLP))
QUERY, WEIGHTS = (TOKENS[0] * HEADS, TOKENS[1], DIM // HEADS), (TOKENS[0] * HEADS, TOKENS[1], TOKENS[1])
PRODUCTS |= {
    "attention, query by key and its like": (2 * BLOCKS, "bnd,bmd->bnm", QUERY, QUERY),
    "attention, weights by value": (BLOCKS, "bnm,bmd->bnd", WEIGHTS, QUERY),
    "the same, divided by the sums of the weights": (BLOCKS, "bnm,bmd->bnd / bnm->bn", WEIGHTS, QUERY),
    "attention, transposed weights": (2 * BLOCKS, "bnm,bnd->bmd", WEIGHTS, QUERY),
}


def xla():
    """Name -> a function that computes the product."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vit_jax.system.malloc import keep_freed_memory

    keep_freed_memory()
    rng = np.random.default_rng(0)

    def product(formula, *shapes):
        operands = [jnp.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
        formula, _, divisor = formula.partition(" / ")

        def compute(a, b):
            y = jnp.einsum(formula, a, b)
            return y / a.sum(axis=-1, keepdims=True) if divisor else y

        compiled = jax.jit(compute).lower(*operands).compile()
        return lambda: jax.block_until_ready(compiled(*operands))

    return {name: product(*row[1:]) for name, row in PRODUCTS.items()}


def pytorch():
    """Return the same."""
    import torch

    def product(formula, *shapes):
        operands = [torch.randn(*shape) for shape in shapes]
        formula, _, divisor = formula.partition(" / ")

        def compute():
            y = torch.einsum(formula, *operands)
            return y / operands[0].sum(dim=-1, keepdim=True) if divisor else y

        return compute

    return {name: product(*row[1:]) for name, row in PRODUCTS.items()}


SIDES = {"xla": xla, "pytorch": pytorch}


def work(side: str) -> None:
    """Wait for the name of a product on standard input, computes it a few times and says how many seconds one took."""
    products = SIDES[side]()
    print("ready", flush=True)
    for line in sys.stdin:
        function = products[line.strip()]
        function()
        start = time.perf_counter()
        for _ in range(5):
            function()
        print((time.perf_counter() - start) / 5, flush=True)


def main() -> None:
    """Start both, asks them in turn, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch-python", help="a Python that has torch")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    processes = {}
    for side in SIDES:
        python = sys.executable if side == "xla" else args.torch_python or torch_python()
        command = [python, __file__, "--worker", side]
        pipe = subprocess.PIPE
        processes[side] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
        ask(processes[side])
    seconds = {side: {name: [] for name in PRODUCTS} for side in SIDES}
    for _ in range(args.rounds):
        for name in PRODUCTS:
            for side, process in processes.items():
                seconds[side][name].append(float(ask(process, name)))
    print("| product | in a step | XLA, ms | PyTorch, ms |\n|---|--:|--:|--:|")
    totals = dict.fromkeys(SIDES, 0.0)
    for name, (times, *_) in PRODUCTS.items():
        medians = {side: 1e3 * statistics.median(seconds[side][name]) for side in SIDES}
        print(f"| {name} | {times} | {medians['xla']:.1f} | {medians['pytorch']:.1f} |")
        for side in SIDES:
            totals[side] += times * medians[side]
    print(f"| all | | {totals['xla']:,.0f} | {totals['pytorch']:,.0f} |")
    print(json.dumps(seconds), file=sys.stderr)
    for process in processes.values():
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
