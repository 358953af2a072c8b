"""Trains a model: python train.py --config=configs/digits.py --workdir=runs/digits.

This file holds the loop; `vit_jax/cli/run.py` opens what it uses. The same command again continues.
"""

import pathlib
import sys
import time

from vit_jax.cli import errors
from vit_jax.system import hosts, malloc, terminal

STARTED = time.perf_counter()


def train(config, workdir: pathlib.Path) -> int:
    """Run, or continues, the experiment of a config.

    Args:
        config: locked ConfigDict with the keys of configs/common.py.
        workdir: for checkpoints, metrics.jsonl, TensorBoard files and config.json.

    Returns:
        The exit status: 0, or 143 and 130 if SIGTERM or Ctrl-C ended it early, after a save.
    """
    from vit_jax.cli.run import open_run

    with open_run(config, workdir, started=STARTED) as run:
        state = run.state
        for step, batch in run.batches():
            with run.trace("train", step):
                state, metrics = run.train_step(state, batch)
            run.submitted(step, metrics)
            if run.log_is_due(step):
                run.log_metrics(step, metrics)
            results = run.evaluate(step, state) if run.evaluation_is_due(step) else {}
            if run.stops_after(step) or run.save_is_due(step, results):
                run.save(step, state, results)
            if run.stopping:
                break
        return run.end()


if __name__ == "__main__":
    malloc.keep_freed_memory()
    with errors.one_line_errors("train.py"):
        from vit_jax.cli import configs, flags  # which import JAX: Ctrl-C is one line then too

        root = configs.home()
        if {"-h", "--help", "-help"} & set(sys.argv[1:]):
            terminal.say_lines(flags.usage(root).rstrip())
            sys.exit(0)
        config, workdir = flags.parse(sys.argv, root=root)
        hosts.join("train.py", *flags.processes())
        sys.exit(train(config, workdir))
