"""ViT-S/16 at 224 px, float32, batch 16, on the CPU: this library, a plain Flax ViT and timm, step by step in turn.

    python benchmarks/vit_cpu.py [--rounds 5] [--torch-python PATH]

Each side is a process of its own that compiles once and then waits; one at a time runs a few steps, round after round,
so that whatever else the machine does meets all alike. The sides are what their users get:

- ours: `make_train_step` and the model, with the malloc settings of `vit-jax` and train.py;
- flax: the same model of `nn.MultiHeadDotProductAttention` and a strided `nn.Conv`, AdamW of Optax, nothing else;
- flax+malloc: that with our malloc settings;
- timm: `vit_small_patch16_224` and AdamW of PyTorch; without --torch-python a virtual environment is made for it.

Required of ours against flax: 1.4 in inference, 1.3 in training.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BATCH, STEPS, PARAMS = 16, {"infer": 3, "train": 2}, 22_050_664
REQUIRED = {"infer": 1.4, "train": 1.3}


def ours():
    """Return the library's steps: mode -> a function that runs one and waits for it."""
    import jax
    import jax.numpy as jnp

    from vit_jax.build import plugins
    from vit_jax.training import optimizer
    from vit_jax.training.problem import Problem
    from vit_jax.training.state import make_init
    from vit_jax.training.step import make_train_step
    from vit_jax.types import class_fields

    def prepare(key, batch, axis_name=None):
        return batch | {"image": jnp.asarray(batch["image"], jnp.float32) / 127.5 - 1}

    task = plugins.create_task("classification", class_fields([str(label) for label in range(1000)]))
    problem = Problem(task.wrap(plugins.create_encoder("vit", "S/16")), task, prepare)
    adamw = optimizer.create("adamw", schedule=lambda _: jnp.float32(1e-4), weight_decay=0.1)
    images, labels = data()
    batch = {"image": images, "label": labels, "index": jnp.arange(BATCH, dtype=jnp.uint32)}
    state = jax.jit(lambda: make_init(problem, adamw, moving_average=False)(0, batch))()
    check(state.params)
    train_step = jax.jit(make_train_step(problem, adamw), donate_argnums=0)
    forward = jax.jit(lambda p, batch: problem.model.apply({"params": p}, prepare(None, batch)["image"], train=False))
    return jax_steps(forward, train_step, state, batch, lambda state: state.params)


def flax_peer():
    """Return a ViT as it is usually written in Flax, and a train step as it is usually written with Optax."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=6)(y, y)
            y = nn.Dense(1536)(nn.LayerNorm()(x))
            return x + nn.Dense(384)(nn.gelu(y))

    class Peer(nn.Module):
        @nn.compact
        def __call__(self, images):
            x = nn.Conv(384, (16, 16), strides=(16, 16), padding="VALID")(images)
            x = x.reshape(x.shape[0], -1, 384)
            token = self.param("token", nn.initializers.zeros, (1, 1, 384))
            x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
            x = x + self.param("positions", nn.initializers.normal(0.02), (1, 197, 384))
            for _ in range(12):
                x = Block()(x)
            return nn.Dense(1000)(nn.LayerNorm()(x)[:, 0])

    model, adamw = Peer(), optax.adamw(1e-4, weight_decay=0.1)
    images, labels = data()
    batch = {"image": jnp.asarray(images, jnp.float32) / 127.5 - 1, "label": labels}
    params = jax.jit(model.init)(jax.random.key(0), batch["image"])["params"]
    check(params)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state, batch):
        def loss(params):
            logits = model.apply({"params": params}, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        value, gradients = jax.value_and_grad(loss)(state[0])
        updates, moments = adamw.update(gradients, state[1], state[0])
        return (optax.apply_updates(state[0], updates), moments), value

    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch["image"]))
    return jax_steps(forward, train_step, (params, adamw.init(params)), batch, lambda state: state[0])


def timm_peer():
    """Return the same in PyTorch."""
    import timm
    import torch

    model = timm.create_model("vit_small_patch16_224")
    assert sum(p.numel() for p in model.parameters()) == PARAMS
    adamw = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.1)
    images, labels = data()
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    labels = torch.from_numpy(labels).long()

    def infer():
        model.eval()
        with torch.inference_mode():
            model(images)

    def train():
        model.train()
        adamw.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        adamw.step()

    return {"infer": infer, "train": train}


def data():
    """Images `[16, 224, 224, 3]` uint8 and labels `[16]` int32."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (BATCH, 224, 224, 3), np.uint8), rng.integers(0, 1000, BATCH, np.int32)


def check(params):
    """Both JAX models are ViT-S/16, to the last parameter."""
    import jax

    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMS


def jax_steps(forward, train_step, state, batch, params_of):
    """Mode -> a function that runs one step and waits for it."""
    import jax

    batch = jax.device_put(batch)

    def train():
        nonlocal state
        state, result = train_step(state, batch)
        jax.block_until_ready(result)

    return {"infer": lambda: jax.block_until_ready(forward(params_of(state), batch)), "train": train}


SIDES = {"ours": ours, "flax": flax_peer, "flax+malloc": flax_peer, "timm": timm_peer}


def work(side: str) -> None:
    """Compile, then times steps for each mode named on standard input, one a line; seconds a step go out."""
    if side in ("ours", "flax+malloc"):
        from vit_jax.system.malloc import keep_freed_memory

        keep_freed_memory()
    steps = SIDES[side]()
    for step in steps.values():
        step()
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        mode = line.strip()
        start = time.perf_counter()
        for _ in range(STEPS[mode]):
            steps[mode]()
        print((time.perf_counter() - start) / STEPS[mode], flush=True)


def torch_python() -> str:
    """Return the Python of a new virtual environment with timm, in the user's cache folder; made once."""
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vit_jax" / "timm"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "torch", "timm"], check=True)
    return str(python)


def main() -> None:
    """Start the sides, runs them in turn, prints a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch-python", help="a Python that has torch and timm")
    parser.add_argument("--sides", default=",".join(SIDES), help="which, with commas; default all")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    processes = {}
    for side in args.sides.split(","):  # one after the other, so that none compiles while another is warmed up
        python = (args.torch_python or torch_python()) if side == "timm" else sys.executable
        command = [python, __file__, "--worker", side]
        pipe = subprocess.PIPE
        processes[side] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        ask(processes[side])
        print(f"{side} is ready", file=sys.stderr, flush=True)
    seconds = {mode: {side: [] for side in processes} for mode in STEPS}
    for _ in range(args.rounds):
        for mode, of in seconds.items():
            for side, process in processes.items():
                of[side].append(float(ask(process, mode)))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    for mode, of in seconds.items():
        medians = {side: statistics.median(values) for side, values in of.items()}
        for side, median in medians.items():
            # Ratios round by round, since rounds share what else the machine did.
            ratio = statistics.median(theirs / own for theirs, own in zip(of[side], of["ours"], strict=True))
            need = f", required {REQUIRED[mode]}" if side == "flax" else ""
            print(f"{mode}  {side:<12} {BATCH / median:7.2f} images/s   ours is {ratio:.2f} times as fast{need}")
    print(json.dumps(seconds))


def ask(process: subprocess.Popen, question: str = "") -> str:
    """Send a line, if any, and gives the answer."""
    if question:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"{' '.join(map(str, process.args))} ended early")
    return answer


if __name__ == "__main__":
    main()
