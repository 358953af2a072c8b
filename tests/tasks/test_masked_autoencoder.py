"""Masked autoencoding: loss and masks by hand, what the encoder sees, pictures in the original's pixels.

The whole model against transformers is in tests/pretrained/test_vit_mae_weights.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import TINY
from PIL import Image
from tiny import IMAGE_FIELD, TaskRow

import vit_jax
from vit_jax.build import plugins
from vit_jax.contracts import Forward
from vit_jax.errors import InputError
from vit_jax.tasks.masked_autoencoder import MaskedAutoencoder, Reconstruction, num_kept
from vit_jax.types import Field, Placement

# Patches of noise are learned slowly: each image has its own.
ROW = TaskRow(
    IMAGE_FIELD,
    {},
    {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_dim": 32},
    falls_to=0.5,
)

FIELDS = {"image": Field("image", (None, None, 1), "uint8")}
SMALL = {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_dim": 12}
# Patches of 1x2 pixels: (0, 2), (4, 4), (1, 3), (5, 9), row by row.
IMAGES = np.array([[[0, 2, 4, 4], [1, 3, 5, 9]]], np.float32)[..., None]


def tiny_task(**options):
    return MaskedAutoencoder(FIELDS, **SMALL | options)


def tiny_encoder(family="vit", **options):
    return plugins.create_encoder(family, TINY[family].variant, **TINY[family].options | options)


def initialised(task, images, **options):
    """Model and random parameters."""
    model = task.wrap(tiny_encoder(**options))
    shapes = jax.eval_shape(lambda: task.initialise(model, jax.random.key(0), {"image": images}))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)


def reconstruction(patches, masked):
    return Reconstruction(
        images=jnp.asarray(IMAGES), patches=jnp.asarray([patches], jnp.float32), masked=jnp.asarray([masked]),
        patch_size=(1, 2),
    )  # fmt: skip


def test_the_loss_is_the_mean_over_hidden_patches_of_the_mean_squared_error():
    outputs = reconstruction([[9, 9], [4, 6], [1, 1], [9, 9]], [0.0, 1.0, 1.0, 0.0])
    # (0 + 4) / 2 and (0 + 4) / 2; the visible patches do not count.
    np.testing.assert_allclose(tiny_task(normalise_pixels=False).loss(outputs, {}), [2.0])


def test_the_loss_with_normalised_pixels_by_hand():
    # (1, 3) has mean 2 and variance 2, by n - 1: targets -+1/sqrt(2).
    outputs = reconstruction([[9, 9], [9, 9], [0, 0], [9, 9]], [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(tiny_task().loss(outputs, {}), [0.5], rtol=1e-5)


def test_a_perfect_prediction_costs_nothing_and_is_drawn_as_the_image():
    task = tiny_task()
    pixels = IMAGES.reshape(4, 2)
    targets = (pixels - pixels.mean(1, keepdims=True)) / np.sqrt(pixels.var(1, ddof=1, keepdims=True) + 1e-6)
    outputs = reconstruction(targets, [0.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(task.loss(outputs, {}), [0.0], atol=1e-6)
    [result] = task.results(outputs, [Placement.whole((2, 4))])
    np.testing.assert_array_equal(result.reconstruction, np.clip(255 * IMAGES[0], 0, 255))


def test_pixels_beyond_the_patches_are_neither_hidden_nor_reconstructed():
    task, images = tiny_task(normalise_pixels=False), np.zeros((1, 3, 5, 1), np.float32)
    images[:, :, 4] = 1.0
    outputs = Reconstruction(jnp.asarray(images), jnp.full((1, 6, 2), 0.4), jnp.ones((1, 6)), patch_size=(1, 2))
    [result] = task.results(outputs, [Placement.whole((3, 5))])
    expected = np.full((3, 5), 102)
    expected[:, 4] = 255
    np.testing.assert_array_equal(result.reconstruction[:, :, 0], expected)
    np.testing.assert_array_equal(result.masked[:, :, 0] == 128, expected == 102)
    images = np.random.default_rng(0).normal(size=(1, 18, 19, 3)).astype(np.float32)
    model, params = initialised(task, images)
    keys = jax.random.split(jax.random.key(0), 1)
    outputs, _ = task.forward(Forward(model, params), {"image": images}, rngs={"mask": keys}, train=False)
    assert outputs.patches.shape == (1, 16, 48) and np.isfinite(task.loss(outputs, {})).all()


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 12), (0.5, 8), (0.7, 12), (0.9, 15)])
def test_the_share_of_hidden_patches_is_rounded_up(ratio, hidden):
    assert 16 - num_kept(16, 1.0 - ratio) == hidden


def test_masks_depend_on_the_examples_keys_alone():
    task = tiny_task()
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 1)).astype(np.float32)
    model, params = initialised(task, images)
    given = Forward(model, params)

    def masks(chosen):
        keys = jax.vmap(jax.random.key)(jnp.array(chosen))
        outputs, _ = task.forward(given, {"image": images[chosen]}, rngs={"mask": keys}, train=False)
        return np.asarray(outputs.masked)

    together = masks([0, 1, 2])
    assert together.shape == (3, 16) and (together.sum(axis=1) == 12).all()
    assert not np.array_equal(together[0], together[1])
    np.testing.assert_array_equal(masks([2, 0]), together[[2, 0]])


@pytest.mark.parametrize("options", [{}, {"pooling": "gap"}, {"register_tokens": 2}])
def test_the_encoder_sees_the_visible_patches_alone(options):
    """Pixels of hidden patches change no prediction, those of visible ones do."""
    task = tiny_task()
    images = np.random.default_rng(0).normal(size=(1, 8, 20, 1)).astype(np.float32)
    model, params = initialised(task, images, **options)
    noise = np.arange(10, dtype=np.float32)[None]  # the first two patches are visible
    predict = jax.jit(lambda images: model.apply({"params": params}, images, noise, train=False).patches)
    hidden, visible = images.copy(), images.copy()
    hidden[:, 4:] += 1.0
    visible[:, :4, :4] += 1.0
    np.testing.assert_array_equal(predict(hidden), predict(images))
    assert not np.allclose(predict(visible), predict(images), atol=1e-3)


@pytest.mark.parametrize("family", sorted(TINY))
def test_families_whose_patches_cannot_be_left_out_are_refused(family):
    encoder = tiny_encoder(family)
    if family in ("vit", "deit"):
        assert tiny_task().wrap(encoder).encoder is encoder
    else:
        with pytest.raises(InputError, match=f"in the model '{family}' patches overlap or need their neighbours"):
            tiny_task().wrap(encoder)


def test_a_picture_has_the_original_size_and_changes_within_the_inputs_place_alone():
    """A centre crop of a wide image: left and right of it nothing is hidden."""
    task = tiny_task(normalise_pixels=False)
    outputs = reconstruction([[1, 1]] * 4, [1.0, 1.0, 1.0, 0.0])
    placement = Placement((200, 600), (100.0, 0.0, 500.0, 200.0), (2, 4))
    [result] = task.results(outputs, [placement])
    image = Image.new("RGB", (600, 200), (0, 128, 0))
    picture = np.asarray(result.draw(image))
    gap = (picture.shape[1] - 3 * 600) // 4
    top = np.flatnonzero((picture == (0, 128, 0)).all(axis=2).any(axis=1))[0]
    original, visible, whole = (picture[top : top + 200, gap + i * (600 + gap) :][:, :600] for i in range(3))
    np.testing.assert_array_equal(original, np.asarray(image))
    for shown in (visible, whole):
        np.testing.assert_array_equal(shown[:, :100], original[:, :100])
        np.testing.assert_array_equal(shown[:, 500:], original[:, 500:])
    assert (visible[:40, 100:140] == 128).all()  # in a hidden patch, away from the bicubic edge
    assert (whole[:100, 100:500] == 255).all()
    assert result.json() == {"loss": pytest.approx(result.loss)} and "mean squared error" in result.line()
    strip = Placement((200, 1), (0.0, 99.5, 1.0, 100.5), (2, 4))
    [result] = task.results(outputs, [strip])
    assert result.draw(Image.new("RGB", (1, 200))).height >= 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, "task.options.mask_ratio is 1.0; valid: above 0 and below 1"),
        ({"decoder_depth": 0}, "task.options.decoder_depth is 0; valid: 1 or more"),
        ({"decoder_dim": 10}, "task.options.decoder_dim is 10; valid: a multiple of 4 and of decoder_heads, 2"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(InputError, match=message):
        tiny_task(**options)


def test_a_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match=r"mask_ratio of 0.95 leaves 0 of 16 patches; valid: a ratio that leaves and"):
        initialised(tiny_task(mask_ratio=0.95), np.zeros((1, 16, 16, 1), np.float32))


def test_a_predictors_pictures_have_the_pixels_of_the_original(golden):
    """Visible patches are the image itself, whatever the model's mean and deviation."""
    loaded = vit_jax.load(golden / "hf_vit_mae")
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    [result] = loaded.predict([image])
    hidden = (result.masked == 128).all(axis=2)
    assert hidden.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_array_equal(result.masked[~hidden], image[~hidden])
    np.testing.assert_array_equal(result.reconstruction[~hidden], image[~hidden])
