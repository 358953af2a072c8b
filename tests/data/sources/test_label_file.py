"""Labels in a CSV file: which forms are read, and which rows are refused."""

import warnings

import numpy as np
import pytest
from conftest import small_config
from folder_files import add

from vit_jax.build.data import Splits
from vit_jax.data.sources import folder
from vit_jax.data.sources.label_file import LabelFile
from vit_jax.errors import InputError

IMAGES = ("1.png", "2.png", "3.jpg", "more/4.png", "more/5.PNG")


def opened(root, text, *, training=True, eval_fraction=0.0, encoding="utf-8", images=IMAGES, **options):
    add(root / "pets", *images)
    (root / "labels.csv").write_bytes(text.encode(encoding))
    labels = LabelFile(str(root / "labels.csv"), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return folder.open_folder(str(root / "pets"), eval_fraction=eval_fraction, labels=labels, training=training)


def labels_of(images, split="train"):
    """Path -> name of its class, or of its classes."""
    source = images.source(split)
    names = source.fields["label"].names
    examples = [source[record] for record in range(len(source))]
    return {
        each["path"].partition("pets/")[2]: names[each["label"]]
        if source.fields["label"].kind == "label"
        else [names[number] for number in np.flatnonzero(each["label"])]
        for each in examples
    }


EXPECTED = {"1.png": "cat", "2.png": "dog", "3.jpg": "cat", "more/4.png": "dog", "more/5.PNG": "a, b"}
BODY = '1.png,cat\n2.png,dog\n3.jpg,cat\nmore/4.png,dog\nmore/5.PNG,"a, b"\n'


@pytest.mark.parametrize(
    "text",
    [
        "image,label\n" + BODY,
        "\ufeffFile_Name,Class\r\n" + BODY.replace("\n", "\r\n"),
        "\n\nphoto;breed\n" + BODY.replace('"a, b"', "a! b").replace(",", ";").replace("!", ","),
        "image\tlabel\n" + BODY.replace('"a, b"', "a! b").replace(",", "\t").replace("!", ","),
        'label,"image"\n' + "\n".join(f'"{EXPECTED[name]}", {name}' for name in EXPECTED),
        "id,image,label,note\n" + "\n".join(f'7,{name},"{EXPECTED[name]}","x ""y""\nz"' for name in EXPECTED),
        ",image,label\n" + "\n".join(f'{i},{name},"{EXPECTED[name]}"' for i, name in enumerate(EXPECTED)),
        "image,label\n" + BODY.replace(".png", "").replace(".jpg", "").replace(".PNG", ""),
        "image,label\n" + BODY.replace("1.png", "./1.png").replace("more/", "more\\"),
        "image,label\n" + BODY.replace("\n", ",\n").replace("label,", "label"),
    ],
)
def test_one_class_an_image(text, tmp_path):
    images = opened(tmp_path, text)
    assert images.fields["label"].names == ("a, b", "cat", "dog")
    assert labels_of(images) == EXPECTED


def test_absolute_paths_and_names_of_columns(tmp_path):
    text = "label,where,breed\n" + "".join(f"x,{tmp_path}/pets/{name},{i}\n" for i, name in enumerate(IMAGES))
    images = opened(tmp_path, text, image_column="where", label_columns=("breed",))
    assert labels_of(images) == {name: str(i) for i, name in enumerate(IMAGES)}


SEVERAL = {"1.png": ["cat", "dog"], "2.png": [], "3.jpg": ["cat"]}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("image,labels\n1.png,dog|cat\n2.png,\n3.jpg,cat\n", {"label_separator": "|"}),
        ("image,tags\n1.png,dog  cat dog\n2.png,\n3.jpg,cat\n", {"label_separator": " "}),
        ("image,cat,dog\n1.png,1,1\n2.png,0,0\n3.jpg,1.0,False\n", {}),
        ("image,x,cat,dog\n1.png,7,1,1\n2.png,7,0,0\n3.jpg,7,1,0\n", {"label_columns": ("cat", "dog")}),
        ("image,label\n1.png,dog\n1.png,cat\n2.png,\n3.jpg,cat\n", {"several_labels": True}),
    ],
)
def test_any_number_of_classes_an_image(text, options, tmp_path):
    images = opened(tmp_path, text, images=SEVERAL, **options)
    assert (images.fields["label"].kind, images.fields["label"].names) == ("labels", ("cat", "dog"))
    assert labels_of(images) == SEVERAL


