"""preprocessor_config.json of Hugging Face transformers as a `Preprocessing`, and back.

The rows of huggingface_processor_types.py say what its types of image processors do. Other types, keys and values are
refused, since their pixels would be others.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.options import is_number, short
from vit_jax.pretrained.description import in_proportion, is_whole
from vit_jax.pretrained.export import ExportModel, Unsupported, order_warnings, unsupported_cut, unsupported_settings
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.huggingface_processor_types import IDLE, KEYS, MAX_SIDE, PROCESSORS, RESAMPLE, Cut

_INTERPOLATION = ("bilinear", "bicubic", "lanczos")
"""The filters that are written, in which transformers 4 and 5 agree."""
_FIXED = "so that the input's size does not vary with the image"
_SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad", "default_to_square")


def read_preprocessing(
    files: Files,
    default_type: str,
    image_size: tuple[int, int],
    channels: int,
    *,
    without_file: Mapping[str, Any] | None = None,
) -> Preprocessing:
    """Read what a checkpoint's image processor does.

    Args:
        files: the checkpoint, with its preprocessor_config.json or without.
        default_type: of the family, where no file names one.
        image_size: the model's height and width in pixels.
        channels: of the images.
        without_file: settings of a family's published checkpoints, for one that has no such file.

    Raises:
        InputError: a type, a key or a value that is not computed here.
    """
    default_type = (files.config or {}).get("image_processor_type") or default_type
    given = dict(without_file or {}) if files.preprocessor is None else files.preprocessor
    name = f"{files.name}: {files.preprocessor_file}"
    return read_processor(name, given, default_type=default_type, image_size=image_size, channels=channels)


def read_processor(
    name: str,
    given: Mapping[str, Any],
    *,
    default_type: str = "ViTImageProcessor",
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
) -> Preprocessing:
    """Read what an image processor does.

    Args:
        name: of the file, for messages.
        given: its content.
        default_type: of a file that names none.
        image_size: the model's height and width in pixels; a processor for another size is scaled along. None takes the
            processor's own.
        channels: of the images.

    Raises:
        InputError: a type, a key or a value that is not computed here.

    Example:
        >>> read_processor("x", {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224}).resize_to
        (256, 256)
    """
    type_name = _type_name(name, given, default_type)
    options = _options(name, given, type_name)
    cut = _cut(name, options, type_name)
    assert cut.after is not None, cut
    size = image_size or cut.after
    before = in_proportion(cut.before, cut.after, size)
    mean, std = _statistics(name, options, given, channels)
    interpolation = RESAMPLE[options["resample"]]
    return Preprocessing(
        image_size=size,
        channels=channels,
        resize=cut.resize,
        resize_to=None if cut.resize == "exact" and before == size else before,
        interpolation=interpolation,
        width_first=interpolation in _INTERPOLATION,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )


def _type_name(name: str, given: Mapping[str, Any], default: str) -> str:
    """Find the type that a file names, in its old form or its new one, with a backend or without."""
    keys = ("image_processor_type", "feature_extractor_type")
    key = next((key for key in keys if given.get(key) is not None), None)
    named = default if key is None else given[key]
    plain = str(named).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if plain not in PROCESSORS:
        raise InputError(f"{name}: {key or keys[0]} {short(named)} is not supported; valid: {', '.join(PROCESSORS)}")
    return plain


def _options(name: str, given: Mapping[str, Any], type_name: str) -> dict[str, Any]:
    """Check the keys, the switches and the filter, and add the defaults.

    Null turns a switch off. For other keys, where transformers 5 raises an error, it stands for the default.
    """
    row = PROCESSORS[type_name]
    for key, value in given.items():
        if key not in KEYS | IDLE | row.keys and value not in (None, False):  # a switch that is off changes nothing
            valid = ", ".join(sorted(KEYS | row.keys))
            raise InputError(f"{name}: {key} {short(value)} is not supported in {type_name}; valid keys: {valid}")
    options = row.defaults | {key: value for key, value in given.items() if value is not None}
    for key in _SWITCHES:
        if not isinstance(given.get(key, False), bool | None):
            raise InputError(f"{name}: {key} is {short(given[key])}; valid: true, false")
        options[key] = bool(given.get(key, row.defaults[key]))
    if not options["do_resize"]:
        raise InputError(f"{name}: do_resize false is not supported; valid: true, {_FIXED}")
    if not is_whole(options["resample"]) or options["resample"] not in row.filters:
        valid = ", ".join(map(str, row.filters)) if len(row.filters) < len(RESAMPLE) else f"0 to {len(RESAMPLE) - 1}"
        raise InputError(
            f"{name}: resample {short(options['resample'])} is not supported; valid: {valid} in {type_name}"
        )
    return options


def _cut(name: str, options: Mapping[str, Any], type_name: str) -> Cut:
    """Read how an image comes to one size."""
    row, given_size = PROCESSORS[type_name], short(options["size"])
    size = _size(
        name, "size", options["size"], valid=row.sizes, square=options["default_to_square"] and row.edge is not None
    )
    if isinstance(size, tuple) and row.sides:
        cut = Cut("exact", size, size)
    elif isinstance(size, int) and row.edge is not None:
        cut = row.edge(name, size, options)
    else:
        raise InputError(f"{name}: size {given_size} is not supported in {type_name}; valid: {row.sizes}")
    if options["do_center_crop"] and row.crops:
        cut = _center_crop(name, cut, options, type_name)
    if cut.after is None:
        valid = f"height and width{', or do_center_crop true' if row.crops else ''}"
        raise InputError(f"{name}: size {given_size} without a cut is not supported; valid: {valid}, {_FIXED}")
    if row.pads and options["do_pad"] and "pad_size" in options:
        padded = _size(name, "pad_size", options["pad_size"], valid="height and width")
        if padded != cut.after:
            raise InputError(
                f"{name}: pad_size {short(options['pad_size'])} is not supported; valid: {_words(cut.after)}"
            )
    return cut


def _center_crop(name: str, cut: Cut, options: Mapping[str, Any], type_name: str) -> Cut:
    """Cut the centre out, where that is one cut and needs no black border."""
    if options["crop_size"] is None:
        raise InputError(f"{name}: do_center_crop true needs crop_size in {type_name}; valid: height and width")
    crop = _size(name, "crop_size", options["crop_size"], valid="height and width")
    assert isinstance(crop, tuple), crop
    largest, shown = cut.before if cut.after is None else cut.after, short(options["crop_size"])
    if any(after > before for after, before in zip(crop, largest, strict=True)):
        raise InputError(
            f"{name}: crop_size {shown} is not supported, since it would give images a black border; valid: at most "
            f"{_words(largest)}"
        )
    if cut.resize == "shortest_edge" and cut.after not in (None, crop):
        raise InputError(
            f"{name}: crop_size {shown} is not supported after the cut by crop_pct; valid: {_words(largest)}"
        )
    return dataclasses.replace(cut, after=crop)


def _size(name: str, key: str, value: Any, *, valid: str, square: bool = True) -> tuple[int, int] | int:
    """Read a size: height and width, or one number for the shortest edge.

    Args:
        name: of the file, for messages.
        key: of the file, for messages.
        value: a number, a list of height and width, or a dictionary.
        valid: its forms, for messages.
        square: whether a number stands for both sides.
    """
    sides: list[Any] = []
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        sides = [value["height"], value["width"]]
    elif isinstance(value, Mapping) and value.keys() == {"shortest_edge"} and key == "size":
        sides = [value["shortest_edge"]]
    elif isinstance(value, list | tuple) and len(value) == 2:
        sides = list(value)
    elif is_whole(value):
        sides = [value, value] if square else [value]
    elif isinstance(value, Mapping) and {"longest_edge", "max_height", "max_pixels"} & value.keys():
        raise InputError(f"{name}: {key} {short(dict(value))} is not supported; valid: {valid}, {_FIXED}")
    if not sides or not all(is_whole(side) and 0 < side <= MAX_SIDE for side in sides):
        raise InputError(f"{name}: {key} {short(value)} is not supported; valid: {valid}, of 1 to {MAX_SIDE} pixels")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _statistics(
    name: str, options: Mapping[str, Any], given: Mapping[str, Any], channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of pixels in [0, 1], in which the factor of `do_rescale` is contained."""
    mean, std = np.zeros(channels), np.ones(channels)
    if options["do_normalize"]:
        mean, std = (_per_channel(name, key, options[key], given, channels) for key in ("image_mean", "image_std"))
        if min(std) <= 0:
            raise InputError(f"{name}: image_std is {short(options['image_std'])}; valid: numbers above 0")
    factor = options["rescale_factor"] if options["do_rescale"] else 1.0
    if not is_number(factor) or factor <= 0:
        raise InputError(f"{name}: rescale_factor is {short(factor)}; valid: a number above 0")
    # Ours divides by 255 first: (p f - mean) / std = (p / 255 - mean / 255 f) / (std / 255 f).
    scale = 1.0 if math.isclose(255 * factor, 1.0) else 255 * factor
    return mean / scale, std / scale


