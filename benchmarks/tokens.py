"""Whether an odd number of tokens costs more than its share: the encoder's blocks on 196, 197 and rounder numbers.

    python benchmarks/tokens.py [--hidden-dim 384] [--heads 6] [--batch-size 16] [--dtype float32] [--rounds 5]

A ViT at 224 px has 196 patches of 16 px and, with a class token, 197 tokens. Each number of tokens is a program of its
own, of two blocks forwards, and forwards and backwards; they take turns. 200 to 256 tokens are what padding would
compute, at the least: the mask that padding needs costs extra.
"""

import argparse
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.models import vit
from vit_jax.system import malloc

COUNTS = (196, 197, 200, 208, 224, 256)


def programs(args: argparse.Namespace, count: int):
    """Mode -> a compiled function without arguments."""
    model = vit.create(
        "S/16",
        hidden_dim=args.hidden_dim,
        num_heads=args.heads,
        mlp_dim=4 * args.hidden_dim,
        depth=2,
        dtype=args.dtype,
        pooling="gap",
        posemb="none",
    )
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(args.batch_size, count, args.hidden_dim)), args.dtype)

    def loss(params, tokens):
        return (model.apply(params, tokens, train=False, method="encode").tokens ** 2).mean()

    forwards, both = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
    return {"infer": lambda: forwards(params, tokens), "train": lambda: both(params, tokens)}


def main() -> None:
    """Measure and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-dim", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="in a round")
    args = parser.parse_args()
    malloc.keep_freed_memory()
    each = {count: programs(args, count) for count in COUNTS}
    seconds = {(count, mode): [] for count in COUNTS for mode in ("infer", "train")}
    for count, mode in seconds:
        jax.block_until_ready(each[count][mode]())  # compiles
    for _ in range(args.rounds):
        for count, mode in seconds:
            started = time.perf_counter()
            for _ in range(args.steps):
                jax.block_until_ready(each[count][mode]())
            seconds[count, mode].append((time.perf_counter() - started) / args.steps)

    where = f"{jax.devices()[0].device_kind}, {platform.machine()}, {jax.__version__}"
    print(f"2 blocks of {args.hidden_dim}, {args.heads} heads, batch {args.batch_size}, {args.dtype}; JAX on {where}\n")
    print("| tokens | infer ms | a token, of 196's | train ms | a token, of 196's |")
    print("|--:|--:|--:|--:|--:|")
    for count in COUNTS:
        cells = []
        for mode in ("infer", "train"):
            # Round by round, since the machine may be busier in one than in another.
            pairs = zip(seconds[count, mode], seconds[196, mode], strict=True)
            ratio = statistics.median(own / base for own, base in pairs) * 196 / count
            cells += [f"{1e3 * statistics.median(seconds[count, mode]):.1f}", f"{ratio:.3f}"]
        print(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
