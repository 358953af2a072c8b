"""A trained model that takes images and gives names."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.build import experiment as build
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.inference.attention_maps import attention_of
from vit_jax.pretrained import load as pretrained
from vit_jax.pretrained.report import Report, matches, zero_heads
from vit_jax.training.checkpoints import reading
from vit_jax.types import Features, Params, encoder_of


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of an image.

    label: the class's number.
    class_name: its name.
    probability: in [0, 1]; of a softmax over the classes, or of a sigmoid where the task is one.
    """

    label: int
    class_name: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with its parameters, class names and preprocessing.

    model: Linen module, images `[B, H, W, C]` to logits `[B, num_classes]`; the bare encoder, images to `Features`,
        if a foreign checkpoint has no head.
    params: NumPy or JAX arrays.
    task: loss and metrics; None without a head.
    class_names: in the order of the logits; empty without a head.
    preprocessing: from any image to uint8 `[H, W, C]`, and the mean and deviation to normalise with.
    info: what the checkpoint says of itself.
    report: what became of every leaf of a foreign checkpoint; None of a work directory, which is loaded whole.
    """

    model: nn.Module
    params: Params
    task: Any
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    info: dict[str, Any]
    report: Report | None = None

    def preprocess(self, images: Any) -> Float[Array, "b H W c"]:
        """Decodes, resizes and normalises.

        Args:
            images: one image or a sequence of them: a path, a PIL image, or a uint8 array `[H, W]` or `[H, W, C]`.
                An array `[B, H, W, C]` is B images.

        Returns:
            `[B, H, W, C]` float32, what `apply` takes.

        Raises:
            InputError: something that is no image.
        """
        many = isinstance(images, Sequence) and not isinstance(images, str | bytes)
        many = many or (isinstance(images, np.ndarray) and images.ndim == 4)
        if many and not len(images):
            raise InputError("no images were given")
        pixels = np.stack([self.preprocessing(image) for image in (images if many else [images])])
        return build.eval_prepare(self.preprocessing)(None, {"image": jnp.asarray(pixels)})["image"]

    def apply(self, pixel_values: Float[Array, "b H W c"]) -> Float[Array, "b classes"]:
        """Logits `[B, num_classes]` float32 of preprocessed images `[B, H, W, C]` float; compiled once a shape.

        Raises:
            InputError: the model has no head, or one that is zero throughout, which tells no class from another.
        """
        if self.task is None:
            raise InputError("the checkpoint has no classification head; valid: Classifier.features")
        if self._zero_heads:
            raise InputError(f"{self._zero_heads[0]} is zero throughout, so that all classes are alike; train it first")
        return self._apply(self.params, pixel_values)

    def features(self, pixel_values: Float[Array, "b H W c"]) -> Features:
        """The encoder's tokens `[B, N, D]` and pooled vectors `[B, D]` of preprocessed images `[B, H, W, C]` float."""
        return self._features(self._encoder_params, pixel_values)

    def attention(self, images: Any) -> Float[Array, "layers b heads n n"]:
        """The weights of the encoder's self-attention, whatever implementation of it the model was trained with.

        Args:
            images: what `preprocess` takes, or what it gives: preprocessed images `[B, H, W, C]` float.

        Returns:
            `[layers, B, heads, N, N]` float32. A row is what one token takes from each and sums to 1. Tokens are those
            of `features`: class token and other prefix tokens, then the patches row by row. An image takes
            layers * heads * N * N * 4 bytes, 22 MB for B/16 at 224 px and 192 MB at 384 px.

        Raises:
            InputError: something that is no image, or a model without self-attention between all its tokens.
        """
        preprocessed = isinstance(images, np.ndarray | jax.Array) and jnp.issubdtype(images.dtype, jnp.floating)
        images = images if preprocessed else self.preprocess(images)
        if images.ndim != 4:
            raise InputError(f"preprocessed images have the shape [B, H, W, C], not {images.shape}")
        return self._attention(self._encoder_params, images)

    def predict(self, images: Any, top_k: int = 5) -> list[list[Prediction]]:
        """The most probable classes of each image, best first.

        Args:
            images: what `preprocess` takes.
            top_k: how many classes, at most all.

        Raises:
            InputError: something that is no image, or top_k below 1.
        """
        if top_k < 1:
            raise InputError(f"top_k is {top_k}; valid: 1 to {len(self.class_names)}")
        if not self.class_names:
            raise InputError("the checkpoint has no classification head; valid: Classifier.features")
        logits = self.apply(self.preprocess(images))
        probabilities = np.asarray(self.task.probabilities(logits))
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
        return [
            [Prediction(int(label), self.class_names[label], float(row[label])) for label in labels]
            for row, labels in zip(probabilities, best, strict=True)
        ]

    @property
    def encoder(self) -> Any:
        """The model without its head."""
        return self.model if self.task is None else encoder_of(self.model)

    @property
    def _encoder_params(self) -> Params:
        return self.params if self.task is None else self.params["encoder"]

    @functools.cached_property
    def _apply(self):
        return jax.jit(lambda params, x: self.model.apply({"params": params}, x, train=False))

    @functools.cached_property
    def _features(self):
        return jax.jit(lambda params, x: self.encoder.apply({"params": params}, x, train=False))

    @functools.cached_property
    def _attention(self):
        return jax.jit(lambda params, x: attention_of(self.encoder, params, x))

    @functools.cached_property
    def _zero_heads(self) -> list[str]:
        return zero_heads(self.params)


