"""From the features of a TFDS dataset to the fields of an example, and from its records to their values."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vit_jax.data.images.decoding import Picture, decode
from vit_jax.data.sources.masks import ignored_by
from vit_jax.types import Field, Fields

BY_DEFAULT = ("image", "label", "mask", "boxes", "instances")
"""Names of fields that are opened unless others are asked for; further images are opened too."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """A field, and where its value is in a record.

    key: of the TFDS feature.
    field: what it is to us.
    read: from the whole record, whose images are encoded, to the field's stored value; it can be pickled.
    """

    key: str
    field: Field
    read: Callable[[Mapping[str, Any]], Any]


def features_of(features: Any) -> dict[str, Feature]:
    """Map TFDS features to fields; what is none of these kinds is left out, such as text.

    - `Image`: an image, of 8 bits. One channel and a name with `mask` or `segmentation`, or a `LabeledImage`: a mask;
      with the names of a `LabeledImage`, and 255 ignored. One channel of 16 bits called `instances`: instances, whose
      classes are those of the boxes.
    - A sequence of images of a fixed length: an image with a time axis.
    - `ClassLabel`, and a sequence of it: label, labels.
    - A sequence of `bbox` and perhaps `label`: boxes. Without labels there is one class, called as the feature is.
    - Other numbers of a fixed shape: an array.

    The label, mask and boxes are called so (`label`, `mask`, `boxes`), whatever TFDS calls the first of them; others
    keep their names.

    Args:
        features: a `tfds.features.FeaturesDict`.

    Returns:
        Name -> feature, `image` first; further labels and arrays last.
    """
    found: dict[str, Feature] = {}
    # Sorted, since what TFDS reads from a file comes in another order in each process; names that are ours come first.
    for key, feature in sorted(dict(features or {}).items(), key=lambda item: (item[0] not in BY_DEFAULT, item[0])):
        if (mapped := _feature(key, feature)) is not None:
            found[_name(key, mapped.field, found)] = mapped
    if "instances" in found:
        names = found["boxes"].field.names if "boxes" in found else ()
        field = dataclasses.replace(found["instances"].field, names=names)
        found["instances"] = dataclasses.replace(found["instances"], field=field)
    return {name: found[name] for name in sorted(found, key=lambda name: _rank(name, found[name].field))}


def is_default(name: str, field: Field) -> bool:
    """Return whether a field is opened without being asked for."""
    return name in BY_DEFAULT or field.kind == "image"


class _Encoded(tfds.decode.SkipDecoding):
    """Leaves an image, or each image of a sequence, encoded."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example

    decode_ragged_example_np = decode_batch_example_np


def skip_decoding(features: Any) -> dict[str, Any]:
    """Tell TFDS to leave images encoded, for which it would need other libraries; nested as the features are."""
    found: dict[str, Any] = {}
    for key, feature in dict(features).items():
        each = feature.feature if isinstance(feature, tfds.features.Sequence) else feature
        if isinstance(each, tfds.features.Image):
            found[key] = _Encoded()
        elif isinstance(each, tfds.features.FeaturesDict) and (inner := skip_decoding(each)):
            found[key] = inner
    return found


def fields_of(features: Mapping[str, Feature]) -> Fields:
    """Return the fields alone."""
    return {name: feature.field for name, feature in features.items()}


def _rank(name: str, field: Field) -> tuple[int, int]:
    return (BY_DEFAULT.index(name) if name in BY_DEFAULT else len(BY_DEFAULT), not is_default(name, field))


def _name(key: str, field: Field, found: Mapping[str, Feature]) -> str:
    names = {"mask": "mask", "boxes": "boxes"} | ({"labels": "label"} if key == "labels" else {})
    name = names.get(field.kind, key)
    return key if name in found else name


def _feature(key: str, feature: Any) -> Feature | None:
    if isinstance(feature, tfds.features.Image):
        return _image(key, feature)
    if isinstance(feature, tfds.features.ClassLabel):
        return Feature(key, Field("label", names=tuple(feature.names)), operator.itemgetter(key))
    if isinstance(feature, tfds.features.Sequence):
        return _sequence(key, feature)
    is_array = isinstance(feature, tfds.features.Tensor) and not isinstance(feature, tfds.features.Text)
    shape: Any = feature.shape if is_array else (None,)
    kind: Any = feature.np_dtype if is_array else object
    dtype: Any = np.dtype(kind)
    if dtype.kind not in "biuf" or None in shape:
        return None
    return Feature(key, Field("array", shape, dtype.name), operator.itemgetter(key))


def _image(key: str, feature: Any) -> Feature | None:
    names = tuple(feature.names or ()) if isinstance(feature, tfds.features.LabeledImage) else ()
    shape: Any = feature.shape
    height, width, channels = shape
    is_mask = channels == 1 and ("mask" in key or "segmentation" in key)
    if isinstance(feature, tfds.features.LabeledImage) or is_mask:
        field = Field("mask", (height, width), names=names, ignore=ignored_by(names))
    elif key == "instances" and channels == 1 and feature.np_dtype == np.uint16:
        field = Field("instances", (height, width))
    elif key == "image" or feature.np_dtype == np.uint8:
        field = Field("image", (height, width, channels), "uint8")
    else:
        return None
    return Feature(key, field, operator.itemgetter(key))


def _sequence(key: str, feature: Any) -> Feature | None:
    each: Any = feature.feature
    if isinstance(each, tfds.features.ClassLabel):
        names = tuple(each.names)
        return Feature(key, Field("labels", (len(names),), "float32", names), operator.itemgetter(key))
    if isinstance(each, tfds.features.Image):
        if feature.shape[0] is None or each.np_dtype != np.uint8:
            return None
        shape: Any = each.shape
        read = functools.partial(_frames, key=key, channels=shape[2])
        return Feature(key, Field("image", feature.shape, "uint8"), read)
    inner: dict[str, Any] = dict(each) if isinstance(each, tfds.features.FeaturesDict) else {}
    if not isinstance(inner.get("bbox"), tfds.features.BBoxFeature):
        return None
    if inner["bbox"].bbox_format not in (None, tfds.features.BBoxFeature().bbox_format):
        return None
    label = inner.get("label")
    names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else (key,)
    return Feature(key, Field("boxes", (None, 5), "float32", names), functools.partial(_boxes, key=key))


def _frames(record: Mapping[str, Any], *, key: str, channels: int) -> np.ndarray:
    """Decode the frames of a clip: `[T, H, W, C]` uint8."""
    images = [np.asarray(decode(frame, channels)) for frame in record[key]]
    return np.stack([image if image.ndim == 3 else image[:, :, None] for image in images])


def _boxes(record: Mapping[str, Any], *, key: str) -> np.ndarray:
    """`[n, 5]` float32, as `Field` has boxes, of relative ymin, xmin, ymax, xmax."""
    given = np.asarray(record[key]["bbox"], np.float64).reshape(-1, 4)
    image = Picture(record["image"], 3)
    sides = given[:, [1, 0, 3, 2]] * [image.width, image.height, image.width, image.height]
    classes = np.asarray(record[key]["label"], np.float64) if "label" in record[key] else np.zeros(len(given))
    return np.concatenate([sides, classes[:, None]], axis=1).astype(np.float32)
