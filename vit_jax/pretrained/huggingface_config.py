"""What config.json and preprocessor_config.json of Hugging Face transformers say for every family.

Source: transformers 5's configuration_utils.py and image_processing_backends.py.
"""

import math
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.options import short
from vit_jax.pretrained.description import classification, in_proportion, pair, shape_of
from vit_jax.pretrained.export import ExportModel, Unsupported, unsupported_cut, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name

HEAD = (Name("head/kernel", "classifier.weight", "linear"), Name("head/bias", "classifier.bias"))
"""Of most classifiers."""
GELU = {
    "gelu": "exact",
    "gelu_python": "exact",
    "gelu_pytorch_tanh": "tanh",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}
"""hidden_act -> ours; the first of each kind is the one that is written."""
HIDDEN_ACT = {ours: theirs for theirs, ours in reversed(GELU.items())}
_SEVERAL = "multi_label_classification"
_PROBLEMS = ("single_label_classification", _SEVERAL)
"""Values of problem_type; without one it is the first."""
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers."""
_INTERPOLATION = ("bilinear", "bicubic", "lanczos")
"""The filters with which transformers 5, whose processors resize tensors, does as Pillow does."""


def read_head(files: Files, head: tuple[Name, ...], **options: Any) -> dict[str, Any]:
    """Return `task` and `fields` of a `Description`; nothing without a head.

    Args:
        files: the checkpoint.
        head: the rows of the head's parameters, its kernel first; empty without a head.
        **options: of the classification, besides its loss.
    """
    if not head:
        return {}
    assert files.config is not None, files.name
    names, problem = _class_names(files, head), files.config.get("problem_type")
    if problem not in (None, *_PROBLEMS):
        raise InputError(f"{files.name}: problem_type {short(problem)} is not supported; valid: {', '.join(_PROBLEMS)}")
    if problem == _SEVERAL:
        options["loss_type"] = "sigmoid"
    return classification(names, **options)


def _class_names(files: Files, head: tuple[Name, ...]) -> tuple[str, ...]:
    """Read the names in config.json, or transformers' own for numbers; as many as the head has.

    Args:
        files: the checkpoint.
        head: the rows of the head's parameters, its kernel first; empty without a head.
    """
    assert files.config is not None, files.name
    labels = {int(number): str(label) for number, label in (files.config.get("id2label") or {}).items()}
    count = shape_of(files, head[0].tensor, 2)[0] if head[0].tensor in files.tensors else len(labels)
    if labels and sorted(labels) != list(range(count)):
        raise InputError(f"{files.name}: id2label has {len(labels)} names, but {head[0].tensor} has {count} classes")
    return tuple(labels.get(number, f"LABEL_{number}") for number in range(count))


def read_preprocessing(
    files: Files, processor: dict[str, Any], image_size: tuple[int, int], channels: int
) -> Preprocessing:
    """Read what the image processor does, with the model's size as its last.

    Args:
        files: the checkpoint, with its preprocessor_config.json or without.
        processor: the default settings of the family's image processor, at 224 px.
        image_size: the model's height and width in pixels.
        channels: of the images.
    """
    given = {key: value for key, value in (files.preprocessor or {}).items() if value is not None}
    options = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    options |= processor
    if files.preprocessor is None:  # the processor's own sizes, in the model's proportion
        for key in {"size", "crop_size"} & options.keys():
            options[key] = {"height": 0, "width": 0} | {
                side: round(options[key] * length / 224)
                for side, length in zip(("height", "width"), image_size, strict=True)
            }
    options: dict[str, Any] = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels} | options | given
    resize, before = _resize(files.name, options["size"]) if options["do_resize"] else ("exact", None)
    if resize == "exact" and not options["do_center_crop"]:
        before = None
    elif before is not None:
        crop = (
            _resize(files.name, options.get("crop_size", options["size"]))[1] if options["do_center_crop"] else before
        )
        # The crop is the model's input; a processor for another size is scaled along.
        before = in_proportion(before, crop, image_size)
    mean, std = (np.resize(np.asarray(options[key], float), channels) for key in ("image_mean", "image_std"))
    if not options["do_normalize"]:
        mean, std = np.zeros(channels), np.ones(channels)
    # Ours divides by 255 first: (p f - mean) / std = (p / 255 - mean / 255 f) / (std / 255 f).
    scale = 255 * (options["rescale_factor"] if options["do_rescale"] else 1.0)
    scale = 1.0 if math.isclose(scale, 1.0) else scale
    resample = options["resample"]
    if resample not in range(len(RESAMPLE)):
        raise InputError(f"{files.name}: resample {resample!r} is not supported; valid: 0 to {len(RESAMPLE) - 1}")
    return Preprocessing(
        image_size=image_size,
        channels=channels,
        resize=resize,
        resize_to=before,
        interpolation=RESAMPLE[resample],
        mean=tuple(float(m) for m in mean / scale),
        std=tuple(float(s) for s in std / scale),
    )


def _resize(name: str, size: Any) -> tuple[str, tuple[int, int]]:
    """Tell how a `size` of a processor resizes, and to which height and width."""
    if isinstance(size, dict) and "shortest_edge" in size and "longest_edge" not in size:
        return "shortest_edge", pair(size["shortest_edge"], f"{name}: size")
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return "exact", pair([size["height"], size["width"]], f"{name}: size")
    if isinstance(size, int | list | tuple):
        return "exact", pair(size, f"{name}: size")
    raise InputError(f"{name}: size {size!r} is not supported; valid: height and width, or shortest_edge")


def head_config(model: ExportModel) -> dict[str, Any]:
    """Return what config.json says of the head."""
    if model.task is None:
        return {}
    config: dict[str, Any] = {
        "id2label": {str(label): name for label, name in enumerate(model.class_names)},
        "label2id": {name: label for label, name in enumerate(model.class_names)},
    }
    return config | ({"problem_type": "multi_label_classification"} if model.task.loss_type == "sigmoid" else {})


def processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return preprocessor_config.json for the image processor that transformers 4 and 5 have for this kind of cut."""
    rows, columns = preprocessing.resize_target
    by_edge = preprocessing.resize != "exact" and rows == columns
    cut = by_edge or (rows, columns) != preprocessing.image_size
    processor = {
        "image_processor_type": f"{'CLIP' if by_edge else 'DeiT' if cut else 'ViT'}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": rows} if by_edge else {"height": rows, "width": columns},
        "resample": RESAMPLE.index(preprocessing.interpolation),
        "do_center_crop": cut,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "do_convert_rgb": preprocessing.channels == 3,
    }
    if cut:
        height, width = preprocessing.image_size
        processor["crop_size"] = {"height": height, "width": width}
    return processor


def unsupported_preprocessing(preprocessing: Preprocessing) -> list[Unsupported]:
    """List what the image processors cannot express of the preprocessing."""
    found = unsupported_settings("data", preprocessing, {"interpolation": _INTERPOLATION})
    rows, columns = preprocessing.resize_target
    if preprocessing.resize == "shortest_edge_nearest" or (preprocessing.resize == "shortest_edge" and rows != columns):
        valid = "shortest_edge" if rows == columns else f"exact, for {rows}x{columns} px"
        found.append(Unsupported("data.resize", preprocessing.resize, valid))
    return found + unsupported_cut(preprocessing, "floor")


def side_or_sides(size: tuple[int, int]) -> int | list[int]:
    """Return one number for a square."""
    return size[0] if size[0] == size[1] else list(size)
