"""Names what images show, with a trained model.

A file that is no image is reported on standard error; the others are still answered, and the exit status is 2.
"""

import argparse
import json
import sys

EXAMPLES = """examples:
  vit-jax predict --model runs/digits seven.png
  vit-jax predict --model google/vit-base-patch16-224 cat.jpg
  vit-jax predict --model runs/digits *.png --top-k 3 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="M",
        help="a work directory, a checkpoint's folder or .npz file, or a Hugging Face id",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="how many classes to name (default 5)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="B", help="images at a time (default 32)")
    parser.add_argument(
        "--max-image-pixels", type=int, metavar="N", help="refuse larger images, height times width (default 178956970)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object an image and line")


def run(args: argparse.Namespace) -> int:
    """Runs the command; gives its exit status."""
    from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, Reading, decode
    from vit_jax.errors import InputError
    from vit_jax.inference.predictor import load

    for flag, value in {"--top-k": args.top_k, "--batch-size": args.batch_size}.items():
        if value < 1:
            raise InputError(f"{flag} is {value}; valid: 1 or more")
    limit = Reading(MAX_IMAGE_PIXELS if args.max_image_pixels is None else args.max_image_pixels).max_pixels
    classifier = load(args.model)
    failed = False
    for start in range(0, len(args.images), args.batch_size):
        names, images = [], []
        for name in args.images[start : start + args.batch_size]:
            try:
                images.append(decode(name, classifier.preprocessing.channels, max_pixels=limit))
                names.append(name)
            except InputError as error:
                failed = True
                print(f"vit-jax predict: {error}", file=sys.stderr)
        if not names:
            continue
        for name, predictions in zip(names, classifier.predict(images, args.top_k), strict=True):
            if args.json:
                print(json.dumps({"image": name, "predictions": [vars(p) for p in predictions]}), flush=True)
            else:
                answers = "  ".join(f"{p.class_name} {p.probability:.1%}" for p in predictions)
                print(f"{name}: {answers}", flush=True)
    return 2 if failed else 0
