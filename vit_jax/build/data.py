"""From a config's section `data` to datasets and to what is done with their images (thin, until geometry lands)."""

import dataclasses
from typing import Any

from vit_jax.contracts import Prepare
from vit_jax.data.images import transforms
from vit_jax.data.loading import loader
from vit_jax.data.sources import folder
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError
from vit_jax.info import class_names_of
from vit_jax.ops import augment, mixing
from vit_jax.types import Fields, class_fields


@dataclasses.dataclass(frozen=True)
class Data:
    section: Any
    images: Any
    source: Any
    preprocessing: transforms.Preprocessing
    fields: Fields
    prepare: Prepare

    def example(self):
        return loader.blank_batch(self.preprocessing, self.source, 1)

    def train_loader(self):
        return self._loader(self.source, repeats=self.section.repeats)

    def _loader(self, source, **training):
        if self.section.in_memory:
            return loader.InMemory(source, self.preprocessing, **training)
        return loader.Streaming(
            source,
            self.preprocessing,
            num_workers=self.section.num_workers,
            num_threads=self.section.num_threads,
            **training,
        )

    def eval_loaders(self, section, fields):
        return {
            name: self._loader(_same(_open(self.section, self.images, split), fields))
            for name, split in section.splits.items()
        }

    def reference_loader(self, section, fields):
        source = _same(_open(self.section, self.images, section.reference_split or self.section.split), fields)
        return self._loader(source.sample(section.reference_examples) if section.reference_examples else source)


def _same(source, fields):
    if tuple(source.class_names) != class_names_of(fields):
        raise InputError("the classes differ")
    return source


def _open(data, images, split):
    return sources.open_source(data.name, split, data.data_dir) if images is None else images.source(split)


def open_data(data, base, *, source=None) -> Data:
    images = (
        folder.open_folder(data.folder, eval_fraction=data.eval_fraction, split_seed=data.split_seed)
        if data.folder
        else None
    )
    source = source or _open(data, images, data.split)
    names = [field.name for field in dataclasses.fields(transforms.Preprocessing)]
    given = {name: data[name] for name in names if data[name] is not None}
    preprocessing = transforms.Preprocessing(**(base["preprocessing"] if base else {}) | given)
    fields = class_fields(source.class_names, several=source.multi_label)
    a = data.augment
    mix = a.get("mix")
    prepare = augment.make_prepare(
        preprocessing.mean,
        preprocessing.std,
        flip="flip" in a,
        shift_px=a.shift.pixels if "shift" in a else 0,
        erase_probability=a.erase.probability if "erase" in a else 0.0,
        mixing=mixing.Mixing(len(source.class_names), **mix) if mix else None,
    )
    return Data(data, images, source, preprocessing, fields, prepare)
