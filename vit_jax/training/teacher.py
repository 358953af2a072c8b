"""A trained model that a run learns from: it answers inside the train step and never changes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.ops.augment import renormalize
from vit_jax.types import Params, TrainState


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A classifier that sees the student's images as it was trained to see images.

    model: images to logits, in the order of the student's classes.
    preprocessing: the teacher's own.
    student: the student's preprocessing.
    params: float32 arrays, for a run that starts; None for one that continues, whose checkpoint holds them.
    about: where it came from, `runs/teacher step 500`.
    """

    model: nn.Module
    preprocessing: Preprocessing
    student: Preprocessing
    params: Params | None
    about: str

    def shapes(self) -> Params:
        """The parameters' shapes and types."""
        size = (1, *self.preprocessing.image_size, self.preprocessing.channels)
        images = jax.ShapeDtypeStruct(size, jnp.float32)
        variables: Any = jax.eval_shape(lambda x: self.model.init(jax.random.key(0), x, train=False), images)
        return variables["params"]

    def zeros(self) -> Params:
        """What keeps the parameters' place in a new state."""
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.shapes())

    def apply(self, state: TrainState) -> TrainState:
        """A new run's state with these parameters."""
        return state.replace(teacher=self.params)

    def logits(self, params: Params, images: Float[Array, "b H W c"]) -> Float[Array, "b classes"]:
        """What the teacher says of the student's images, without dropout and without a gradient.

        Args:
            params: of the teacher.
            images: `[B, H, W, C]` float, augmented and normalised for the student.

        Returns:
            `[B, num_classes]` float32.
        """
        theirs, ours = self.preprocessing, self.student
        images = renormalize(images, mean=ours.mean, std=ours.std, new_mean=theirs.mean, new_std=theirs.std)
        if theirs.image_size != ours.image_size:
            shape = (len(images), *theirs.image_size, images.shape[-1])
            images = jax.image.resize(images, shape, "bilinear", antialias=True)
        logits: Any = self.model.apply({"params": params}, images, train=False)
        return jax.lax.stop_gradient(logits)

    def __str__(self) -> str:
        """One line for the log."""
        count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes()))
        height, width = self.preprocessing.image_size
        return f"learning from {self.about}: {count:,} parameters, images of {height}x{width} px"
