"""Kills a training run with SIGKILL at random moments, resumes it each time, and compares it with one left alone.

python benchmarks/kill_and_resume.py --kills 20 [--num-steps 400]

The whole state (parameters, optimizer, moving average, key, counters) and metrics.jsonl must be equal, byte for byte.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).resolve().parent.parent
ITEMS = ("params", "ema_params", "variables", "companions", "rest")
"""Parts of a checkpoint that hold arrays; some states lack some."""


def main() -> int:
    """Run the comparison; gives 0 if all is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--num-steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = pathlib.Path(folder) / "alone", pathlib.Path(folder) / "killed"
        started = time.perf_counter()
        if _run(alone, args.num_steps).wait():
            print("the run that was left alone failed")
            return 1
        seconds = time.perf_counter() - started
        kills = finished = 0
        difference = None
        while kills < args.kills:
            process = _run(killed, args.num_steps)
            try:
                process.wait(moments.uniform(0.1, 1.1) * seconds)
                finished += 1
                if process.returncode:
                    print(f"a resumed run ended with status {process.returncode}")
                    return 1
                difference = difference or first_difference(alone, killed, args.num_steps)
                killed = pathlib.Path(folder) / f"killed{finished}"  # so that every kill hits a run at work
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"kill {kills}: last complete checkpoint {_last_step(killed)}", flush=True)
        process = _run(killed, args.num_steps)
        if process.wait():
            print(f"the last resumed run ended with status {process.returncode}")
            return 1
        difference = difference or first_difference(alone, killed, args.num_steps)
        verdict = f"DIFFERENT: {difference}" if difference else "all equal"
        print(f"{kills} kills, {finished + 1} runs to the end; {verdict}")
        return 1 if difference else 0


def _run(workdir: pathlib.Path, num_steps: int) -> subprocess.Popen:
    command = [
        *(sys.executable, "train.py", f"--workdir={workdir}", f"--config.num_steps={num_steps}"),
        *("--config.log_every_steps=7", "--config.evaluation.every_steps=50", "--config.checkpoint.every_steps=20"),
        *("--config.model.options.dropout=0.1", "--config.model.options.depth=2", "--config.ema_decay=0.9"),
    ]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _last_step(workdir: pathlib.Path) -> int | None:
    return max((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()), default=None)


def first_difference(left: pathlib.Path, right: pathlib.Path, step: int) -> str | None:
    """Return what differs first between two work directories in the state saved at step or in the metrics, or None."""
    folders = [run / "checkpoints" / str(step) for run in (left, right)]
    items, others = ({name for name in ITEMS if (folder / name).is_dir()} for folder in folders)
    if items != others:
        return f"{sorted(items ^ others)[0]} is in one checkpoint alone"
    with ocp.StandardCheckpointer() as checkpointer:
        for item in sorted(items):
            trees = [checkpointer.restore(folder / item) for folder in folders]
            names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(trees[0])]
            for name, a, b in zip(names, *map(jax.tree.leaves, trees), strict=True):
                if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                    return f"{item}{name}"
    files = [(run / "metrics.jsonl").read_bytes() for run in (left, right)]
    return None if files[0] == files[1] else "metrics.jsonl"


if __name__ == "__main__":
    sys.exit(main())
