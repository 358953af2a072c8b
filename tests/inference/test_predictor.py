"""Loading a work directory and predicting with it."""

import dataclasses
import io
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bright import BrightTask, bright_predictor
from PIL import Image

import vit_jax
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.inference.images import read_image
from vit_jax.inference.predictor import Classifier
from vit_jax.info import new_info
from vit_jax.ops import posemb
from vit_jax.training.checkpoints import reading
from vit_jax.types import Field, Placement


@pytest.fixture(scope="module")
def classifier(trained):
    return vit_jax.load(trained)


def test_it_needs_nothing_but_the_checkpoints(trained, tmp_path, classifier, digit_files):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    alone = vit_jax.load(str(tmp_path))
    assert alone.predict(digit_files[0][0]) == classifier.predict(digit_files[0][0])
    assert alone.class_names == tuple("0123456789")


def test_it_uses_the_moving_average(trained, classifier):
    chex.assert_trees_all_equal(classifier.params, reading.read_params(trained / "checkpoints", 12))
    assert (trained / "checkpoints" / "12" / "ema_params").is_dir()


def test_preprocess_takes_paths_images_and_arrays(classifier, digit_files):
    path = digit_files[0][0]
    pixels = np.asarray(Image.open(path))
    expected = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    for image in (path, str(path), Image.open(path), pixels, pixels[:, :, None]):
        result = classifier.preprocess(image)
        chex.assert_shape(result, (1, 8, 8, 1))
        np.testing.assert_allclose(result[0, :, :, 0], expected, atol=1e-6)
    for images in ([path, pixels], np.stack([pixels, pixels])[..., None]):
        chex.assert_shape(classifier.preprocess(images), (2, 8, 8, 1))


def test_apply_gives_the_models_logits(classifier):
    pixels = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    logits = classifier.apply(pixels)
    chex.assert_shape(logits, (3, 10))
    expected = classifier.model.apply({"params": classifier.params}, pixels, train=False)
    chex.assert_trees_all_close(logits, expected, atol=1e-5)


def test_predict_sorts_by_probability(classifier, digit_files):
    predictions = classifier.predict([path for path, _ in digit_files], top_k=10)
    logits = classifier.apply(classifier.preprocess([path for path, _ in digit_files]))
    for row, answers in zip(np.asarray(jax.nn.softmax(logits)), predictions, strict=True):
        assert [a.label for a in answers] == np.argsort(-row, kind="stable").tolist()
        assert sum(a.probability for a in answers) == pytest.approx(1.0, abs=1e-5)
        assert all(a.class_name == str(a.label) for a in answers)
    assert [len(answers) for answers in classifier.predict(digit_files[0][0], top_k=99)] == [10]


@pytest.mark.parametrize("images", [[], None, 3, np.zeros((0, 0), np.uint8)])
def test_what_is_no_image_is_refused(classifier, images):
    with pytest.raises(vit_jax.InputError):
        classifier.predict(images)


def test_a_step_can_be_chosen(trained):
    assert vit_jax.load(trained, step=6).info["step"] == 6
    assert vit_jax.load(trained, step="best").info["step"] == reading.best_step(trained / "checkpoints")
    with pytest.raises(vit_jax.InputError, match=r"no checkpoint of step 7; valid: last, best, \[6, 12\]"):
        vit_jax.load(trained, step=7)


def test_a_broken_last_checkpoint_is_passed_over_with_a_warning(trained, tmp_path):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints" / "12" / "ema_params" / "d")
    with pytest.warns(UserWarning, match="checkpoint 12 is incomplete.*using checkpoint 6"):
        assert vit_jax.load(tmp_path).info["step"] == 6


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(vit_jax.InputError, match="no work directory"):
        vit_jax.load(tmp_path)


def test_create_and_list_models():
    assert ("vit", "B/16") in vit_jax.list_models()
    model = vit_jax.create_model("vit", "Ti/16", num_classes=7, depth=1)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 48, 3)), train=False))
    logits = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 32, 48, 3)), train=False), variables)
    chex.assert_shape(logits, (2, 7))
    with pytest.raises(vit_jax.InputError, match=r"unknown model 'resnet'; valid: .*, vit"):
        vit_jax.create_model("resnet", "50")


