"""From a config's section `data` to datasets, and to what is done with their examples."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.build import plugins
from vit_jax.contracts import Prepare, Source
from vit_jax.data.augment.stages import HostAugmentation, PlacingAugmentation, StepAugmentation
from vit_jax.data.images.decoding import Reading
from vit_jax.data.images.resizing import WITHOUT_ANTIALIAS
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading import order
from vit_jax.data.loading.loader import Loader
from vit_jax.data.loading.memory import InMemory
from vit_jax.data.loading.pipeline import Pipeline, bound
from vit_jax.data.loading.streaming import Streaming
from vit_jax.data.sources import folder
from vit_jax.data.sources import tfds as tfds_sources
from vit_jax.data.sources.examples import same_fields, stand_in
from vit_jax.data.sources.label_file import LabelFile
from vit_jax.data.sources.labels import class_counts, labels_of
from vit_jax.data.sources.split_names import ALL
from vit_jax.errors import InputError
from vit_jax.info import Info
from vit_jax.ops.augment import make_prepare
from vit_jax.types import Batch, Fields

SAMPLERS = ("shuffled", "balanced")


@dataclasses.dataclass(frozen=True)
class Data:
    """What a config's section `data` describes.

    section: the section.
    splits: opens a split by its name.
    source: the examples to train on, or a stand-in for them.
    preprocessing: of images.
    pipeline: of the training examples, as they are trained on.
    prepare: what a step does with a batch.
    by_number: whether classes to evaluate a model with are the model's by their numbers, whatever they are called.
    decoded: split -> its examples, where they are in memory, so that they are there once.
    """

    section: Any
    splits: "Splits"
    source: Source
    preprocessing: Preprocessing
    pipeline: Pipeline
    prepare: Prepare
    by_number: bool = False
    decoded: dict[str, InMemory] = dataclasses.field(default_factory=dict)

    @property
    def fields(self) -> Fields:
        """The fields of the batches."""
        return self.pipeline.fields

    def example(self) -> Batch:
        """Make a batch of one blank example, for shapes."""
        return self.pipeline.blank(1)

    def train_loader(self) -> Loader:
        """Make the loader of the training examples."""
        balance = self._label("data.sampler is 'balanced'") if self.section.sampler == "balanced" else None
        loader = self._loader(self.pipeline, repeats=self.section.repeats, balance=balance)
        if isinstance(loader, InMemory):
            self.decoded[self.section.split] = loader
        return loader

    def class_counts(self, name: str) -> list[int]:
        """Count the training examples of each class of a field of kind `label` or `labels`."""
        return class_counts(labels_of(self.source, name), len(self.source.fields[name].names))

    def _label(self, what: str) -> str:
        """Return the name of the field that says each example's class.

        Raises:
            InputError: there is none; `what` needs it.
        """
        for name, field in self.source.fields.items():
            if field.kind == "label":
                return name
        there = ", ".join(f"{name} ({field.kind})" for name, field in self.source.fields.items())
        raise InputError(f"{what}, which needs one label for each image, and the data have {there}; valid: 'shuffled'")

    def eval_loaders(self, splits: Mapping[str, str], fields: Fields) -> dict[str, Loader]:
        """Open the datasets of the evaluations.

        Args:
            splits: name of the evaluation -> split; empty takes what is held out.
            fields: of the model's data.

        Raises:
            InputError: a split the dataset lacks, or classes that are not the model's.
        """
        splits = dict(splits) or self.splits.held_out(self.section.split)
        return {name: self._evaluated(split, 0, fields) for name, split in splits.items()}

    def reference_loader(self, split: str | None, size: int, fields: Fields) -> Loader:
        """Open the examples that evaluators learn from.

        Args:
            split: of the dataset; None is the training split.
            size: number of its examples; 0 is all.
            fields: of the model's data.

        Raises:
            InputError: a split the dataset lacks, other classes than the model's, or a negative size.
        """
        if size < 0:
            raise InputError(f"evaluation.reference_examples is {size}; valid: a number of examples, or 0 for all")
        return self._evaluated(split or self.section.split, size, fields)

    def _evaluated(self, split: str, size: int, fields: Fields) -> Loader:
        """Open a split, or a sample of it, for evaluation."""
        if split in self.decoded:
            loader = self.decoded[split]
            return loader.chosen(order.sample(len(loader), size) if size else None)
        source = same_fields(self.splits.open(split), fields, by_number=self.by_number)
        reading = self.pipeline.reading.exact()
        source = source.sample(size) if size else source
        return self._loader(Pipeline(source, self.preprocessing, self.section.max_boxes, reading=reading))

    def _loader(self, pipeline: Pipeline, **training: Any) -> Loader:
        section = self.section
        if section.in_memory:
            return InMemory(pipeline, **training)
        return Streaming(pipeline, num_workers=section.num_workers, num_threads=section.num_threads, **training)


@dataclasses.dataclass(frozen=True)
class Splits:
    """The splits of a TFDS dataset, or of a folder of images.

    section: a config's section `data`.
    images: the folder; None for a TFDS dataset.
    """

    section: Any
    images: Any

    @classmethod
    def of(cls, section: Any, *, training: bool = True) -> "Splits":
        """Open the folder if the section names one.

        Args:
            section: a config's section `data`.
            training: whether to learn from it, or only to evaluate a model; see `open_folder`.

        Raises:
            InputError: it names neither a folder nor a dataset.
        """
        if section.folder is None and section.labels is not None:
            raise InputError(f"data.labels is {section.labels}, for a folder of images; valid with data.folder")
        if section.folder is not None:
            options = {"eval_fraction": section.eval_fraction, "split_seed": section.split_seed}
            options["labels"] = _label_file(section)
            options |= {"labelled": tuple(section.fields) != ("image",), "training": training}
            return cls(section, folder.open_folder(section.folder, **options))
        if section.name is None:
            raise InputError("data.folder is not set; valid: a folder of images, or data.name, a TFDS dataset")
        return cls(section, None)

    def open(self, split: str) -> Any:
        """Open a split, or `all` examples; it has the fields that `data.fields` names.

        Raises:
            InputError: there is no such split or field.
        """
        section = self.section
        if self.images is not None:
            options = {"skip_corrupt": section.skip_corrupt, "max_pixels": section.max_image_pixels}
            source = self.images.source(split, **options)
        else:
            names = section.fields or None
            source = tfds_sources.open_source(section.name, split, section.data_dir, names=names)
        return source.only(section.fields) if section.fields else source

    def held_out(self, training_split: str) -> dict[str, str]:
        """Name the splits that are not trained on: of a folder all, of a TFDS dataset validation or else test."""
        if self.images is not None:
            return {name: name for name in self.images.splits if name != training_split}
        there = tfds_sources.open_builder(self.section.name, self.section.data_dir).info.splits
        names = [name for name in ("validation", "test") if name in there and name not in training_split]
        return {name: name for name in names[:1]}


def open_data(section: Any, base: Info | None, *, source: Source | None = None) -> Data:
    """Open what a config's section `data` describes.

    Args:
        section: a ConfigDict with the keys of configs/common.py.
        base: info of the model that the run starts from, which gives what the section leaves open; None without one.
        source: a stand-in for the training examples; None opens them.

    Raises:
        InputError: a name or value that is not valid, or options that do not go together.
    """
    _check_values(section)
    splits = Splits(section, None) if source is not None else Splits.of(section)
    preprocessing = _preprocessing(section, base)
    opened: Source = splits.open(section.split) if source is None else source
    augmentations = [
        plugins.create("augmentation", name, options=options) for name, options in section.augment.to_dict().items()
    ]
    placing = [each for each in augmentations if isinstance(each, PlacingAugmentation)]
    host = [each for each in augmentations if isinstance(each, HostAugmentation)]
    in_step = sorted((each for each in augmentations if isinstance(each, StepAugmentation)), key=lambda x: x.order)
    pipeline = Pipeline(
        opened,
        preprocessing,
        section.max_boxes,
        placing=placing[0] if placing else None,
        policies=bound(host, preprocessing),
        reading=_train_reading(section, preprocessing),
    )
    fields = pipeline.fields
    for each in in_step:
        fields = each.fields(fields)
    prepare = make_prepare(preprocessing.mean, preprocessing.std, fields=pipeline.fields, augmentations=in_step)
    return Data(section, splits, opened, preprocessing, pipeline, prepare)


def open_evaluation(
    section: Any,
    preprocessing: Preprocessing,
    fields: Fields,
    *,
    splits: Mapping[str, str],
    whole: bool = False,
    by_number: bool = False,
) -> tuple[dict[str, Loader], Data]:
    """Open the datasets that a trained model is evaluated on.

    Args:
        section: `data` of the run's config.
        preprocessing: the model's own.
        fields: of the model's data.
        splits: name of the evaluation -> split; empty takes what is held out.
        whole: whether a folder without splits is then taken as one set, `all`, instead of the part that a run on it
            would hold out.
        by_number: take the data's classes for the model's of the same number, whatever they are called.

    Returns:
        Name of the evaluation -> its examples; and the data, for a reference dataset.

    Raises:
        InputError: data that are not there, or whose classes the model does not have.
    """
    _check_values(section)
    opened = Splits.of(section, training=False)
    if whole and not splits and opened.images is not None and opened.images.is_one_tree:
        splits = {ALL: ALL}
    reading = Reading(section.max_image_pixels)
    source = stand_in("nothing", fields, 0)
    pipeline = Pipeline(source, preprocessing, section.max_boxes, reading=reading)
    prepare = make_prepare(preprocessing.mean, preprocessing.std, fields=pipeline.fields)
    data = Data(section, opened, source, preprocessing, pipeline, prepare, by_number)
    loaders = data.eval_loaders(splits, fields)
    if not loaders:
        raise InputError(f"{section.folder or section.name} has no split but that of the training; valid: --split NAME")
    return loaders, data


def eval_prepare(preprocessing: Preprocessing, fields: Fields | None = None) -> Prepare:
    """Make what an evaluation step does with a batch: normalisation alone."""
    return make_prepare(preprocessing.mean, preprocessing.std, fields=fields)


def _label_file(section: Any) -> LabelFile | None:
    """Read which file has the labels of a folder's images, and how; None without one."""
    options = {field.name: section[field.name] for field in dataclasses.fields(LabelFile)}
    options["label_columns"] = tuple(section.label_columns)  # a list, where JSON had it
    if section.labels is None:
        for field in dataclasses.fields(LabelFile)[1:]:
            if options[field.name] != field.default:
                raise InputError(f"data.{field.name} is {options[field.name]!r}; valid with data.labels")
        return None
    return LabelFile(**options)


