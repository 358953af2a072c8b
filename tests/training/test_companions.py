"""Companions: images as they were trained to see them, without a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.training.companions import Companion

OURS = Preprocessing((8, 8), 3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
THEIRS = Preprocessing((12, 16), 3, mean=(0.9, 0.5, 0.1), std=(0.2, 0.3, 0.4))


class Scale(nn.Module):
    """Its images times a parameter."""

    @nn.compact
    def __call__(self, images, *, train):
        assert not train
        return self.param("factor", nn.initializers.ones, (3,)) * images


def companion(theirs):
    return Companion(Scale(), lambda key, x: Scale().init(key, x, train=False), theirs, OURS, None, "runs/a step 5")


def normalised(pixels, size, preprocessing):
    """Flat images, which are the same at any size."""
    images = np.tile(pixels[:, None, None] / 255, (1, *size, 1))
    return ((images - preprocessing.mean) / preprocessing.std).astype(np.float32)


def test_it_sees_images_in_its_own_way():
    pixels = np.array([[0, 128, 255], [10, 20, 30]])
    ours, theirs = normalised(pixels, (8, 8), OURS), normalised(pixels, (12, 16), THEIRS)
    params = {"factor": np.ones(3, np.float32)}
    np.testing.assert_allclose(companion(THEIRS).apply(params, ours), theirs, atol=1e-5)
    np.testing.assert_array_equal(companion(OURS).apply(params, ours), ours)


def test_no_gradient_goes_through_it():
    images = normalised(np.array([[10, 20, 30]]), (8, 8), OURS)
    params = {"factor": np.ones(3, np.float32)}
    gradient = jax.grad(lambda images: companion(OURS).apply(params, images).sum())(jnp.asarray(images))
    assert not gradient.any()


def test_its_place_is_kept_by_zeros():
    shapes = companion(THEIRS).shapes()
    assert (shapes["factor"].shape, shapes["factor"].dtype) == ((3,), np.float32)
    np.testing.assert_array_equal(companion(THEIRS).zeros()["factor"], np.zeros(3))
    assert str(companion(THEIRS)) == "learning from runs/a step 5: 3 parameters, images of 12x16 px"