def test_every_kind_of_array_is_an_image(classifier, digit_files):
    pixels = np.asarray(Image.open(digit_files[0][0]))
    expected = classifier.predict(pixels)
    for images in (
        jnp.asarray(pixels),
        [jnp.asarray(pixels)],
        jnp.asarray(pixels)[None, :, :, None],
        [Image.open(digit_files[0][0])],
    ):
        assert classifier.predict(images) == expected
    with pytest.raises(vit_jax.InputError, match="an image array of shape"):
        classifier.predict(jnp.zeros((8, 8)))


def test_classifiers_names_go_on_working(classifier, digit_files):
    path = digit_files[0][0]
    assert isinstance(classifier, Classifier) and isinstance(classifier, vit_jax.Predictor)
    [answers] = classifier.predict(path, 3)
    assert len(answers) == 3 and answers[0].label in range(10)
    assert [answer.class_name for answer in answers[:2]] == [str(answer.label) for answer in answers[:2]]
    chex.assert_shape(classifier.features(classifier.preprocess(path)).pooled, (1, 16))
    assert classifier.encoder is classifier.model.encoder


def test_predictors_are_told_apart_by_identity(trained, classifier):
    assert classifier == classifier and classifier != vit_jax.load(trained)
    assert {classifier: 1}[classifier] == 1
    again = vit_jax.load(trained)
    for name in ("model", "encoder", "task", "preprocessing"):
        mine, other = getattr(classifier, name), getattr(again, name)
        assert mine == other and hash(mine) == hash(other)


def test_an_option_that_the_task_does_not_have_is_refused(classifier, digit_files):
    with pytest.raises(vit_jax.InputError, match="'classification' has no option 'topk' of results; nearest: 'top_k'"):
        classifier.predict(digit_files[0][0], topk=3)


def test_numbers_of_numpy_are_steps_and_sizes(trained):
    assert vit_jax.load(trained, step=np.int64(6)).info["step"] == 6
    assert vit_jax.load(trained, image_size=np.int64(16)).preprocessing.image_size == (16, 16)
    for size in (np.array([16, 8]), jnp.array([16, 8]), [jnp.int32(16), np.int64(8)]):
        assert vit_jax.load(trained, image_size=size).preprocessing.image_size == (16, 8)
    assert vit_jax.load(trained, step=jnp.int32(6), image_size=jnp.int32(16)).preprocessing.image_size == (16, 16)
    assert vit_jax.load(trained, image_size=(16, 8)).task.fields["image"].shape == (16, 8, 1)
    with pytest.raises(vit_jax.InputError, match="image_size is 0; valid: one number, or height and width"):
        vit_jax.load(trained, image_size=0)


@pytest.fixture(scope="module")
def learned_positions(tmp_path_factory):
    """A work directory whose model learns its position embedding."""
    model, task = {"name": "vit", "variant": "Ti/4", "options": {"hidden_dim": 16, "depth": 1, "num_heads": 2}}, None
    info = new_info(
        model=model,
        task=task,
        fields={"image": Field("image", (None, None, 3), "uint8")},
        preprocessing=dataclasses.asdict(Preprocessing((8, 8))),
    )
    encoder = vit_jax.create_model(model["name"], model["variant"], **model["options"])
    params = encoder.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), train=False)["params"]
    workdir = tmp_path_factory.mktemp("runs") / "learned"
    reading.write_params(workdir / "checkpoints", 3, params, info)
    return workdir


def test_ones_own_work_directory_at_another_size(learned_positions):
    plain, larger = vit_jax.load(learned_positions), vit_jax.load(learned_positions, image_size=16)
    old, new = (model.params["pos_embedding"]["grid"] for model in (plain, larger))
    np.testing.assert_allclose(new, posemb.resize_grid(jnp.asarray(old), (4, 4), antialias=True), atol=1e-6)
    assert plain.report is None and list(larger.report.resized) == ["encoder/pos_embedding/grid"]
    assert larger.info["step"] == plain.info["step"] == 3
    pixels = larger.preprocess(np.zeros((20, 20, 3), np.uint8))
    chex.assert_shape(pixels, (1, 16, 16, 3))
    chex.assert_shape(larger.features(pixels).tokens, (1, 17, 16))
    same = vit_jax.load(learned_positions, image_size=(8, 8))
    chex.assert_trees_all_equal(same.params, plain.params)