def _per_channel(name: str, key: str, value: Any, given: Mapping[str, Any], channels: int) -> np.ndarray:
    """Read a number for each channel, or one for all."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values or not all(map(is_number, values)):
        raise InputError(f"{name}: {key} is {short(value)}; valid: a number for each of {channels} channels")
    if len(values) not in (1, channels) and (channels == 3 or len(set(values)) > 1):
        if given.get(key) is None:  # the type has no means for images of other channels
            return np.full(channels, 0.5)
        raise InputError(f"{name}: {key} has {len(values)} numbers: {short(value)}; valid: {channels}, one a channel")
    return np.resize(np.asarray(values, float), channels)


def _words(size: tuple[int, int]) -> str:
    return f"height {size[0]} and width {size[1]}"


def write_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return preprocessor_config.json for the image processor that transformers 4 and 5 have for this kind of cut.

    Example:
        >>> write_processor(Preprocessing((8, 8), resize_to=(9, 9)))["image_processor_type"]
        'DeiTImageProcessor'
    """
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
    valid = ("shortest_edge", "exact") if rows == columns else ("exact",)
    if preprocessing.resize not in valid:
        there = "shortest_edge" if rows == columns else f"exact, for {rows}x{columns} px"
        found.append(Unsupported("data.resize", preprocessing.resize, there))
    return found + unsupported_cut(preprocessing, "floor")


def warnings(model: ExportModel) -> list[str]:
    """List what the image processors do in another way than the model, though not by a setting."""
    return order_warnings(model.preprocessing, width_first=True)
