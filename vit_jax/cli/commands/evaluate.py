"""Scores a trained model on the splits its config evaluates, every example exactly once."""

import argparse
import json
import pathlib
import signal
from typing import Any

from vit_jax.system import hosts

EXAMPLES = """examples:
  vit-jax evaluate --model runs/digits
  vit-jax evaluate --model runs/digits --split 'train[:500]' --json
  vit-jax evaluate --model runs/pets --data-dir /mnt/pets
  vit-jax evaluate --model runs/digits --metrics confusion,calibration --out figures
  vit-jax evaluate --model runs/digits --metrics knn,probe"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a work directory of train.py")
    parser.add_argument("--step", default="last", help="last (default), best, or a checkpoint's step")
    parser.add_argument("--split", metavar="SPLIT", help="a split to evaluate instead of the config's")
    parser.add_argument("--data-dir", metavar="DIR", help="the folder of images, or TFDS's folder, if not the config's")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out images of a folder that are unreadable")
    parser.add_argument("--batch-size", type=int, metavar="B", help="images at a time; does not change the figures")
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help="what else to find out instead of the config's: confusion, calibration, average_precision, knn, probe",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the metrics' tables and pictures, DIR/<split>/")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    hosts.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; gives its exit status."""
    import jax
    from ml_collections import ConfigDict

    from vit_jax.build import experiment as build
    from vit_jax.errors import InputError
    from vit_jax.inference.predictor import load
    from vit_jax.parallel import strategy as parallel
    from vit_jax.training import evaluation, step

    hosts.join("vit-jax evaluate", args.coordinator, args.num_processes, args.process_id)
    if hosts.joined():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from JAX, which would keep it for a checkpoint
    workdir = pathlib.Path(args.model).expanduser()
    if not args.model or not (workdir / "checkpoints").is_dir():
        what = "holds no checkpoints of a run" if args.model and workdir.exists() else "does not exist"
        raise InputError(
            f"{args.model or repr('')} {what}; valid: a work directory of train.py, whose config names a dataset"
        )
    config = _config(workdir / "config.json")
    classifier = load(workdir, step=int(args.step) if args.step.isdigit() else args.step)
    if args.split is not None:
        config.evaluation.splits = ConfigDict({args.split: args.split}, convert_dict=False)
    if args.metrics is not None:
        config.evaluation.metrics = tuple(filter(None, args.metrics.split(",")))
    if args.data_dir:
        config.data["folder" if config.data.get("folder") else "data_dir"] = args.data_dir
    if args.skip_corrupt:
        config.data.skip_corrupt = True
    batch_size = config.evaluation.batch_size if args.batch_size is None else args.batch_size
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}; valid: 1 or more")

    # The sizes in the config are for the machine that trained; here all devices share the parameters.
    sizes: Any = {"data": 1, "fsdp": -1} if config.parallel.strategy == "mesh" else {}
    strategy = parallel.create(config.parallel.strategy, **sizes)
    prepare = build.eval_prepare(classifier.preprocessing)
    loaders = build.eval_loaders(config, classifier.preprocessing, classifier.class_names)
    evaluators = build.evaluators(
        config,
        classifier.task,
        classifier.preprocessing,
        classifier.class_names,
        multi_label=any(loader.multi_label for loader in loaders.values()),
    )
    out = None if args.out is None else pathlib.Path(args.out).expanduser()
    if out is not None:
        if not evaluators.each:
            raise InputError("--out is for the files of metrics, and there are none; valid with --metrics confusion")
        out.mkdir(parents=True, exist_ok=True)
    eval_step = strategy.compile_eval_step(
        step.make_eval_step(
            classifier.model,
            classifier.task,
            prepare=prepare,
            row_names=evaluators.row_names,
            axis_name=strategy.axis_name,
        )
    )
    params = strategy.place_state(classifier.params)
    results = {"model": args.model, "step": classifier.info["step"]}
    results |= evaluation.evaluate_all(
        eval_step, params, loaders, batch_size=batch_size, strategy=strategy, evaluators=evaluators, out=out
    )
    if jax.process_index() != 0:
        return 0
    if args.json:
        print(json.dumps(results))
    else:
        width = max(map(len, results))
        for key, value in results.items():
            print(f"{key:<{width}}  {value:.6g}" if isinstance(value, float) else f"{key:<{width}}  {value}")
    return 0


def _config(file: pathlib.Path) -> Any:
    """The config of a run, as train.py wrote it.

    Raises:
        InputError: there is none, or it is no such config.
    """
    from ml_collections import ConfigDict

    from vit_jax.errors import InputError

    if not file.is_file():
        raise InputError(f"{file} does not exist, which names the dataset; valid: a work directory of train.py")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None
    for name in ("data", "evaluation", "parallel"):
        if not isinstance(config, dict) or name not in config:
            raise InputError(f"{file} lacks {name!r}; valid: as train.py wrote it")
    return ConfigDict(config)
