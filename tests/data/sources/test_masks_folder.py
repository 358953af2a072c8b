"""A folder of images with masks, or of images alone: what is listed, and what is refused before the first step."""

import struct
import zlib

import numpy as np
import pytest
from folder_files import add
from PIL import Image

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading.pipeline import Pipeline
from vit_jax.data.sources import folder, masks
from vit_jax.errors import InputError
from vit_jax.types import Field


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def mask_file(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(values, np.uint8))
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)


@pytest.fixture
def streets(tmp_path):
    """Ten images of 8x8 and their masks, of a sky over a road."""
    root = tmp_path / "streets"
    for i in range(10):
        add(root, f"images/city/{i}.jpg")
        mask_file(root / "masks" / "city" / f"{i}.png", [[0] * 8] * 3 + [[1] * 7 + [255]] * 5, palette=i % 2 > 0)
    (root / "classes.txt").write_text("sky\nroad\n")
    return root


def test_one_tree_is_split_by_hash(streets):
    images = folder.open_folder(str(streets))
    field = Field("mask", (None, None), "int32", ("sky", "road"), (255,))
    assert images.fields == {"image": Field("image", (None, None, None), "uint8"), "mask": field}
    assert {split: len(files) for split, files in images.splits.items()} == {"train": 8, "test": 2}
    source = images.source("train")
    example = source[0]
    assert example.keys() == {"image", "mask", "path"}
    assert example["mask"] == (streets / "masks" / "city" / f"{example['path'][-5]}.png").read_bytes()


def test_values_of_grey_and_palette_masks_are_kept(streets):
    source = folder.open_folder(str(streets), eval_fraction=0).source("train")
    for record in range(10):
        mask = Pipeline(source, Preprocessing((8, 8))).exact(record)["mask"]
        assert mask[:3].tolist() == [[0] * 8] * 3 and mask[3:].tolist() == [[1] * 7 + [-1]] * 5


def test_splits_have_images_and_masks_of_their_own(tmp_path):
    for split in ("train", "val"):
        add(tmp_path, f"{split}/images/1.png")
        mask_file(tmp_path / split / "masks" / "1.png", np.zeros((8, 8)))
    (tmp_path / "classes.txt").write_text("background\n")
    images = folder.open_folder(str(tmp_path))
    assert {split: list(files.masks) for split, files in images.splits.items()} == {
        "train": ["train/masks/1.png"],
        "val": ["val/masks/1.png"],
    }
    assert images.source("val").name == f"{tmp_path} val"


def test_with_256_classes_nothing_is_ignored():
    names = tuple(str(number) for number in range(256))
    assert masks.ignored_by(names) == () and masks.ignored_by(names[:255]) == (255,)


def break_size(root):
    mask_file(root / "masks" / "city" / "3.png", np.zeros((8, 9)))


def break_image(root):
    (root / "masks" / "city" / "3.png").unlink()


def break_colours(root):
    Image.new("RGB", (8, 8)).save(root / "masks" / "city" / "3.png")


def break_values(root):
    mask_file(root / "masks" / "city" / "3.png", [[0] * 8] * 6 + [[7] * 8] * 2)


