"""Trained models that a run learns with: they answer inside the train step and never change."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.ops.augment import renormalize
from vit_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Companion:
    """A model that sees the images of a run as it was trained to see images.

    model: called with `(images, train=False)`.
    initialise: `(key, images) -> variables`, for the shapes of its parameters.
    preprocessing: the companion's own.
    ours: the run's preprocessing.
    params: float32 arrays, for a run that starts; None for one that continues, whose checkpoint holds them.
    about: where it came from, `runs/teacher step 500`.
    """

    model: nn.Module
    initialise: Callable[[jax.Array, Any], Any]
    preprocessing: Preprocessing
    ours: Preprocessing
    params: Params | None
    about: str

    def shapes(self) -> Params:
        """Return the parameters' shapes and types."""
        return jax.eval_shape(self.initial_params)

    def initial_params(self) -> Params:
        """Make new parameters, for their shapes and roles."""
        size = (1, *self.preprocessing.image_size, self.preprocessing.channels)
        return self.initialise(jax.random.key(0), jnp.zeros(size, jnp.float32))["params"]

    def zeros(self) -> Params:
        """Make what keeps the parameters' place in a new state."""
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.shapes())

    def apply(self, params: Params, images: Float[Array, "b H W c"]) -> Any:
        """Apply the companion to the run's images, without dropout and without a gradient.

        Args:
            params: of the companion.
            images: `[B, H, W, C]` float, augmented and normalised for the run's own model.

        Returns:
            The companion's outputs, such as logits `[B, num_classes]` float32.
        """
        theirs, ours = self.preprocessing, self.ours
        images = renormalize(images, mean=ours.mean, std=ours.std, new_mean=theirs.mean, new_std=theirs.std)
        if theirs.image_size != ours.image_size:
            shape = (len(images), *theirs.image_size, images.shape[-1])
            images = jax.image.resize(images, shape, "bilinear", antialias=True)
        outputs: Any = self.model.apply({"params": params}, images, train=False)
        return jax.lax.stop_gradient(outputs)

    def __str__(self) -> str:
        """Return one line for the log."""
        count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes()))
        height, width = self.preprocessing.image_size
        return f"learning from {self.about}: {count:,} parameters, images of {height}x{width} px"