def load(
    source: str | pathlib.Path,
    *,
    step: int | str = "last",
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    num_heads: int | None = None,
    allow: Sequence[str] = (),
) -> Classifier:
    """Loads a trained model.

    Args:
        source: a work directory (with `checkpoints/`, as `train.py --workdir` writes it; nothing else is needed of
            it), a folder with config.json and *.safetensors of Hugging Face transformers or timm, a Google `.npz`
            (path, `https://` or `gs://`), or a Hugging Face id, `google/vit-base-patch16-224`.
        step: of a work directory: `last`, `best` (by the run's `checkpoint.best_metric`), or a step's number.
        revision: of a Hugging Face id: branch, tag or commit.
        image_size: of a foreign checkpoint: one number, or height and width in pixels, to use the model at; its
            position embedding is resized.
        in_channels: of a foreign checkpoint: image channels; the stem is adapted.
        num_heads: of an `.npz` that does not tell.
        allow: of a foreign checkpoint: tensors that may be unused and parameters that may be missing or a head that
            may be zero, by name, with `*` and `?`, or by what the name starts with.

    Warns:
        UserWarning: the last checkpoint cannot be read, and the one before it is used.

    Raises:
        InputError: no such source or step, nothing in it that can be read, or leaves not accounted for.
    """
    path = pathlib.Path(source).expanduser()
    if source != "" and (path / "checkpoints").is_dir():
        foreign = {"revision": revision, "image_size": image_size, "in_channels": in_channels, "num_heads": num_heads}
        given = [name for name, value in (foreign | {"allow": allow or None}).items() if value is not None]
        if given:
            raise InputError(f"{given[0]} is for foreign checkpoints; {path} is a work directory, loaded as it is")
        return _load_workdir(path, step)
    found = pretrained.load(
        source,
        revision=revision,
        image_size=image_size,
        in_channels=in_channels,
        num_heads=num_heads,
        allow=allow,
    )
    # A head that is missing was named by the caller already.
    zero = {name: found.report.loaded[name] for name in zero_heads(found.params) if name in found.report.loaded}
    for name, tensor in zero.items():
        if not (matches(name, allow) or matches(tensor, allow)):
            raise InputError(
                f"{source}: {tensor} is zero throughout, so that all classes are alike; to load it all the same, "
                f"name it: allow=({tensor!r},)"
            )
    model, task, preprocessing = build.from_info(found.info)
    names = tuple(found.info["class_names"])
    return Classifier(model, found.params, task, names, preprocessing, found.info, found.report)


def _load_workdir(workdir: pathlib.Path, step: int | str) -> Classifier:
    saved = reading.read_model(workdir, step)
    model, task, preprocessing = build.from_info(saved.info)
    names, info = tuple(saved.info["class_names"]), saved.info | {"step": saved.step}
    return Classifier(model, saved.params, task, names, preprocessing, info)
