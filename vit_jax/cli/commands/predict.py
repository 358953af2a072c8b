"""Tells what a trained model finds in images: classes, masks, boxes, whatever its task is.

Prints a line for each image, and with --out writes pictures: NAME.png, the answer drawn on the image, and what else the
task gives, such as NAME.mask.png. Input that is no image is reported on standard error; the others are still answered,
and the exit status is 2.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from vit_jax.cli import values
from vit_jax.system import terminal

EXAMPLES = """examples:
  vit-jax predict --model runs/digits seven.png
  vit-jax predict --model google/vit-base-patch16-224 cat.jpg https://example.org/dog.jpg
  vit-jax predict --model runs/digits photos --top-k 3 --json
  vit-jax predict --model runs/scenes photos --out answers
  cat seven.png | vit-jax predict --model runs/digits -"""


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
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, a folder with all that is in it, an http(s) URL, or - for an image on standard input; each is "
        "resized to the size that the model takes, and a smaller one enlarged",
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="of a classifier: number of classes (default 5)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another option of the task's results (repeatable)",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="B", help="images at a time (default 32)")
    parser.add_argument(
        "--max-image-pixels", type=int, metavar="N", help="refuse larger images, height times width (default 178956970)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each image, on a line of its own")
    parser.add_argument("--out", type=values.out_folder, metavar="FOLDER", help="where to write pictures")


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    from vit_jax.cli.image_inputs import FreeNames, find_images
    from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, Reading
    from vit_jax.errors import InputError
    from vit_jax.inference.predictor import load

    for flag, value in {"--top-k": args.top_k, "--batch-size": args.batch_size}.items():
        if value is not None and value < 1:
            raise InputError(f"{flag} is {value}; valid: 1 or more")
    max_pixels = Reading(MAX_IMAGE_PIXELS if args.max_image_pixels is None else args.max_image_pixels).max_pixels
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out} exists already and is no folder")
    predictor = load(args.model, step=args.step)
    if predictor.task is None:
        raise InputError(f"{args.model} has no head, so that there is nothing to predict; valid: a model with a task")
    options = _options(args, predictor)
    failures: list[InputError] = []

    def failed(error: InputError) -> None:
        failures.append(error)
        terminal.complain("vit-jax predict", error)

    names = FreeNames(args.out, args.images) if args.out is not None else None
    wrote = answered = False
    inputs = find_images(args.images, on_error=failed)
    for batch in _batches(_read(inputs, predictor, max_pixels, failed, keep=names is not None), args):
        results = predictor.predict([each.pixels for each in batch], **options)
        for each, result in zip(batch, results, strict=True):
            answered = True
            files = [] if names is None else _write(each, result, names, max_pixels)
            wrote = wrote or bool(files)
            _answer(each.name, result, files, as_json=args.json)
    if answered and names is not None and not wrote:
        terminal.complain("vit-jax predict", f"the task draws nothing, and {args.out} was not written to")
    return 2 if failures else 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """An image that was read: its name and stem, what the model takes of it, and what is drawn on.

    content: path or encoded image; None if nothing is drawn.
    """

    name: str
    stem: str
    content: Any
    pixels: Any


def _options(args: argparse.Namespace, predictor: Any) -> dict[str, Any]:
    """Return the options of the task's results, checked by its annotations."""
    import inspect

    from vit_jax.build import plugins
    from vit_jax.errors import InputError

    texts = {}
    for text in args.option:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--option is {text!r}; valid: NAME=VALUE")
        texts[name] = value
    valid = predictor.check_options(texts)
    kinds = {name: Any if kind is inspect.Parameter.empty else kind for name, kind in valid.items()}
    options = {name: plugins.parsed(value, kinds[name], f"--option {name}") for name, value in texts.items()}
    if args.top_k is not None:
        predictor.check_options({"top_k": args.top_k})
        options["top_k"] = args.top_k
    return options


def _read(inputs: Iterator[Any], predictor: Any, max_pixels: int, failed: Any, *, keep: bool) -> Iterator[_Read]:
    """Read images one by one; of a photograph only what the model takes is kept, and if `keep` the encoded image."""
    from vit_jax.cli.image_inputs import named_error
    from vit_jax.errors import InputError
    from vit_jax.inference.images import read_image

    for given in inputs:
        try:
            content = given.read()
            pixels = read_image(content, predictor.preprocessing, max_pixels=max_pixels)
            yield _Read(given.name, given.stem, content if keep else None, pixels)
        except InputError as error:
            failed(named_error(error, given.name))


def _batches(images: Iterator[_Read], args: argparse.Namespace) -> Iterator[Sequence[_Read]]:
    batch: list[_Read] = []
    for image in images:
        batch.append(image)
        if len(batch) == args.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(image: _Read, result: Any, names: Any, max_pixels: int) -> list[pathlib.Path]:
    """Write the pictures of a result; each file appears when it is complete."""
    from vit_jax.data.images.decoding import decode
    from vit_jax.system.atomic import writing

    drawn = result.draw(decode(image.content, 3, max_pixels=max_pixels))
    pictures = ({} if drawn is None else {"png": drawn}) | result.files()
    if not pictures:
        return []
    files = names.find(image.stem, list(pictures))
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, pictures.values(), strict=True):
        with writing(file) as part, part.open("wb") as stream:
            picture.save(stream, _format(file))
    return files


def _format(file: pathlib.Path) -> str:
    from PIL import Image

    return Image.registered_extensions().get(file.suffix.lower(), "PNG")


def _answer(name: str, result: Any, files: Sequence[pathlib.Path], *, as_json: bool) -> None:
    """Print what the model finds in one image."""
    if as_json:
        written = {"files": [str(file) for file in files]} if files else {}
        terminal.say_json({"image": name, **result.json()} | written)
    else:
        terminal.say(f"{name}: {result.line()}" + (f"  -> {', '.join(map(str, files))}" if files else ""))
