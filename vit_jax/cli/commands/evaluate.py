"""Evaluates a model, of a run or of another library, on labelled data; every example counts exactly once.

A work directory is evaluated on the splits that its config names. With --data-dir any model is evaluated on every image
of a folder of class folders (of one that has train, val and test, on each but train), and with --dataset on a TFDS
dataset. Classes are matched by their names; the data may lack some of the model's, which are then named.
"""

import argparse
import signal
from typing import Any

from vit_jax.cli import values
from vit_jax.errors import InputError
from vit_jax.system import hosts, terminal

EXAMPLES = """examples:
  vit-jax evaluate --model runs/digits
  vit-jax evaluate --model runs/digits --split 'train[:500]' --json
  vit-jax evaluate --model runs/pets --data-dir photos/test
  vit-jax evaluate --model google/vit-base-patch16-224 --data-dir imagenet/val
  vit-jax evaluate --model google/vit-base-patch16-224 --dataset imagenet2012
  vit-jax evaluate --model runs/digits --metrics confusion,calibration --out figures
  vit-jax evaluate --model runs/digits --metrics knn,probe"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="M",
        help="a work directory, a checkpoint's folder or .npz file, or a Hugging Face id",
    )
    parser.add_argument(
        "--step", type=values.step, default="last", help="of a work directory: last (default), best, or a step"
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="a folder of class folders to evaluate on, all of it; or TFDS's folder, with --dataset or if the run's "
        "dataset lies there",
    )
    parser.add_argument("--dataset", metavar="NAME", help="a TFDS dataset to evaluate on instead of the config's")
    parser.add_argument("--labels", metavar="FILE", help="a CSV file of the labels of the folder's images")
    parser.add_argument("--split", metavar="SPLIT", help="a split to evaluate: test, 'train[:500]', all")
    parser.add_argument(
        "--classes-by-number",
        action="store_true",
        help="take the data's classes, in their order, for the model's, whatever they are called",
    )
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

    from vit_jax.cli.evaluated import config_of
    from vit_jax.inference.predictor import load
    from vit_jax.parallel import strategy as parallel

    hosts.join("vit-jax evaluate", args.coordinator, args.num_processes, args.process_id)
    if hosts.joined():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from JAX, which would keep it for a checkpoint
    config = config_of(args)
    batch_size = config.evaluation.batch_size if args.batch_size is None else args.batch_size
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}; valid: 1 or more")
    predictor = load(args.model, step=args.step)
    if predictor.task is None:
        raise InputError(f"{args.model} holds an encoder without a task; valid: a model with one")
    # The sizes in the config are for the machine that trained; here all devices share the parameters.
    sizes: Any = {"data": 1, "fsdp": -1} if config.parallel.strategy == "mesh" else {}
    strategy = parallel.create(config.parallel.strategy, **sizes)
    results: dict[str, Any] = {"model": args.model}
    results |= {"step": predictor.info["step"]} if "step" in predictor.info else {}
    results |= _evaluate(predictor, config, strategy, args, batch_size=batch_size)
    if jax.process_index() != 0:
        return 0
    if args.json:
        terminal.say_json(results)
    else:
        width = max(map(len, results))
        for key, value in results.items():
            terminal.say(f"{key:<{width}}  {_text(value)}")
    return 0


def _evaluate(
    predictor: Any, config: Any, strategy: Any, args: argparse.Namespace, *, batch_size: int
) -> dict[str, Any]:
    """Open the data and evaluate the model on them."""
    from vit_jax.build import data as data_
    from vit_jax.build.experiment import evaluators as create_evaluators
    from vit_jax.cli.evaluated import ClassesSeen, set_fields
    from vit_jax.data.sources.split_names import ALL
    from vit_jax.training.evaluation import evaluate_all, make_eval_step
    from vit_jax.training.problem import Problem

    set_fields(config.data, predictor.fields, args)
    loaders, data = data_.open_evaluation(
        config.data,
        predictor.preprocessing,
        predictor.fields,
        splits=config.evaluation.splits.to_dict(),
        whole=args.data_dir is not None,
        by_number=args.classes_by_number,
    )
    evaluators = create_evaluators(config.evaluation, predictor.task, data)
    if evaluators.reference is not None and ALL in loaders and config.evaluation.reference_split is None:
        names = ", ".join(config.evaluation.metrics)
        raise InputError(
            f"all images of {config.data.folder} are evaluated, and a metric of {names} would learn from a part of "
            "them; valid: --split test, or other metrics"
        )
    _note(config, args, loaders)
    out = args.out
    if out is not None:
        if not evaluators.each:
            raise InputError("--out is for the files of metrics, and there are none; valid with --metrics confusion")
        out.mkdir(parents=True, exist_ok=True)
    seen = ClassesSeen(predictor.task)
    problem = Problem(predictor.model, predictor.task, data.prepare)
    row_names = sorted({*evaluators.row_names, *seen.needs})
    eval_step = make_eval_step(problem, row_names=row_names, axis_name=strategy.axis_name)
    figures = evaluate_all(
        strategy.compile_eval_step(eval_step),
        strategy.place_state({"params": predictor.params, "variables": predictor.variables}),
        loaders,
        batch_size=batch_size,
        strategy=strategy,
        evaluators=evaluators,
        out=out,
        watched=seen.needs,
        watch=seen.add,
    )
    return figures | {f"{name}/absent_classes": absent for name in loaders if (absent := seen.absent(name))}


def _note(config: Any, args: argparse.Namespace, loaders: Any) -> None:
    """Say on standard error what the figures alone would not tell."""
    import jax

    from vit_jax.data.sources.split_names import ALL

    if jax.process_index() != 0:
        return
    if args.classes_by_number:
        terminal.complain("vit-jax evaluate", "the classes are matched by their numbers, not by their names")
    if config.trained_on_folder and ALL in loaders and args.split is None:
        terminal.complain(
            "vit-jax evaluate",
            f"all {len(loaders[ALL]):,} images of {config.data.folder} are evaluated; if the model was trained on "
            "these, --split test takes those that were held out",
        )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value[:10])) + (f" and {len(value) - 10} more" if len(value) > 10 else "")
    return f"{value:.6g}" if isinstance(value, float) else str(value)
