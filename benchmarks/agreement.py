"""Trains the same model on virtual CPU devices spread in different ways, and prints how far the parameters differ.

python benchmarks/agreement.py [--steps 20]

configs/digits.py with flips, shifts, mixup, cutmix and a moving average; the reference is one device. Columns are
optimizers, and AdamW with dropout and stochastic depth, whose draws under pmap depend on the device.
"""

import argparse
import functools
import os

LAYOUTS = {
    "mesh, 1 device": ("mesh", 1, {}),
    "pmap, 1 device": ("pmap", 1, {}),
    "pmap, 8 devices": ("pmap", 8, {}),
    "mesh, data=8": ("mesh", 8, {"data": 8}),
    "mesh, fsdp=8": ("mesh", 8, {"fsdp": 8}),
    "mesh, fsdp=2": ("mesh", 2, {"fsdp": 2}),
    "mesh, data=2 x fsdp=2 x tensor=2": ("mesh", 8, {"data": 2, "fsdp": 2, "tensor": 2}),
    "mesh, fsdp=2 x tensor=4": ("mesh", 8, {"fsdp": 2, "tensor": 4}),
}
"""Name -> strategy, devices, sizes of the mesh's axes."""

# The gradient of the keys' bias is zero but for rounding, which Adam would scale up to whole steps.
ADAMW = {"optimizer.name": "adamw", "optimizer.freeze": ("attention/key/bias",)}
COLUMNS = {
    "SGD": {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1},
    "AdamW": ADAMW,
    "AdamW, dropout": ADAMW | {"model.options.dropout": 0.1, "model.options.drop_path": 0.1},
}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}  # before JAX is imported
    from vit_jax.build.experiment import experiment

    print("| " + " | ".join(["", *COLUMNS]) + " |\n|---" + "|---:" * len(COLUMNS) + "|")
    runs = {name: experiment(config(args.steps, changes)) for name, changes in COLUMNS.items()}
    reference = {name: trained_params(run, *LAYOUTS["mesh, 1 device"]) for name, run in runs.items()}
    for layout, spread in LAYOUTS.items():
        cells = [
            f"{largest_difference(trained_params(run, *spread), reference[name]):.1e}" for name, run in runs.items()
        ]
        print("| " + " | ".join([layout, *cells]) + " |", flush=True)
    return 0


def config(steps: int, changes: dict):
    """configs/digits.py with every augmentation that the step does, a moving average, and the changes."""
    from configs import digits

    result = digits.get_config()
    mix = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    every = {
        "num_steps": steps,
        "ema_decay": 0.9,
        "optimizer.warmup_steps": 2,
        "model.options.drop_path": 0.0,
        "data.augment": {"shift": {"pixels": 1}, "flip": {}, "erase": {"probability": 0.25}, "mix": mix},
    }
    with result.unlocked():
        for key, value in (every | changes).items():
            *path, name = key.split(".")
            functools.reduce(getattr, path, result)[name] = value
    return result


def trained_params(run, strategy: str, num_devices: int, sizes: dict[str, int]):
    """(params, ema_params) after the run's steps, as NumPy arrays."""
    import jax

    from vit_jax.data.loading.loader import Share
    from vit_jax.parallel.mesh import Mesh
    from vit_jax.parallel.pmap import Pmap

    devices = jax.local_devices()[:num_devices]
    if strategy == "pmap":
        strategy = Pmap(devices)
    else:
        strategy = Mesh(**{"data": 1} | sizes, min_size=0, devices=devices)
    step = strategy.compile_train_step(run.make_train_step(strategy.axis_name))
    state = strategy.place_state(strategy.new_state(functools.partial(run.init, 0, run.example)))
    batches = run.train_loader.train_batches(Share(64), seed=0, start_step=0, total_steps=run.total_steps)
    for batch in batches:
        state, _ = step(state, strategy.place_batch(batch))
    return strategy.fetch((state.params, state.ema_params))


def largest_difference(left, right) -> float:
    """Over all elements of all leaves."""
    import jax
    import numpy as np

    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), left, right)
    return float(max(jax.tree.leaves(differences)))


if __name__ == "__main__":
    raise SystemExit(main())