def test_columns_of_classes_keep_their_order(tmp_path):
    images = opened(tmp_path, "image,dog,cat\n1.png,1,0\n", images=("1.png",))
    assert images.fields["label"].names == ("dog", "cat") and labels_of(images) == {"1.png": ["dog"]}


def test_splits_of_a_column_and_splits_that_are_drawn(tmp_path):
    rows = ["1.png,cat,Train", "2.png,dog,training", "3.jpg,cat,valid", "more/4.png,dog,test", "more/5.PNG,dog,test"]
    images = opened(tmp_path, "image,label,split\n" + "\n".join(rows))
    assert not images.is_one_tree and labels_of(images, "val") == {"3.jpg": "cat"}
    assert {split: len(files) for split, files in images.splits.items()} == {"train": 2, "val": 1, "test": 2}
    images = opened(tmp_path, "image,label,split\n" + "\n".join(rows), split_column=None, eval_fraction=0.4)
    assert images.is_one_tree and {split: len(files) for split, files in images.splits.items()} == {
        "train": 3,
        "test": 2,
    }
    text = "image,labels,fold\n" + "\n".join(rows)
    images = opened(tmp_path, text, label_separator="|", split_column="fold", eval_fraction=0.4)
    assert {split: len(files) for split, files in images.splits.items()} == {"train": 2, "val": 1, "test": 2}
    images = opened(tmp_path, "image,labels\n" + BODY, label_separator="|", eval_fraction=0.4)
    assert {split: len(files) for split, files in images.splits.items()} == {"train": 3, "test": 2}
    assert len(images.source("all")) == 5


