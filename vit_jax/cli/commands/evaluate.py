"""Evaluates a trained model on the splits that its config names; every example counts exactly once."""

import argparse
import pathlib
import signal
from typing import Any

from vit_jax.cli import values
from vit_jax.errors import InputError
from vit_jax.system import hosts, terminal
from vit_jax.system.paths import expanded

EXAMPLES = """examples:
  vit-jax evaluate --model runs/digits
  vit-jax evaluate --model runs/digits --split 'train[:500]' --json
  vit-jax evaluate --model runs/pets --data-dir /mnt/pets
  vit-jax evaluate --model runs/digits --metrics confusion,calibration --out figures
  vit-jax evaluate --model runs/digits --metrics knn,probe"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a work directory of train.py")
    parser.add_argument("--step", type=values.step, default="last", help="last (default), best, or a checkpoint's step")
    parser.add_argument("--split", metavar="SPLIT", help="a split to evaluate instead of the config's")
    parser.add_argument("--data-dir", metavar="DIR", help="the folder of images, or TFDS's folder, if not the config's")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out images of a folder that are unreadable")
    parser.add_argument("--batch-size", type=int, metavar="B", help="images at a time; does not change the figures")
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help="further metrics instead of the config's, separated by commas; `vit-jax options` lists them",
    )
    parser.add_argument(
        "--out", type=values.out_folder, metavar="DIR", help="folder for the metrics' tables and pictures, DIR/<split>/"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    hosts.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    import jax

    from vit_jax.inference.predictor import load
    from vit_jax.parallel import strategy as parallel

    hosts.join("vit-jax evaluate", args.coordinator, args.num_processes, args.process_id)
    if hosts.joined():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from JAX, which would keep it for a checkpoint
    workdir = _workdir(args.model)
    config = _config(args, workdir)
    predictor = load(workdir, step=args.step)
    if predictor.task is None:
        raise InputError(f"{args.model} holds an encoder without a task; valid: a model with one")
    batch_size = config.evaluation.batch_size if args.batch_size is None else args.batch_size
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}; valid: 1 or more")
    # The sizes in the config are for the machine that trained; here all devices share the parameters.
    sizes: Any = {"data": 1, "fsdp": -1} if config.parallel.strategy == "mesh" else {}
    strategy = parallel.create(config.parallel.strategy, **sizes)
    results = {"model": args.model, "step": predictor.info["step"]}
    results |= _evaluate(predictor, config, strategy, batch_size=batch_size, out=args.out)
    if jax.process_index() != 0:
        return 0
    if args.json:
        terminal.say_json(results)
    else:
        width = max(map(len, results))
        for key, value in results.items():
            terminal.say(f"{key:<{width}}  {value:.6g}" if isinstance(value, float) else f"{key:<{width}}  {value}")
    return 0


def _evaluate(
    predictor: Any, config: Any, strategy: Any, *, batch_size: int, out: pathlib.Path | None
) -> dict[str, float]:
    """Open the data and evaluates the model on them."""
    from vit_jax.build import data as data_
    from vit_jax.build.experiment import evaluators as create_evaluators
    from vit_jax.training.evaluation import evaluate_all, make_eval_step
    from vit_jax.training.problem import Problem

    splits = config.evaluation.splits.to_dict()
    loaders, data = data_.open_evaluation(config.data, predictor.preprocessing, predictor.fields, splits=splits)
    evaluators = create_evaluators(config.evaluation, predictor.task, data)
    if out is not None:
        if not evaluators.each:
            raise InputError("--out is for the files of metrics, and there are none; valid with --metrics confusion")
        out.mkdir(parents=True, exist_ok=True)
    problem = Problem(predictor.model, predictor.task, data.prepare)
    eval_step = make_eval_step(problem, row_names=evaluators.row_names, axis_name=strategy.axis_name)
    return evaluate_all(
        strategy.compile_eval_step(eval_step),
        strategy.place_state({"params": predictor.params, "variables": predictor.variables}),
        loaders,
        batch_size=batch_size,
        strategy=strategy,
        evaluators=evaluators,
        out=out,
    )


def _workdir(name: str) -> pathlib.Path:
    workdir = expanded(name)
    if not name or not (workdir / "checkpoints").is_dir():
        what = "holds no checkpoints of a run" if name and workdir.exists() else "does not exist"
        raise InputError(
            f"{name or repr('')} {what}; valid: a work directory of train.py, whose config names a dataset"
        )
    return workdir


def _config(args: argparse.Namespace, workdir: pathlib.Path) -> Any:
    """Return the run's config with the changes that the flags ask for."""
    from ml_collections import ConfigDict

    from vit_jax.cli.saved_config import read_saved_config

    config: Any = ConfigDict(read_saved_config(workdir / "config.json"))
    if args.split is not None:
        config.evaluation.splits = ConfigDict({args.split: args.split}, convert_dict=False)
    if args.metrics is not None:
        options = config.evaluation.metrics
        names = filter(None, args.metrics.split(","))
        config.evaluation.metrics = ConfigDict({name: options.get(name, {}) for name in names})
    if args.data_dir:
        config.data["folder" if config.data.get("folder") else "data_dir"] = args.data_dir
    if args.skip_corrupt:
        config.data.skip_corrupt = True
    return config