def test_ones_own_work_directory_with_other_channels(trained, classifier, digit_files):
    colour = vit_jax.load(trained, in_channels=np.int32(3))
    path = digit_files[0][0]
    grey, rgb = (model.apply(model.preprocess(path)) for model in (classifier, colour))
    np.testing.assert_allclose(rgb, grey, atol=1e-5)  # a grey image's channels are equal


def test_what_is_for_other_checkpoints_is_refused(trained, golden):
    with pytest.raises(vit_jax.InputError, match="num_heads is for another library's checkpoint"):
        vit_jax.load(trained, num_heads=2)
    with pytest.raises(vit_jax.InputError, match=r"step is 3, but .*hf_vit is no work directory"):
        vit_jax.load(golden / "hf_vit", step=3)


def test_any_tasks_results_are_in_the_pixels_of_the_original():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 25:35] = 255
    predictor = bright_predictor(resize="shortest_edge")  # shows the middle third, columns 20 to 40
    [result] = predictor.predict(pixels)
    assert result.mask.shape == (20, 60)
    np.testing.assert_array_equal(result.mask[10, 20:40], pixels[10, 20:40, 0] > 0)
    assert predictor.predict(pixels, threshold=5.0)[0].mask.sum() == 0


def test_what_is_random_depends_on_neither_place_nor_batch_mates():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 20, 3), np.uint8) for _ in range(3)]
    predictor = bright_predictor()
    noises = [result.noise for result in predictor.predict(images)]
    assert noises == [noises[0]] * 3 == [predictor.predict(images[1])[0].noise] * 3


def test_a_shape_is_compiled_once():
    traced = []

    class Counting(BrightTask):
        def forward(self, given, batch, *, rngs, train):
            traced.append(batch["image"].shape)
            return super().forward(given, batch, rngs=rngs, train=train)

    predictor = bright_predictor()
    predictor = dataclasses.replace(predictor, task=Counting(predictor.fields))
    for size in (10, 12):
        predictor.predict(np.zeros((2, size, size, 3), np.uint8))
    assert traced == [(2, 8, 8, 3)]


def test_without_a_task_there_is_nothing_to_predict():
    predictor = dataclasses.replace(bright_predictor(), task=None)
    with pytest.raises(vit_jax.InputError, match="no classification head"):
        predictor.predict(np.zeros((8, 8, 3), np.uint8))
    assert predictor.class_names == ()


@pytest.mark.parametrize(
    ("options", "size", "box"),
    [
        ({}, (10, 20), (0, 0, 20, 10)),
        ({"resize": "shortest_edge"}, (10, 20), (5, 0, 15, 10)),
        ({"resize": "shortest_edge", "crop_fraction": 0.5}, (16, 16), (4, 4, 12, 12)),
        ({"resize_to": (8, 16)}, (32, 32), (8, 0, 24, 32)),
    ],
)
def test_where_an_input_lies_in_its_image(options, size, box):
    preprocessing = Preprocessing((8, 8), **options)
    read = read_image(np.zeros((*size, 3), np.uint8), preprocessing)
    assert read.placement == Placement(size, box, (8, 8))
    assert read.pixels.shape == (8, 8, 3)


def test_a_photographs_orientation_counts():
    image = Image.new("RGB", (30, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert read_image(file.getvalue(), Preprocessing((8, 8))).placement.image_size == (30, 10)


def test_using_a_model_imports_neither_datasets_nor_training(trained, digit_files):
    code = f"""
import sys, vit_jax
print(len(vit_jax.load({str(trained)!r}).predict({str(digit_files[0][0])!r})[0]))
unwanted = ["tensorflow_datasets", "grain", "tensorboardX", "sklearn", "matplotlib",
    "ml_collections",     "vit_jax.training.step", "vit_jax.training.optimizer",
    "vit_jax.training.checkpoints.writing", "vit_jax.data.sources",
    "vit_jax.data.loading", "vit_jax.pretrained", "vit_jax.cli"]
print(*[name for name in unwanted if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n") == ["5", "", ""]


def test_the_front_door_imports_little():
    code = "import jax, sys; before = set(sys.modules); import vit_jax; vit_jax.load; print(*set(sys.modules) - before)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(result.stdout.split())
    ours = ("vit_jax.pretrained", "vit_jax.training", "vit_jax.tasks.")
    heavy = {"optax", "tensorflow_datasets", "grain", "sklearn", "matplotlib", "tensorboardX", "huggingface_hub"}
    assert not heavy & modules
    assert not {name for name in modules if name.startswith(ours)}
