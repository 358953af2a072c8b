"""What every source does: its checks, samples and choices of fields."""

import numpy as np
import pytest

from vit_jax.contracts import Source
from vit_jax.data.sources.examples import Examples, same_fields, stand_in
from vit_jax.errors import InputError
from vit_jax.types import Field, class_fields

BOXES = {"image": Field("image"), "boxes": Field("boxes", (None, 5), "float32", ("cat", "dog"))}


def test_it_fulfils_the_contract():
    assert isinstance(stand_in("pets", class_fields(["cat"]), 3), Source)


def test_values_of_each_kind():
    fields = {
        "image": Field("image"),
        "label": Field("label", names=("a", "b")),
        "gaze": Field("array", (2,), "float32"),
    }
    fields |= {"tags": Field("labels", (3,), "float32", ("x", "y", "z")), "boxes": BOXES["boxes"]}
    stored = {"image": b"png", "label": np.int32(1), "gaze": [1, 2], "tags": [0, 2], "boxes": [[0, 0, 2, 3, 1]]}
    example = Examples("pets", fields, [stored | {"path": "a.png", "other": 1}])[0]
    assert example.keys() == {*fields, "path"} and example["image"] == b"png" and example["label"] == 1
    assert example["tags"].tolist() == [1, 0, 1] and example["tags"].dtype == np.float32
    assert example["boxes"].tolist() == [[0, 0, 2, 3, 1]] and example["boxes"].dtype == np.float32
    assert example["gaze"].dtype == np.float32


@pytest.mark.parametrize(
    ("fields", "value", "message"),
    [
        (class_fields(["cat", "dog"]), {"label": 2}, "example 0 of pets has the label 2; valid: 0 to 1"),
        (class_fields(["cat", "dog"], several=True), {"label": [0, -1]}, "has the label -1; valid: 0 to 1"),
        (BOXES, {"boxes": [[0, 0, 1, 1, 1], [0, 0, 1, 1, 5]]}, "has the class in boxes 5; valid: 0 to 1"),
    ],
)
def test_classes_out_of_range_are_refused(fields, value, message):
    with pytest.raises(InputError, match=message):
        Examples("pets", fields, [{"image": b"", **value}])[0]


def test_only_some_fields():
    source = Examples("pets", class_fields(["cat"]), [{"image": b"png", "label": 0}])
    assert source.only(["image"])[0] == {"image": b"png"}
    with pytest.raises(InputError, match="pets has no field 'mask'; it has image, label"):
        source.only(["mask"])


@pytest.mark.parametrize(
    ("several", "labels", "expected"), [(False, [0, 1], [2, 1]), (True, [[0, 1], []], [[1, 2], []])]
)
def test_classes_are_matched_by_their_names(several, labels, expected):
    """A set that lacks some of the model's classes, and has the others in another order and Unicode form."""
    records = [{"image": b"", "label": label} for label in labels]
    source = Examples("pets", class_fields(["cafe\u0301", "cat"], several=several), records)
    matched = same_fields(source, class_fields(["dog", "cat", "caf\u00e9"], several=several))
    assert matched.fields["label"].names == ("dog", "cat", "caf\u00e9")
    found = [matched[record]["label"] for record in range(2)]
    assert [np.flatnonzero(row).tolist() if several else row for row in found] == expected


def test_classes_of_boxes_are_matched_and_those_of_masks_must_be_the_same():
    boxes = Examples("pets", {"boxes": Field("boxes", (None, 5), names=("dog",))}, [{"boxes": [[0, 1, 2, 3, 0]]}])
    here = Field("boxes", (None, 5), names=("cat", "dog"))
    assert same_fields(boxes, {"boxes": here})[0]["boxes"].tolist() == [[0, 1, 2, 3, 1]]
    masks = stand_in("pets", {"mask": Field("mask", (None, None), names=("dog",))}, 1)
    with pytest.raises(InputError, match="class 0 is 'dog' there and 'cat' in the model; valid: the same names in"):
        same_fields(masks, {"mask": Field("mask", (None, None), names=("cat", "dog"))})


def test_classes_that_cannot_be_matched():
    with pytest.raises(InputError, match=r"lacks 'Dog'; valid: cat, dog; 'Dog' looks like 'dog' but is written differ"):
        same_fields(stand_in("pets", class_fields(["Dog", "cat"]), 1), class_fields(["cat", "dog"]))
    crane = class_fields(["crane", "dog", "crane"])  # the bird and the machine, as ImageNet has them
    with pytest.raises(InputError, match="'crane' names several classes"):
        same_fields(stand_in("pets", class_fields(["crane", "dog"]), 1), crane)
    assert same_fields(stand_in("pets", crane, 1), crane).fields == crane


def test_same_fields():
    source = stand_in("pets", class_fields(["cat", "dog"]), 1)
    assert same_fields(source, class_fields(["cat", "dog"])) is source
    assert same_fields(source, {"image": Field("image")}) is source  # a model that knows no classes
    with pytest.raises(InputError, match="classes of pets are not the model's: class 1 is 'dog' there and 'cow' in"):
        same_fields(source, class_fields(["cat", "cow"]))
    with pytest.raises(
        InputError, match=r"pets has no field 'boxes' of kind 'boxes'; it has image \(image\), label \(l"
    ):
        same_fields(source, BOXES)
