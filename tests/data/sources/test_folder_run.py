"""A folder of images from training to predictions, and what its config says."""

import json
import shutil

import numpy as np
import pytest
from conftest import small_config
from folder_files import add, numbered
from PIL import Image

import train
from vit_jax.cli.main import main
from vit_jax.data.sources import folder
from vit_jax.errors import InputError


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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of dark and bright images, and the work directory of a short run on it."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 170)):
        (root / "pets" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(low, low + 80, (12, 10), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "pets" / name / f"{i}.png")
    config = small_config(
        num_steps=40,
        optimizer__learning_rate=1e-2,
        evaluation__every_steps=0,
        checkpoint__every_steps=0,
        data__folder=str(root / "pets"),
        data__in_memory=False,
    )
    assert train.train(config, root / "workdir") == 0
    return root


def test_a_run_learns_the_classes_and_predicts_their_names(run, capsys):
    last = json.loads((run / "workdir" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["test/examples"], last["test/accuracy"]) == (16, 1.0)
    Image.new("RGB", (30, 20), (20, 30, 40)).save(run / "night.jpg")
    assert main(["predict", "--model", str(run / "workdir"), str(run / "night.jpg"), "--top-k", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{run / 'night.jpg'}: dark ")


def test_evaluate_gives_the_same_figures_where_the_folder_lies_now(run, tmp_path, capsys):
    last = json.loads((run / "workdir" / "metrics.jsonl").read_text().splitlines()[-1])
    shutil.copytree(run / "pets", tmp_path / "moved")
    for arguments in ([], ["--data-dir", str(tmp_path / "moved"), "--split", "test"]):
        assert main(["evaluate", "--model", str(run / "workdir"), "--json", *arguments]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["test/examples"] == 16
        assert figures["test/loss"] == pytest.approx(last["test/loss"], rel=1e-5)


def test_evaluate_takes_all_of_another_folder_and_says_so(run, tmp_path, capsys):
    shutil.copytree(run / "pets", tmp_path / "moved")
    assert main(["evaluate", "--model", str(run / "workdir"), "--json", "--data-dir", str(tmp_path / "moved")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["all/examples"] == 80
    assert "all 80 images of" in err and "--split test takes those that were held out" in err


def test_evaluate_refuses_a_folder_of_other_classes(run, tmp_path, capsys):
    add(tmp_path, *numbered("bright", 2), *numbered("dim", 2))
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--model", str(run / "workdir"), "--data-dir", str(tmp_path)])
    shown = capsys.readouterr().err
    assert end.value.code == 2 and len(shown.splitlines()) == 1
    assert "class 1 is 'dim' there and 'dark' in the model" in shown


def test_evaluate_counts_all_of_a_test_set_that_lacks_classes(run, tmp_path, capsys):
    shutil.copytree(run / "pets" / "dark", tmp_path / "dark")
    assert (
        main(["evaluate", "--model", str(run / "workdir"), "--data-dir", str(tmp_path), "--split", "all", "--json"])
        == 0
    )
    figures = json.loads(capsys.readouterr().out)
    assert (figures["all/examples"], figures["all/accuracy"]) == (40, 1.0)


def test_without_named_evaluations_all_other_splits_are_evaluated(tmp_path):
    from vit_jax.build import experiment as build

    add(tmp_path, *numbered("train/a", 8), *numbered("train/b", 8), *numbered("val/a", 3), *numbered("test/b", 2))
    config = small_config(data__folder=str(tmp_path))
    assert build.experiment(config).eval_loaders.keys() == {"test"}
    with config.unlocked():
        del config.evaluation.splits["test"]
    loaders = build.experiment(config).eval_loaders
    assert {name: len(loader) for name, loader in loaders.items()} == {"val": 3, "test": 2}
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(InputError, match=r"has no split 'test'; valid: train, val"):
        build.experiment(small_config(data__folder=str(tmp_path)))


def test_without_named_evaluations_a_tfds_dataset_has_its_test_split_evaluated():
    from vit_jax.build import experiment as build

    config = small_config()
    with config.unlocked():
        del config.evaluation.splits["test"]
    loaders = build.experiment(config).eval_loaders
    assert {name: len(loader) for name, loader in loaders.items()} == {"test": 360}


def test_the_config_for_folders_says_what_it_lacks():
    from configs import finetune
    from vit_jax.build import experiment as build

    with pytest.raises(InputError, match=r"data.folder is not set; valid: a folder of images, or data.name"):
        build.experiment(finetune.get_config())


def test_nothing_is_written_when_an_image_is_damaged(damaged, tmp_path, capsys):
    with pytest.raises(InputError, match=r"unreadable: .*data.skip_corrupt=true"):
        train.train(small_config(data__folder=str(damaged)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_evaluate_can_leave_unreadable_images_out(run, tmp_path, capsys):
    shutil.copytree(run / "pets", tmp_path / "pets")
    name = next(iter(folder.open_folder(str(tmp_path / "pets")).splits["test"].paths))
    (tmp_path / "pets" / name).write_bytes(b"no image")
    arguments = ["evaluate", "--model", str(run / "workdir"), "--json", "--data-dir", str(tmp_path / "pets")]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--skip-corrupt" in capsys.readouterr().err
    assert main([*arguments, "--skip-corrupt"]) == 0
    assert json.loads(capsys.readouterr().out)["all/examples"] == 79


def test_with_the_field_image_alone_a_folder_may_have_any_layout(tmp_path):
    from vit_jax.build.data import Splits

    add(tmp_path, "1.png", "a/2.png", "a/b/3.png")
    config = small_config(data__folder=str(tmp_path), data__fields=("image",))
    source = Splits.of(config.data).open("train")
    assert source.fields.keys() == {"image"} and len(source) == 2
