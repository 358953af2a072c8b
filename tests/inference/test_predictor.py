"""Loading a work directory and predicting with it."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.training.checkpoints import reading


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
