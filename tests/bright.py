"""A task that marks the bright pixels of an image: small, not a classifier, and with results in the original pixels."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vit_jax.contracts import Result, Task
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.inference.predictor import Predictor
from vit_jax.types import Field


class MeanModel(nn.Module):
    """The mean of the channels, plus a parameter."""

    @nn.compact
    def __call__(self, images, *, train):
        return images.mean(axis=-1) + self.param("shift", nn.initializers.zeros, ())


@dataclasses.dataclass(frozen=True)
class Bright(Result):
    mask: np.ndarray
    noise: float

    def line(self):
        return f"{self.mask.mean():.0%} is bright ☀"

    def json(self):
        return {"share": float(self.mask.mean())}

    def draw(self, image):
        return Image.composite(Image.new("RGB", image.size, "red"), image, Image.fromarray(self.mask))

    def files(self):
        return {"mask.png": Image.fromarray(self.mask.astype(np.uint8))}


@dataclasses.dataclass(frozen=True)
class BrightTask(Task):
    def wrap(self, encoder):
        return MeanModel()

    def forward(self, given, batch, *, rngs, train):
        outputs, variables = super().forward(given, batch, rngs=rngs, train=train)
        return {"mean": outputs, "noise": jax.vmap(jax.random.normal)(rngs["noise"])}, variables

    def loss(self, outputs, batch):
        return jnp.zeros(len(outputs["mean"]))

    def results(self, outputs, placements, *, threshold: float = 0.0):
        assert isinstance(outputs["mean"], np.ndarray)
        results = []
        for mean, noise, placement in zip(outputs["mean"], outputs["noise"], placements, strict=True):
            rows, columns = np.indices(placement.image_size)
            points = placement.to_input(np.stack([columns + 0.5, rows + 0.5], axis=-1)).astype(int)
            inside = ((points >= 0) & (points < placement.input_size[::-1])).all(axis=-1)
            x, y = (np.clip(points[..., i], 0, placement.input_size[1 - i] - 1) for i in (0, 1))
            results.append(Bright(inside & (mean[y, x] > threshold), float(noise)))
        return results


def bright_predictor(**preprocessing) -> Predictor:
    preprocessing = Preprocessing(**{"image_size": (8, 8), "interpolation": "box"} | preprocessing)
    task = BrightTask({"image": Field("image", (8, 8, 3), "uint8")})
    info = {"model": {"name": "mean"}, "task": {"name": "bright", "options": {}}}
    params = {"shift": np.zeros((), np.float32)}
    return Predictor(task.wrap(None), params, {}, task, task.fields, preprocessing, info)