def break_bits(root):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, rows = struct.pack(">IIBBBBB", 8, 8, 2, 0, 0, 0, 0), b"\0\x55\x55" * 8  # ones, of 2 bits each
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    (root / "masks" / "city" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def break_ending(root):
    (root / "masks" / "city" / "3.png").rename(root / "masks" / "city" / "3.bmp")


def break_classes(root):
    (root / "classes.txt").unlink()


def break_names(root):
    (root / "classes.txt").write_text("sky\nsky\n")


def break_lines(root):
    (root / "classes.txt").write_text("sky\n\nroad\n")


def break_images(root):
    (root / "images" / "city").rename(root / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_size, r"masks/city/3.png has 8x9 pixels and its image .*/images/city/3.jpg 8x8 \(height x width\)"),
        (break_image, r"images/city/3.jpg has no mask; valid: .*/masks/city/3.png$"),
        (break_colours, r"masks/city/3.png has the colours of mode RGB; valid: a number for each pixel, grey or"),
        (
            break_values,
            r"3.png has values without a class: 7; valid: 0 to 1, the lines of classes.txt; 255 is ignored; its values "
            r"are 0 \(75.0%\), 7 \(25.0%\)$",
        ),
        (break_bits, r"3.png is grey of less than 8 bits; valid: a grey or palette PNG"),
        (break_ending, r"masks/city/3.bmp is no PNG; valid: a grey or palette PNG whose values are numbers of classes"),
        (break_classes, r"classes.txt cannot be read: No such file or directory; valid: a class's name on each line"),
        (break_names, r"classes.txt, line 2, repeats 'sky'; valid: each name once"),
        (break_lines, r"classes.txt, line 2, is empty; valid: the name of class 1"),
        (break_images, r"images holds no images"),
    ],
)
def test_faults_are_refused_in_one_line(streets, damage, message):
    damage(streets)
    with pytest.raises(InputError, match=message) as error:
        folder.open_folder(str(streets), eval_fraction=0).source("train", skip_corrupt=True)
    assert len(str(error.value).splitlines()) == 1


def test_other_faulty_masks_are_counted(streets):
    for name in ("2", "3", "5"):
        mask_file(streets / "masks" / "city" / f"{name}.png", np.full((8, 8), 9))
    with pytest.raises(InputError, match=r"city/2.png has values .*; 2 more masks of .*streets train have faults$"):
        folder.open_folder(str(streets), eval_fraction=0).source("train")


def test_masks_that_passed_are_not_read_again_unless_the_classes_change(streets, monkeypatch):
    read = []
    decode = masks.decode_numbers
    monkeypatch.setattr(masks, "decode_numbers", lambda path: read.append(path) or decode(path))

    def check():
        read.clear()
        folder.open_folder(str(streets), eval_fraction=0).source("train")
        return len(read)

    assert (check(), check()) == (10, 0)
    (streets / "classes.txt").write_text("sky\nroad\ncar\n")
    assert check() == 10


def test_a_damaged_mask_can_be_skipped_with_its_image(streets):
    (streets / "masks" / "city" / "3.png").write_bytes(b"no image")
    images = folder.open_folder(str(streets), eval_fraction=0)
    with pytest.raises(InputError, match=r"unreadable: 1 of 10 images of .*masks/city/3.png"):
        images.source("train")
    with pytest.warns(UserWarning, match="skipped 1 of 10"):
        assert len(images.source("train", skip_corrupt=True)) == 9


def test_shares_of_values():
    assert masks.value_shares(np.array([[0, 0, 0], [2, 2, 255]])) == {0: 3 / 6, 2: 2 / 6, 255: 1 / 6}


def test_images_in_no_class_are_a_source_of_images(tmp_path):
    add(tmp_path, "1.png", "a/2.png", "a/b/3.jpg", "c/4.png", "5.png")
    images = folder.open_folder(str(tmp_path), labelled=False)
    assert images.fields.keys() == {"image"}
    assert {split: len(files) for split, files in images.splits.items()} == {"train": 4, "test": 1}
    assert images.source("train")[0].keys() == {"image", "path"}
    with pytest.raises(InputError, match="lies in no class folder"):
        folder.open_folder(str(tmp_path))


def test_splits_of_images_alone(tmp_path):
    add(tmp_path, "train/1.png", "train/x/2.png", "test/3.png")
    images = folder.open_folder(str(tmp_path), labelled=False)
    assert {split: list(files.paths) for split, files in images.splits.items()} == {
        "train": ["train/1.png", "train/x/2.png"],
        "test": ["test/3.png"],
    }
    (tmp_path / "test" / "3.png").unlink()
    with pytest.raises(InputError, match="/test holds no images"):
        folder.open_folder(str(tmp_path), labelled=False)
