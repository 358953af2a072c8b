"""Draws where a model looks in images.

Each image becomes DIR/<its name>_attention.png: the image as the model sees it; for each head of the last layer what
the class token takes from each patch (the mean over the patches, where the model has no class token); and over the
image the attention rollout of all layers (Abnar and Zuidema 2020). Each map is coloured from its smallest to its
largest value.

A file that is no image is reported on standard error; the others are still drawn, and the exit status is 2.
"""

import argparse

from vit_jax.cli import values
from vit_jax.system import terminal

EXAMPLES = """examples:
  vit-jax attention --model google/vit-base-patch16-224 cat.jpg --out maps
  vit-jax attention --model runs/digits *.png --out maps --head-fusion max"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="M",
        help="a work directory, a checkpoint's folder or .npz file, or a Hugging Face id",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="as for `vit-jax predict`")
    parser.add_argument("--out", required=True, metavar="DIR", type=values.out_folder, help="folder for the pictures")
    parser.add_argument(
        "--layer", type=int, default=-1, metavar="L", help="whose heads: 1, 2, ... or, from the end, -1"
    )
    parser.add_argument(
        "--head-fusion", default="mean", metavar="F", help="rollout: mean (default), max or min of heads"
    )
    parser.add_argument(
        "--residual", type=float, default=0.5, metavar="R", help="rollout: the identity's weight (default 0.5)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    from vit_jax.cli.image_inputs import FreeNames, find_images, named_error
    from vit_jax.data.images.decoding import decode
    from vit_jax.errors import InputError
    from vit_jax.inference.attention_maps import check_rollout
    from vit_jax.inference.predictor import load
    from vit_jax.system.atomic import writing

    check_rollout(args.head_fusion, args.residual)
    classifier = load(args.model)
    depth = getattr(classifier.encoder, "depth", abs(args.layer))
    if args.layer == 0 or abs(args.layer) > depth:
        raise InputError(f"--layer is {args.layer}; valid: 1 to {depth}, or from the end -1 to -{depth}")
    failed: list[InputError] = []

    def report(error: InputError) -> None:
        failed.append(error)
        terminal.complain("vit-jax attention", error)

    names = FreeNames(args.out, args.images)  # no picture may replace an image to be drawn
    for given in find_images(args.images, on_error=report):
        try:
            image = decode(given.read(), classifier.preprocessing.channels)
        except InputError as error:
            report(named_error(error, given.name))
            continue
        picture = _picture(classifier, image, args)
        args.out.mkdir(parents=True, exist_ok=True)
        [file] = names.find(f"{given.stem}_attention", ["png"])
        with writing(file) as part:
            part.write_bytes(picture)
        terminal.say(f"{given.name}: {file}")
    return 2 if failed else 0


def _picture(classifier, image, args: argparse.Namespace) -> bytes:
    """Return a PNG file of one decoded image."""
    import jax
    import numpy as np

    from vit_jax.figures.attention import attention_figure
    from vit_jax.figures.lettering import shortened
    from vit_jax.figures.png import png
    from vit_jax.inference.attention_maps import attention_rollout, patch_map
    from vit_jax.types import extent_of

    attention = classifier.attention(image)
    depth = len(attention)
    rollout = attention_rollout(attention, head_fusion=args.head_fusion, residual=args.residual)
    pixels = classifier.preprocess(image)
    where = {
        "grid": jax.eval_shape(classifier.features, pixels).grid,
        "class_token": classifier.encoder.pooling == "token",
    }
    layer = args.layer - 1 if args.layer > 0 else depth + args.layer
    title = f"heads of layer {layer + 1} of {depth}"
    if classifier.class_names:
        best = classifier.predict(image, top_k=1)[0][0]
        title = f"predicted {shortened(best.class_name, 80)}, {best.probability:.1%}; {title}"
    figure = attention_figure(
        classifier.preprocessing(image),
        np.asarray(patch_map(attention[layer, 0], **where)),
        np.asarray(patch_map(rollout[0], **where)),
        extent=extent_of(classifier.encoder, pixels.shape[1:3]),
        title=title,
    )
    return png(figure)