def _check_values(section: Any) -> None:
    for key in ("num_threads", "repeats", "max_boxes"):
        if section[key] < 1:
            raise InputError(f"data.{key} is {section[key]}; valid: 1 or more")
    if section.sampler not in SAMPLERS:
        raise InputError(f"data.sampler is {section.sampler!r}; valid: {', '.join(SAMPLERS)}")
    if section.num_workers < 0:
        raise InputError(f"data.num_workers is {section.num_workers}; valid: 0 or more")


def _preprocessing(section: Any, base: Info | None) -> Preprocessing:
    """Return the section's preprocessing, and where it leaves something open that of the model to start from."""
    names = [field.name for field in dataclasses.fields(Preprocessing)]
    given = {name: section[name] for name in names if section[name] is not None}
    fields = (base["preprocessing"] if base else {}) | given
    if {"resize", "crop_fraction"} & given.keys() and "resize_to" not in given:
        fields["resize_to"] = None  # else the base's would count instead of what was given
    if "image_size" not in fields:
        raise InputError("data.image_size is not set; valid: height and width in pixels, or an init.source that has it")
    preprocessing = Preprocessing(**fields)
    if preprocessing.channels not in (1, 3):
        raise InputError(f"data.channels is {preprocessing.channels}; valid: 1 (grey), 3 (RGB)")
    return preprocessing


def _train_reading(section: Any, preprocessing: Preprocessing) -> Reading:
    if not section.antialias and section.in_memory:
        raise InputError("data.antialias=false is for decoding in each epoch; valid with data.in_memory=false")
    if not section.antialias and preprocessing.interpolation not in WITHOUT_ANTIALIAS:
        raise InputError(
            f"data.interpolation is {preprocessing.interpolation!r}; valid with data.antialias=false: "
            f"{', '.join(WITHOUT_ANTIALIAS)}"
        )
    return Reading(section.max_image_pixels, reduced=section.reduced_decoding, antialias=section.antialias)
