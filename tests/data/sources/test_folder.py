"""A folder of images: what is listed and how it is split, and what is refused."""

import os
import shutil

import numpy as np
import pytest
from folder_files import add, numbered
from PIL import Image

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.data.loading.loader import Share
from vit_jax.data.loading.memory import InMemory
from vit_jax.data.loading.pipeline import Pipeline
from vit_jax.data.loading.streaming import Streaming
from vit_jax.data.sources import folder, readable
from vit_jax.errors import InputError

PREPROCESSING = Preprocessing((8, 8), 1, mean=(0.5,), std=(0.5,))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """What was decoded is forgotten before each test."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


def listed(images: folder.ImageFolder) -> dict[str, list[str]]:
    return {split: list(files.paths) for split, files in images.splits.items()}


def test_nested_folders_all_endings_and_their_order(tmp_path):
    add(tmp_path, "b/1.JPG", "b/x/y/2.Png", "b/x.jpeg", "a/B.webp", "a/a.BMP", "a/ö.gif")
    images = folder.open_folder(str(tmp_path), eval_fraction=0)
    assert images.fields["label"].names == ("a", "b")
    assert listed(images) == {"train": ["a/B.webp", "a/a.BMP", "a/ö.gif", "b/1.JPG", "b/x.jpeg", "b/x/y/2.Png"]}
    source = images.source("train")
    assert [source[i]["label"] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert source[5]["image"] == (tmp_path / "b/x/y/2.Png").read_bytes()
    assert source.name == f"{tmp_path} train"


def test_what_pillow_reads_counts(tmp_path):
    names = [f"1{ending}" for ending in (".JFIF", ".TIF", ".jp2", ".pgm", ".ppm", ".tiff")]
    for folder_of in ("a", "b"):
        (tmp_path / folder_of).mkdir()
        for name in names:
            file_format = Image.registered_extensions()[os.path.splitext(name)[1].lower()]
            Image.new("L", (8, 8)).save(tmp_path / folder_of / name, file_format)
    images = folder.open_folder(str(tmp_path), eval_fraction=0)
    assert listed(images) == {"train": [f"{folder_of}/{name}" for folder_of in ("a", "b") for name in names]}
    assert len(images.source("train")) == 12


def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    add(tmp_path, *numbered("a", 5), *numbered("b", 5), "b/c/1.png")
    expected = listed(folder.open_folder(str(tmp_path)))

    class Backwards(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    scandir = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path: Backwards(sorted(scandir(path), key=lambda e: e.name, reverse=True))
    )
    assert listed(folder.open_folder(str(tmp_path))) == expected


def test_hidden_files_are_left_out_and_others_are_counted(tmp_path):
    add(tmp_path, "a/1.png", "b/1.png", "a/._1.png", "__MACOSX/1.png", ".ipynb_checkpoints/1.png", "a/.x/1.png")
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / "a" / "notes.TXT").write_text("")
    (tmp_path / "a" / "README").write_text("")
    (tmp_path / "b" / "more.txt").write_text("")
    with pytest.warns(UserWarning, match=r"ignored what is no image by its ending: 4 \(.txt, .csv, none\)"):
        images = folder.open_folder(str(tmp_path))
    assert listed(images) == {"train": ["a/1.png", "b/1.png"]}


def test_each_class_gives_its_share_but_never_all(tmp_path):
    """Of 10, 4, 2 and 1 images a fifth is 2, 0.8, 0.4 and 0.2; of 3 half is 1.5, rounded up."""
    add(tmp_path, *numbered("a", 10), *numbered("b", 4), *numbered("c", 2), *numbered("d", 1))
    images = folder.open_folder(str(tmp_path), eval_fraction=0.2)
    counts = {split: np.bincount(files.labels, minlength=4).tolist() for split, files in images.splits.items()}
    assert counts == {"train": [8, 3, 1, 1], "test": [2, 1, 1, 0]}
    together = [path for paths in listed(images).values() for path in paths]
    assert sorted(together) == sorted(numbered("a", 10) + numbered("b", 4) + numbered("c", 2) + numbered("d", 1))
    add(tmp_path, "d/1.png", "d/2.png")
    counts = np.bincount(folder.open_folder(str(tmp_path), eval_fraction=0.5).splits["test"].labels)
    assert counts.tolist() == [5, 2, 1, 2]
    assert np.bincount(folder.open_folder(str(tmp_path), eval_fraction=0.99).splits["train"].labels).min() == 1


def test_the_split_depends_on_the_seed_and_the_paths_alone(tmp_path):
    add(tmp_path / "here", *numbered("a", 20), *numbered("b", 20))
    here = listed(folder.open_folder(str(tmp_path / "here")))
    # Worked out once with hashlib: a change would put test images into the training of runs that continue.
    assert here["test"] == [f"a/{i}.png" for i in (1, 11, 5, 6)] + [f"b/{i}.png" for i in (11, 17, 4, 6)]
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert listed(folder.open_folder(str(tmp_path / "there"))) == here
    assert listed(folder.open_folder(str(tmp_path / "here"), split_seed=1)) != here
    add(tmp_path / "here", "a/new.png")
    later = listed(folder.open_folder(str(tmp_path / "here")))["test"]
    assert len(set(later) ^ set(here["test"])) <= 2  # one in, one out


def test_folders_named_after_splits_are_the_splits(tmp_path):
    add(tmp_path, *numbered("train/a", 3), *numbered("train/b", 2), *numbered("Validation/b", 2))
    add(tmp_path, "test/a/x/1.png", "test/b/1.png")
    images = folder.open_folder(str(tmp_path))
    assert images.fields["label"].names == ("a", "b")
    assert listed(images) == {
        "train": numbered("train/a", 3) + numbered("train/b", 2),
        "val": numbered("Validation/b", 2),
        "test": ["test/a/x/1.png", "test/b/1.png"],
    }
    assert images.splits["val"].labels.tolist() == [1, 1]


def test_a_train_folder_alone_is_split(tmp_path):
    add(tmp_path, *numbered("train/a", 5), *numbered("train/b", 5))
    images = folder.open_folder(str(tmp_path))
    assert {split: len(files) for split, files in images.splits.items()} == {"train": 8, "test": 2}


SPLITS = [
    (("train", "dev"), {"train": "train", "val": "dev"}),
    (("Train", "eval"), {"train": "Train", "val": "eval"}),
    (("TRAINING", "holdout"), {"train": "TRAINING", "test": "holdout"}),
    (("trains", "Tests"), {"train": "trains", "test": "Tests"}),
    (("val", "test"), {"val": "val", "test": "test"}),
    (("validation",), {"val": "validation"}),
    (("testing",), {"test": "testing"}),
    (("training_set", "test-images", "hold_out"), None),
    (("TrainSet", "valset", "test_data"), {"train": "TrainSet", "val": "valset", "test": "test_data"}),
    (("train2017", "val2017"), {"train": "train2017", "val": "val2017"}),
    (("seg_train", "seg_test"), {"train": "seg_train", "test": "seg_test"}),
    (("seg_train", "seg_test", "seg_pred"), None),
    (("train", "valid", "dev"), None),
    (("train", "bus"), None),
    (("test", "control"), None),
    (("train1", "train2"), None),
    (("dev", "ops"), {}),
    (("train station", "test tube", "steam_train"), {}),
    (("contest", "detrain"), {}),
]


@pytest.mark.parametrize(("names", "splits"), SPLITS)
def test_folders_that_are_named_after_splits_are_no_classes(names, splits, tmp_path):
    """They are the splits, are refused (None), or name classes and no splits ({})."""
    for name in names:
        add(tmp_path, *numbered(f"{name}/a", 2), *numbered(f"{name}/b", 2))
    if splits is None:
        with pytest.raises(InputError, match=r"valid: (splits alone|one for each)"):
            folder.open_folder(str(tmp_path))
        return
    images = folder.open_folder(str(tmp_path), eval_fraction=0)
    assert images.fields["label"].names == (("a", "b") if splits else tuple(sorted(names)))
    expected = {split: sorted(numbered(f"{name}/a", 2) + numbered(f"{name}/b", 2)) for split, name in splits.items()}
    assert not splits or listed(images) == expected


def test_without_labels_a_folder_may_be_called_like_a_split(tmp_path):
    add(tmp_path, "test/1.png", "2020/2.png", "3.png")
    assert len(folder.open_folder(str(tmp_path), labelled=False).source("all")) == 3
    add(tmp_path, "train/4.png")
    with pytest.raises(InputError, match="folders of splits and others beside them: 2020"):
        folder.open_folder(str(tmp_path), labelled=False)


def test_splits_below_the_classes_are_refused(tmp_path):
    add(tmp_path, "cat/train/1.png", "cat/val/1.png", "dog/train/1.png")
    with pytest.raises(InputError, match=r"/cat has folders of splits: train, val; valid: .* as in train/cat"):
        folder.open_folder(str(tmp_path))


def test_a_split_alone_is_refused_only_where_training_needs_another(tmp_path):
    add(tmp_path, *numbered("val/a", 2), *numbered("val/b", 3))
    images = folder.open_folder(str(tmp_path))
    assert len(images.source("val")) == len(images.source("all")) == 5
    with pytest.raises(InputError, match=r"has no split 'train'; valid: val$"):
        images.source("train")


def test_all_examples_of_a_folder_are_one_set(tmp_path):
    plain = add(tmp_path / "plain", *numbered("a", 5), *numbered("b", 6))
    images = folder.open_folder(str(plain))
    source = images.source("all")
    assert images.is_one_tree and images.splits.keys() == {"train", "test"}
    found = [(os.path.relpath(source[i]["path"], plain), source[i]["label"]) for i in range(len(source))]
    assert sorted(found) == [(path, 0) for path in numbered("a", 5)] + [(path, 1) for path in numbered("b", 6)]
    splits = add(tmp_path / "splits", *numbered("train/a", 2), *numbered("train/b", 1), *numbered("test/b", 3))
    images = folder.open_folder(str(splits))
    assert len(images.source("all")) == 6 and not images.is_one_tree


def test_to_evaluate_a_folder_may_lack_classes(tmp_path):
    add(tmp_path, *numbered("b", 3), "c/")
    with pytest.raises(InputError, match="class folders without images: c"):
        folder.open_folder(str(tmp_path))
    images = folder.open_folder(str(tmp_path), training=False)
    assert images.fields["label"].names == ("b",) and len(images.source("all")) == 3


def test_names_of_classes_in_two_unicode_forms(tmp_path):
    add(tmp_path / "splits", "train/caf\u00e9/1.png", "train/tea/1.png", "val/cafe\u0301/2.png")
    images = folder.open_folder(str(tmp_path / "splits"))
    assert images.fields["label"].names == ("caf\u00e9", "tea")
    assert images.splits["val"].labels.tolist() == [0] and images.source("val")[0]["image"]
    for one, other in (
        ("caf\u00e9", "cafe\u0301"),
        ("cat", "cat\u200b"),
        ("sea lion", "sea\u00a0lion"),
        ("cat", "cat "),
    ):
        root = add(tmp_path / ascii(other), f"{one}/1.png", f"{other}/1.png", "tea/1.png")
        with pytest.raises(
            InputError, match=r"two class folders whose names look the same, '.*' and '.*'; valid: one"
        ) as error:
            folder.open_folder(str(root))
        assert ascii(one) in str(error.value) and ascii(other) in str(error.value)
    add(tmp_path / "case", "train/cat/1.png", "train/Cat/1.png", "train/tea/1.png", "val/Tea/1.png")
    with pytest.raises(
        InputError, match="lacks: Tea; valid: Cat, cat, tea; 'Tea' looks like 'tea' but is written diff"
    ):
        folder.open_folder(str(tmp_path / "case"))


def test_links_are_followed_but_not_in_circles(tmp_path):
    add(tmp_path / "root", "a/1.png", "b/1.png")
    add(tmp_path / "elsewhere", "c/2.png", "3.png")
    root = tmp_path / "root"
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "loop").symlink_to(root / "a" / "loop")
    (root / "b" / "4.png").symlink_to(tmp_path / "elsewhere" / "3.png")
    (tmp_path / "elsewhere" / "c" / "back").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"by its ending: 1 \(none\)"):  # the link to itself
        images = folder.open_folder(str(root), eval_fraction=0)
    assert listed(images) == {"train": ["a/1.png", "a/more/3.png", "a/more/c/2.png", "b/1.png", "b/4.png"]}


def test_names_that_are_no_text_and_other_scripts(tmp_path):
    add(tmp_path, "猫/1.png", "hund ä/1.png")
    os.rename(tmp_path / "猫" / "1.png", os.fsencode(tmp_path / "猫") + b"/\xff\n.png")
    images = folder.open_folder(str(tmp_path), eval_fraction=0)
    assert images.fields["label"].names == ("hund ä", "猫")
    assert len(InMemory(Pipeline(images.source("train"), PREPROCESSING))) == 2
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(InputError, match=r"class folder .*'\\udcff' is not UTF-8"):
        folder.open_folder(str(tmp_path))


def test_the_home_folder_and_relative_paths(tmp_path, monkeypatch):
    add(tmp_path / "pets", "a/1.png", "b/1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("~/pets", "pets", "./pets/"):
        source = folder.open_folder(name).source("train")
        assert (len(source), source.name) == (2, f"{name} train")


REFUSED = [
    ([], {}, r"holds no images; valid: .*/<class>/<image>, images by their endings \(.jpg, .png"),
    (["a/1.png"], {}, "one class only, 'a'; valid: a folder for each of two or more classes$"),
    (
        ["images/a/1.png", "images/b/1.png"],
        {},
        "one class only, 'images';.*; if those are the folders in it, .*/images$",
    ),
    (["a/1.png", "b/1.png", "c/", "d/", "d/e/"], {}, "class folders without images: c, d;"),
    (["a/1.png", "b/1.png", *(f"e{i}/" for i in range(7))], {}, "without images: e0, e1, e2, e3, e4, and 2 more;"),
    (
        ["a/1.png", "b/1.png", "z.png", "y.png"],
        {},
        r"/y.png, one of 2, lies in no class folder; valid: .*/<class>/y.png",
    ),
    (["train/a/1.png", "train/b/1.png", "val/c/1.png"], {}, "/val has classes that train lacks: c; valid: a, b"),
    (["train/a/1.png", "train/b/1.png", "test/1.png"], {}, "/test/1.png lies in no class folder"),
    (["train/a/1.png", "train/b/1.png", "test/"], {}, "/test holds no images"),
    (["train/a/1.png", "train/b/", "test/a/1.png"], {}, "/train has class folders without images: b"),
    (["train/a/1.png", "train/b/1.png", "val/", "valid/"], {}, "two folders for the split 'val', val and valid"),
    (["a/1.png", "b/1.png"], {"eval_fraction": 1.0}, "data.eval_fraction is 1.0; valid: at least 0"),
    (["a/1.png", "b/1.png"], {"split_seed": -1}, "data.split_seed is -1; valid: 0 or more"),
]


@pytest.mark.parametrize(("names", "options", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_refusals(tmp_path, names, options, message):
    for name in names:
        (tmp_path / name).mkdir(parents=True, exist_ok=True) if name.endswith("/") else add(tmp_path, name)
    with pytest.raises(InputError, match=message):
        folder.open_folder(str(tmp_path), **options)


def test_a_folder_that_is_not_there_is_a_file_or_lacks_a_split(tmp_path):
    with pytest.raises(InputError, match=r"data.folder: /nowhere does not exist; valid: a folder of class folders"):
        folder.open_folder("/nowhere")
    add(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(InputError, match=r"1.png is a file, not a folder"):
        folder.open_folder(str(tmp_path / "a" / "1.png"))
    with pytest.raises(InputError, match=r"has no split 'train\[:90%\]'; valid: train$"):
        folder.open_folder(str(tmp_path)).source("train[:90%]")


def test_a_folder_that_must_not_be_read_is_named(tmp_path, monkeypatch):
    """Mocked, since root may read everything."""
    add(tmp_path, "a/1.png", "b/c/1.png")
    scandir = os.scandir

    def denying(path):
        if str(path).endswith("c"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denying)
    with pytest.raises(InputError, match=r"/b/c cannot be read: Permission denied"):
        folder.open_folder(str(tmp_path))


@pytest.fixture
def damaged(tmp_path):
    """Twelve images, three of which cannot be decoded."""
    root = add(tmp_path / "pets", *numbered("a", 6), *numbered("b", 5))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(root / "a" / "cut.png")
    (root / "a" / "cut.png").write_bytes((root / "a" / "cut.png").read_bytes()[:900])
    (root / "a" / "0.png").write_bytes(b"")
    (root / "b" / "0.png").unlink()
    (root / "b" / "0.png").symlink_to("/nowhere/0.png")
    return root


def test_unreadable_images_stop_the_run_with_their_paths(damaged):
    images = folder.open_folder(str(damaged), eval_fraction=0)
    with pytest.raises(InputError, match=r"^unreadable: 3 of 12 images of .*pets train: ") as error:
        images.source("train")
    message = str(error.value)
    for part in ("/a/0.png is empty", "/a/cut.png cannot be read: ", "/b/0.png cannot be read: No such file"):
        assert f"{damaged}{part}" in message
    assert message.endswith("; valid: without them, or with data.skip_corrupt=true (evaluate --skip-corrupt)")


def test_unreadable_images_are_skipped_and_counted(damaged):
    images = folder.open_folder(str(damaged), eval_fraction=0.2)
    names = {split: len(files) for split, files in images.splits.items()}
    with pytest.warns(UserWarning, match=r"skipped \d of \d+ images of .*: /.*(0|cut).png") as warned:
        sources = {split: images.source(split, skip_corrupt=True) for split in names}
    assert sum(len(source) for source in sources.values()) == 12 - 3
    assert sum(int(str(w.message).split()[1]) for w in warned) == 3
    # The others are in the split that they would be in anyway.
    for split, source in sources.items():
        assert {os.path.relpath(source[i]["path"], damaged) for i in range(len(source))} <= set(listed(images)[split])


def test_a_class_or_split_of_which_nothing_is_left_is_refused(tmp_path):
    add(tmp_path, *numbered("train/a", 2), *numbered("train/b", 1), *numbered("val/a", 1))
    (tmp_path / "train" / "b" / "0.png").write_text("x")
    (tmp_path / "val" / "a" / "0.png").write_text("x")
    images = folder.open_folder(str(tmp_path))
    with pytest.raises(InputError, match=r"nothing is left of .* train, class 'b'; skipped 1 of 3 .*/train/b/0.png"):
        images.source("train", skip_corrupt=True)
    with pytest.raises(InputError, match=r"nothing is left of .* val; skipped 1 of 1 .*/val/a/0.png"):
        images.source("val", skip_corrupt=True)


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    add(tmp_path, "a/1.png", "b/1.png")
    os.mkfifo(tmp_path / "b" / "2.png")
    with pytest.raises(InputError, match=r"b/2.png is no regular file"):
        folder.open_folder(str(tmp_path), eval_fraction=0).source("train")


def test_what_was_decoded_once_is_not_decoded_again(tmp_path, monkeypatch, cache):
    add(tmp_path, *numbered("a", 40), *numbered("b", 40))
    decoded = []
    monkeypatch.setattr(readable, "decode", lambda path, *_, **__: decoded.append(path))

    def check():
        decoded.clear()
        folder.open_folder(str(tmp_path), eval_fraction=0).source("train")
        return len(decoded)

    assert (check(), check()) == (80, 0)
    add(tmp_path, "a/new.png", level=3)
    add(tmp_path, "a/0.png", level=4)
    os.utime(tmp_path / "a" / "0.png", ns=(1, 1))
    assert (check(), check()) == (2, 0)
    [memory] = (cache / "vit_jax" / "readable").iterdir()
    memory.write_bytes(memory.read_bytes()[3:])  # damaged: all are decoded again
    assert check() == 81
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # nothing can be written
    assert (check(), check()) == (81, 81)


def test_loaders_name_a_file_that_was_damaged_after_the_check(tmp_path):
    add(tmp_path, *numbered("a", 2), *numbered("b", 2))
    source = folder.open_folder(str(tmp_path), eval_fraction=0).source("train")
    (tmp_path / "a" / "1.png").write_text("x")
    for load in (InMemory, lambda *args: list(Streaming(*args).eval_batches(Share(2)))):
        with pytest.raises(InputError, match=rf"^{tmp_path}/a/1.png: the image is not an image"):
            load(Pipeline(source, PREPROCESSING))
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(InputError, match=rf"^{tmp_path}/a/1.png cannot be read: No such file"):
        InMemory(Pipeline(source, PREPROCESSING))


def test_worker_processes_read_what_threads_read(tmp_path):
    add(tmp_path, *numbered("a", 3), level=10)
    add(tmp_path, *numbered("b", 3), level=200)
    source = folder.open_folder(str(tmp_path), eval_fraction=0).source("train")
    for workers in (0, 2):
        batches = list(Streaming(Pipeline(source, PREPROCESSING), num_workers=workers).eval_batches(Share(4)))
        pixels = np.concatenate([batch["image"][batch["is_example"] > 0, 0, 0, 0] for batch in batches])
        labels = np.concatenate([batch["label"][batch["is_example"] > 0] for batch in batches])
        assert (pixels.tolist(), labels.tolist()) == ([10] * 3 + [200] * 3, [0, 0, 0, 1, 1, 1])


def test_splits_beside_other_folders_are_refused(tmp_path):
    for name in ("train/cat", "train/dog", "val/cat", "extra/cat"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match="folders of splits and others beside them: extra; valid"):
        folder.open_folder(str(tmp_path))
    with pytest.raises(InputError, match=r"data.folder: '' does not exist"):
        folder.open_folder("")
