"""Writes a model for another library, with its class names and preprocessing.

What the format cannot express is refused, so that the model gives the same answers there.
"""

import argparse

from vit_jax.cli import values
from vit_jax.system import terminal
from vit_jax.system.paths import expanded

EXAMPLES = """examples:
  vit-jax convert runs/digits digits_timm --to timm
  vit-jax convert google/vit-base-patch16-224 vit_base --to workdir
  vit-jax convert ViT-B_16.npz vit_base_hf --to huggingface"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a work directory, a checkpoint's folder or .npz file, or a Hugging Face id",
    )
    parser.add_argument("dest", metavar="DEST", help="a folder that does not exist or is empty; for google a .npz file")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="huggingface, timm, google, t2t or workdir")
    parser.add_argument(
        "--step", type=values.step, default="last", help="of a work directory: last (default), best, or a step"
    )
    parser.add_argument("--revision", metavar="R", help="of a Hugging Face id: branch, tag or commit")
    parser.add_argument(
        "--image-size", type=values.image_size, metavar="H,W", help="of a foreign checkpoint: pixels to resize it for"
    )
    parser.add_argument("--in-channels", type=int, metavar="C", help="of a foreign checkpoint: to adapt its stem to")
    parser.add_argument("--num-heads", type=int, metavar="N", help="of an .npz that does not tell")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="NAME",
        help="what an error message names: a tensor of SOURCE, or a setting that DEST need not hold (repeatable)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    import jax

    from vit_jax.errors import InputError
    from vit_jax.inference.predictor import load
    from vit_jax.inference.save import free_destination, save
    from vit_jax.pretrained.export import ALLOWED_DIFFERENCES

    dest = free_destination(args.dest, args.to)  # before much is loaded
    theirs = [name for name in args.allow if name not in ALLOWED_DIFFERENCES]
    if theirs and (expanded(args.source) / "checkpoints").is_dir():
        raise InputError(
            f"--allow {theirs[0]} is nothing that a work directory lacks; valid: {', '.join(ALLOWED_DIFFERENCES)}"
        )
    classifier = load(
        args.source,
        step=args.step,
        revision=args.revision,
        image_size=args.image_size,
        in_channels=args.in_channels,
        num_heads=args.num_heads,
        allow=theirs,
    )
    name = save(classifier, dest, to=args.to, allow=[name for name in args.allow if name in ALLOWED_DIFFERENCES])
    count = sum(leaf.size for leaf in jax.tree.leaves(classifier.params))
    terminal.say(f"{args.dest}: {name}, {count:,} parameters")
    for file in sorted(dest.rglob("*")) if dest.is_dir() else [dest]:
        if file.is_file():
            terminal.say(f"  {file.stat().st_size:>13,} bytes  {file.relative_to(dest.parent)}")
    return 0
