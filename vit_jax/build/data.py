"""From a config's section `data`, and its evaluation's splits, to the datasets and what is done with their images."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from vit_jax.data.augment import policies
from vit_jax.data.images import decoding, transforms
from vit_jax.data.loading import loader
from vit_jax.data.sources import folder
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError
from vit_jax.ops import augment, mixing
from vit_jax.types import Prepare


def image_folder(data) -> folder.ImageFolder | None:
    """The folder of images, if the dataset is one; None for a TFDS dataset."""
    if data.get("folder") is None:  # a key that older work directories do not have
        if data.name is None:
            raise InputError("data.folder is not set; valid: a folder of images, or data.name, a TFDS dataset")
        return None
    return folder.open_folder(data.folder, eval_fraction=data.eval_fraction, split_seed=data.split_seed)


def open_source(data, images: folder.ImageFolder | None, split: str) -> sources.Source:
    """A split of the folder, or of the TFDS dataset `data.name` where there is none."""
    if images is None:
        return sources.open_source(data.name, split, data.data_dir)
    return images.source(split, skip_corrupt=data.skip_corrupt, max_pixels=_max_image_pixels(data))


def _max_image_pixels(data) -> int:
    return data.get("max_image_pixels", decoding.MAX_IMAGE_PIXELS)  # a key that older work directories do not have


def eval_loaders(
    config, images: folder.ImageFolder | None, preprocessing: transforms.Preprocessing, class_names: Sequence[str]
) -> dict[str, loader.Loader]:
    """The datasets that `config.evaluation.splits` names, or else those that are held out; name -> loader.

    Args:
        config: a ConfigDict with the keys of configs/common.py.
        images: the config's folder of images; None for a TFDS dataset.
        preprocessing: the model's.
        class_names: the model's, in its order.

    Raises:
        InputError: a split the dataset lacks, or classes that are not the model's.
    """
    data, splits = config.data, config.evaluation.splits.to_dict()
    if not splits and images is not None:
        splits = {name: name for name in images.splits if name != data.split}
    elif not splits:
        there = sources.open_builder(data.name, data.data_dir).info.splits
        held_out = [name for name in ("validation", "test") if name in there and name not in data.split]
        splits = {name: name for name in held_out[:1]}
    return {
        name: make_loader(data, same_classes(open_source(data, images, split), class_names), preprocessing)
        for name, split in splits.items()
    }


def same_classes(source: sources.Source, class_names: Sequence[str]) -> sources.Source:
    """The source, whose classes are those named, in that order.

    Raises:
        InputError: they are not.
    """
    for label, (there, here) in enumerate(itertools.zip_longest(source.class_names, class_names)):
        if there != here:
            raise InputError(
                f"the classes of {source.name} are not the model's: class {label} is {there!r} there and {here!r} "
                "in the model; valid: the same names"
            )
    return source


def train_prepare(data, preprocessing: transforms.Preprocessing, *, num_classes: int) -> Prepare:
    """What a train step does with a batch: augmentation and normalisation.

    Raises:
        InputError: an option out of its range.
    """
    if data.shift_px < 0:
        raise InputError(f"data.shift_px is {data.shift_px}; valid: 0 or more")
    if not 0.0 <= data.erase_probability <= 1.0:
        raise InputError(f"data.erase_probability is {data.erase_probability}; valid: 0 to 1")
    mix = mixing.Mixing(
        num_classes, data.mixup_alpha, data.cutmix_alpha, data.mix_probability, data.mix_switch_probability
    )
    return augment.make_prepare(
        preprocessing.mean,
        preprocessing.std,
        flip=data.flip,
        shift_px=data.shift_px,
        erase_probability=data.erase_probability,
        mixing=mix if data.mixup_alpha or data.cutmix_alpha else None,
    )


def preprocessing_of(data, base: dict[str, Any] | None) -> transforms.Preprocessing:
    """The section's preprocessing, and where it leaves something open that of the model to start from.

    Args:
        data: the section.
        base: what that model's checkpoint says of itself; None without one.

    Raises:
        InputError: a size that nobody says, or channels that are neither 1 nor 3.
    """
    names = [field.name for field in dataclasses.fields(transforms.Preprocessing)]
    given = {name: data[name] for name in names if data[name] is not None}
    fields = (base["preprocessing"] if base else {}) | given
    if {"resize", "crop_fraction"} & given.keys() and "resize_to" not in given:
        fields["resize_to"] = None  # else the base's would count instead of what was given
    if "image_size" not in fields:
        raise InputError("data.image_size is not set; valid: height and width in pixels, or an init.source that has it")
    preprocessing = transforms.Preprocessing(**fields)
    if preprocessing.channels not in (1, 3):
        raise InputError(f"data.channels is {preprocessing.channels}; valid: 1 (grey), 3 (RGB)")
    return preprocessing


def train_loader(data, source: sources.Source, preprocessing: transforms.Preprocessing) -> loader.Loader:
    """Training examples as the section wants them cropped, augmented and repeated.

    Raises:
        InputError: options that do not go together.
    """
    if data.crop not in ("none", "random"):
        raise InputError(f"data.crop is {data.crop!r}; valid: none, random")
    if data.crop == "random" and data.in_memory:
        raise InputError("data.crop 'random' decodes anew each time; valid with data.in_memory=false")
    crop = transforms.RandomResizedCrop(preprocessing, data.crop_min_area) if data.crop == "random" else None
    chosen = policies.create(
        data.augment,
        mean=preprocessing.mean,
        color_jitter=data.color_jitter,
        variant=data.randaugment_variant,
        num_ops=data.randaugment_num_ops,
        magnitude=data.randaugment_magnitude,
        magnitude_std=data.randaugment_magnitude_std,
    )
    return make_loader(
        data,
        source,
        preprocessing,
        random_crop=crop,
        augment=chosen,
        repeats=data.repeats,
        reading=_train_reading(data, preprocessing),
    )


def _train_reading(data, preprocessing: transforms.Preprocessing) -> decoding.Reading:
    valid = transforms.WITHOUT_ANTIALIAS
    if not data.antialias and data.in_memory:
        raise InputError("data.antialias=false is for decoding anew each time; valid with data.in_memory=false")
    if not data.antialias and preprocessing.interpolation not in valid:
        raise InputError(
            f"data.interpolation is {preprocessing.interpolation!r}; valid with data.antialias=false: "
            f"{', '.join(valid)}"
        )
    return decoding.Reading(data.max_image_pixels, reduced=data.reduced_decoding, antialias=data.antialias)


def make_loader(
    data,
    source: sources.Source,
    preprocessing: transforms.Preprocessing,
    *,
    random_crop: transforms.RandomResizedCrop | None = None,
    reading: decoding.Reading | None = None,
    **training,
) -> loader.Loader:
    """A loader from memory or from disk; `training` is passed on."""
    training["reading"] = reading or decoding.Reading(_max_image_pixels(data))
    if data.in_memory:
        return loader.InMemory(source, preprocessing, **training)
    return loader.Streaming(
        source,
        preprocessing,
        random_crop=random_crop,
        num_workers=data.num_workers,
        num_threads=data.num_threads,
        **training,
    )