REFUSED = [
    ("", {}, "labels.csv is empty; valid: names of columns"),
    ("image,label\n", {}, "labels.csv has no rows"),
    (BODY, {}, "line 1, has '1.png'; valid: names of columns"),
    ("image,label\n1.png,cat\n8.png,dog\n9.png,dog\n", {}, r"line 3: .*pets has no image '8.png'; .*, one of 2 "),
    ("image,label\n1.png,cat\n4,dog\n", {}, "line 3: .*has no image '4'; is it more/4.png"),
    ("image,label\n1.png,cat\nlabels.txt,dog\n", {}, "line 3: .*labels.txt is no image by its ending; valid: images"),
    ("image,label\n1.png,cat\n../1.png,dog\n", {}, "line 3: .*has no image '../1.png'"),
    ("image,label\n1.png,cat\n,dog\n", {}, "line 3: no image is named"),
    ("image,label\n1,cat\n2,dog\n", {"images": ("1.png", "1.jpg", "2.png")}, "line 2: '1' may be 1.jpg, 1.png; valid"),
    ("image,label\n1.png,cat\n2.png,\n", {}, "line 3, column 'label', is empty; valid: the name of a class"),
    ("image,label\n1.png,cat\n2.png\n", {}, "line 3, has 1 cells; valid: 2, as in the first line"),
    ("image,label\n1.png,cat\n2.png,dog,x\n", {}, "line 3, has 3 cells; valid: 2"),
    ('image,label\n1.png,cat\n2.png,"dog\n', {}, "line 3, is no CSV: unexpected end of data"),
    ("image,label\n1.png,cat\n\n1.png,dog\n", {}, "line 4: 1.png is 'dog', and in line 2 'cat'; valid: one row"),
    ("image,label,split\n1.png,cat,train\n1.png,cat,test\n", {}, "line 3: 1.png is in test, and in line 2 in train"),
    ("image,label,split\n1.png,cat,train\n2.png,dog,0\n", {}, "line 3, has the split '0'; valid: train, val, test"),
    ("image,label,split\n1.png,cat,train\n2.png,cow,train\n3.jpg,Cat,val\n", {},
     "line 4: the class 'Cat' is in val and not in train; valid: cat, cow; 'Cat' looks like 'cat'"),
    ("image,label\n1.png,cat\n2.png,cat\n", {}, r"has 1 classes \(cat\); valid: two or more"),
    ("image,label\n1.png,caf\u00e9\n2.png,cafe\u200b\u0301\n", {},
     r"names look the same, 'cafe\\u200b\\u0301' and 'caf\\xe9'"),
    ("image,a,b\n1.png,x,y\n2.png,x,y\n", {}, "has the columns image, a, b; valid: data.label_columns"),
    ("image,a,b\n1.png,0,1\n2.png,1,2\n", {"label_columns": ("a", "b")}, "line 3, column 'b', has '2'; valid: 0 or 1"),
    ("image,label,label\n1.png,x,y\n", {}, "has two columns 'label'; valid: each name once"),
    ("image,label\n1.png,x\n", {"label_columns": ("breed",)}, "data.label_columns: .* has no column 'breed'"),
    ("image,label\n1.png,x\n", {"image_column": "photo"}, "data.image_column: .* has no column 'photo'"),
    ("image,label\n1.png,x\n", {"split_column": "fold"}, "data.split_column: .* has no column 'fold'"),
    ("image,a,b\n1.png,1,0\n", {"label_separator": "|"}, "data.label_separator is for one column of labels"),
    ("image,label\n1.png,c\u00e4t\n", {"encoding": "latin-1"}, "line 2, is not UTF-8; valid: CSV in UTF-8"),
    ("image,label\n1.png,cat\n", {"encoding": "utf-16"}, "is UTF-16; valid: CSV in UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_refused(text, options, message, tmp_path):
    add(tmp_path / "pets", "1.png")
    (tmp_path / "pets" / "labels.txt").write_text("")
    with pytest.raises(InputError, match=message) as error:
        opened(tmp_path, text, **options)
    assert "\n" not in str(error.value)


def test_rows_that_come_twice_and_images_without_one_are_counted(tmp_path):
    with pytest.raises(UserWarning, match=r"has 1 rows twice, which count once: line 7"):
        opened(tmp_path, "image,label\n" + BODY + "1.png,cat\n")
    with pytest.raises(UserWarning, match=r"labels.csv leaves out 2 images of .*/pets: more/4.png, more/5.PNG"):
        opened(tmp_path, "image,label\n1.png,cat\n2.png,dog\n3.jpg,cat\n")


def test_to_evaluate_one_class_will_do(tmp_path):
    images = opened(tmp_path, "image,label,split\n1.png,cat,test\n", images=("1.png",), training=False)
    assert images.splits.keys() == {"test"} and images.fields["label"].names == ("cat",)


def test_where_the_file_is(tmp_path, monkeypatch):
    root = add(tmp_path / "pets", *IMAGES)
    (root / "labels.csv").write_text("image,label\n" + BODY)
    monkeypatch.chdir(tmp_path)
    for name in ("labels.csv", "pets/labels.csv", str(root / "labels.csv")):
        assert len(folder.open_folder("pets", labels=LabelFile(name)).source("all")) == 5
    (tmp_path / "labels.csv").write_text("image,label\n")
    with pytest.raises(
        InputError, match=r"data.labels: labels.csv is /.*/labels.csv or /.*/pets/labels.csv; valid: the wh"
    ):
        folder.open_folder("pets", labels=LabelFile("labels.csv"))
    with pytest.raises(InputError, match=r"data.labels: nowhere.csv does not exist, /.*; valid: a CSV file"):
        folder.open_folder("pets", labels=LabelFile("nowhere.csv"))


def test_a_configs_keys(tmp_path):
    root = add(tmp_path, *IMAGES)
    (root / "tags.csv").write_text("image;tags\n1.png;cat|dog\n2.png;\n")
    config = small_config(data__folder=str(root), data__labels="tags.csv", data__label_separator="|")
    with pytest.warns(UserWarning, match="leaves out 3 images"):
        source = Splits.of(config.data).open("all")
    assert source.fields["label"].kind == "labels" and sorted(source[i]["label"].sum() for i in range(2)) == [0, 2]
    with pytest.raises(InputError, match=r"data.label_separator is '\|'; valid with data.labels"):
        Splits.of(small_config(data__folder=str(root), data__label_separator="|").data)
    with pytest.raises(InputError, match=r"data.labels is tags.csv, for a folder of images; valid with data.folder"):
        Splits.of(small_config(data__labels="tags.csv").data)
