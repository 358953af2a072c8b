"""A trained model that takes images and answers in their own pixels, by the names of its data."""

import dataclasses
import difflib
import functools
import inspect
import operator
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.build.info import fitting, from_info, initialise
from vit_jax.contracts import Forward, Result, Task
from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.inference.attention_maps import attention_of
from vit_jax.inference.images import read_images
from vit_jax.info import Info, fields_of
from vit_jax.layers.roles import Traced, trace
from vit_jax.ops.augment import normalize
from vit_jax.ops.keys import example_streams
from vit_jax.system.paths import expanded, is_folder
from vit_jax.types import Features, Fields, Params, Variables, encoder_of

if TYPE_CHECKING:
    from vit_jax.pretrained.report import Report


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A model with its parameters, task, fields and preprocessing; two are equal only if they are the same object.

    model: Linen module, images `[B, H, W, C]` to the task's outputs; the bare encoder, images to `Features`, if there
        is no task.
    params: NumPy or JAX arrays.
    variables: the model's other collections; empty for most.
    task: turns outputs into results; None of a checkpoint without a head.
    fields: of the data, with the names of the classes.
    preprocessing: from any image to uint8 `[H, W, C]`, and the mean and deviation to normalise with.
    info: what the checkpoint says of itself.
    report: what became of every leaf; None of a work directory that is loaded as it is.
    """

    model: nn.Module
    params: Params
    variables: Variables
    task: Task | None
    fields: Fields
    preprocessing: Preprocessing
    info: Info
    report: "Report | None" = None

    def predict(self, images: Any, top_k: int | None = None, **options: Any) -> Sequence[Result]:
        """Tell what the task finds in each image, in the pixels of the original.

        Args:
            images: what `preprocess` takes.
            top_k: number of classes of a classifier; like `options`, but it may also be given by its position.
            **options: of the task's `results`.

        Returns:
            One result for each image. That of a classifier is a tuple of `Prediction`, the most probable class first.

        Raises:
            InputError: something that is no image, an option that the task does not have, or a model without a task.
        """
        if top_k is not None:
            options["top_k"] = top_k
        self.check_options(options)
        inputs = read_images(images, self.preprocessing)
        outputs = jax.device_get(self.apply(self._normalised([each.pixels for each in inputs])))
        assert self.task is not None  # else `apply` raised
        mean, std = self.preprocessing.mean, self.preprocessing.std
        placements = [dataclasses.replace(each.placement, mean=mean, std=std) for each in inputs]
        return self.task.results(outputs, placements, **options)

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check the names of options of `predict`.

        Returns:
            All options that the task has: name -> type annotation.

        Raises:
            InputError: an option that the task does not have; the nearest one is named.
        """
        parameters = {} if self.task is None else inspect.signature(self.task.results).parameters
        valid = {name: each.annotation for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
        for name in options:
            if name not in valid and self.task is not None:
                near = difflib.get_close_matches(name, valid, n=1)
                nearest = f"nearest: {near[0]!r}; " if near else ""
                known = f"valid: {', '.join(valid)}" if valid else "it has none"
                raise InputError(f"the task {self._task_name!r} has no option {name!r} of results; {nearest}{known}")
        return valid

    def preprocess(self, images: Any) -> Float[Array, "b H W c"]:
        """Decode, resizes and normalises images.

        Args:
            images: one image or a sequence of them: a path, a PIL image, encoded bytes, or a uint8 array `[H, W]` or
                `[H, W, C]` of NumPy or JAX. An array `[B, H, W, C]` is B images.

        Returns:
            `[B, H, W, C]` float32, what `apply` takes.

        Raises:
            InputError: something that is no image.
        """
        return self._normalised([each.pixels for each in read_images(images, self.preprocessing)])

    def apply(self, pixel_values: Float[Array, "b H W c"]) -> Any:
        """Run the task's forward pass, compiled once for each shape.

        Args:
            pixel_values: `[B, H, W, C]` float, preprocessed.

        Returns:
            The task's outputs; of a classifier logits `[B, num_classes]` float32. What is random in them is the same
            for each image, and does not depend on the others.

        Raises:
            InputError: the model has no task, or a head that is zero throughout, which tells no class from another.
        """
        if self.task is None:
            raise InputError("the checkpoint has no classification head; valid: Classifier.features")
        if self._zero_heads:
            raise InputError(f"{self._zero_heads[0]} is zero throughout, so that all classes are alike; train it first")
        return self._apply(self.params, self.variables, pixel_values)

    def features(self, pixel_values: Float[Array, "b H W c"]) -> Features:
        """Return the encoder's tokens `[B, N, D]` and pooled vectors `[B, D]`.

        Args:
            pixel_values: `[B, H, W, C]` float, preprocessed.
        """
        return self._features(*self._encoder_state, pixel_values)

    def attention(self, images: Any) -> Float[Array, "layers b heads n n"]:
        """Return the weights of the encoder's self-attention, whichever implementation the model was trained with.

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
        return self._attention(self._encoder_state[0], images)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by number, in the order of a classifier's logits; empty without a task or classes."""
        return () if self.task is None else self.task.class_names

    @property
    def encoder(self) -> Any:
        """The model without its head."""
        return self.model if self.task is None else encoder_of(self.model)

    @property
    def _encoder_state(self) -> tuple[Params, Variables]:
        """Parameters and other variables of the encoder."""
        if self.task is None:
            return self.params, self.variables
        theirs = {name: tree["encoder"] for name, tree in self.variables.items() if "encoder" in tree}
        return self.params["encoder"], theirs

    @property
    def _task_name(self) -> str:
        return self.info["task"]["name"]

    def _normalised(self, pixels: Sequence[np.ndarray]) -> Float[Array, "b H W c"]:
        return normalize(jnp.asarray(np.stack(pixels)), self.preprocessing.mean, self.preprocessing.std)

    @functools.cached_property
    def _apply(self):
        def apply(params: Params, variables: Variables, images: Array) -> Any:
            # The same key for each image, so that a result depends on neither its place nor the other images.
            rngs = example_streams(jax.random.key(0), jnp.zeros(len(images), jnp.uint32))
            given = Forward(self.model, params, None, variables, {})
            assert self.task is not None
            with fitting():
                return self.task.forward(given, {"image": images}, rngs=rngs, train=False)[0]

        return jax.jit(apply)

    @functools.cached_property
    def _features(self):
        def features(params: Params, variables: Variables, images: Array) -> Any:
            with fitting():
                return self.encoder.apply({"params": params, **variables}, images, train=False)

        return jax.jit(features)

    @functools.cached_property
    def _attention(self):
        def attention(params: Params, images: Array) -> Any:
            with fitting():
                return attention_of(self.encoder, params, images)

        return jax.jit(attention)

    @functools.cached_property
    def _zero_heads(self) -> list[str]:
        from vit_jax.tasks.classification import zero_heads

        return zero_heads(self.params)


Classifier = Predictor
"""What a `Predictor` was called when there was one task."""


def load(
    source: str | pathlib.Path,
    *,
    step: int | str = "last",
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    num_heads: int | None = None,
    allow: Sequence[str] = (),
) -> Predictor:
    """Load a trained model.

    Args:
        source: a work directory (with `checkpoints/`, as `train.py --workdir` writes it; nothing else is needed of
            it), a folder with config.json and *.safetensors of Hugging Face transformers or timm, a Google `.npz`
            (path, `https://` or `gs://`), or a Hugging Face id, `google/vit-base-patch16-224`.
        step: of a work directory: `last`, `best` (by the run's `checkpoint.best_metric`), or the number of a step.
        revision: of a Hugging Face id: branch, tag or commit.
        image_size: one number, or height and width in pixels, to use the model at; its position embedding is resized.
            None is the model's own.
        in_channels: channels of the images; the stem is adapted. None is the model's own.
        num_heads: of an `.npz` that does not tell.
        allow: of another library's checkpoint: tensors that may be unused and parameters that may be missing or a head
            that may be zero, by name, with `*` and `?`, or by what the name starts with.

    Warns:
        UserWarning: the last checkpoint cannot be read, and the one before it is used.

    Raises:
        InputError: no such source or step, nothing in it that can be read, or leaves not accounted for.
    """
    step = step if isinstance(step, str) else operator.index(step)
    in_channels = None if in_channels is None else operator.index(in_channels)
    image_size = None if image_size is None else _plain_size(image_size)
    path = expanded(source)
    if source != "" and is_folder(path / "checkpoints"):
        foreign = {"revision": revision, "num_heads": num_heads, "allow": allow or None}
        given = [name for name, value in foreign.items() if value is not None]
        if given:
            raise InputError(f"{given[0]} is for another library's checkpoint; {path} is a work directory")
        return _load_workdir(path, step, image_size, in_channels)
    if step != "last":
        raise InputError(f"step is {step!r}, but {source} is no work directory; valid: no step")
    return _load_other(
        source,
        revision=revision,
        image_size=image_size,
        in_channels=in_channels,
        num_heads=num_heads,
        allow=allow,
    )


def _load_workdir(
    path: pathlib.Path, step: int | str, image_size: int | tuple[int, int] | None, in_channels: int | None
) -> Predictor:
    from vit_jax.training.checkpoints import reading

    saved = reading.read_model(path, step)
    if image_size is None and in_channels is None:
        return _predictor(saved.info | {"step": saved.step}, saved.params, saved.variables)
    from vit_jax.build.warm_start import opened_workdir
    from vit_jax.pretrained.report import fit

    opened = opened_workdir(path, saved, image_size=image_size, channels=in_channels, key="image_size")
    traced = _traced(opened.info)
    params, report = fit(
        opened.found,
        flax.traverse_util.flatten_dict(traced.shapes, sep="/"),
        roles=traced.roles,
        source=opened.source,
        antialias=opened.antialias,
    )
    nested = flax.traverse_util.unflatten_dict(params, sep="/")
    params = nested["encoder"] if opened.info["task"] is None else nested
    return _predictor(opened.info | {"step": saved.step}, params, saved.variables, report)


def _load_other(source: str | pathlib.Path, *, allow: Sequence[str], **options: Any) -> Predictor:
    from vit_jax.pretrained.load import load as load_checkpoint
    from vit_jax.pretrained.report import matches
    from vit_jax.tasks.classification import zero_heads

    found = load_checkpoint(source, allow=allow, **options)
    allow = [name.removeprefix(found.report.prefix) for name in allow]
    # A head that is missing was named by the caller already.
    zero = {name: found.report.loaded[name] for name in zero_heads(found.params) if name in found.report.loaded}
    for name, tensor in zero.items():
        if not (matches(name, allow) or matches(tensor, allow)):
            raise InputError(
                f"{source}: {tensor} is zero throughout, so that all classes are alike; to load it all the same, "
                f"name it: allow=({tensor!r},)"
            )
    return _predictor(found.info, found.params, {}, found.report)


def _predictor(info: Info, params: Params, variables: Variables, report: "Report | None" = None) -> Predictor:
    model, task, preprocessing = from_info(info)
    return Predictor(model, params, variables, task, fields_of(info), preprocessing, info, report)


def _traced(info: Info) -> Traced:
    """Return shape and role of each parameter that a model of this info has, an encoder's under `encoder/`."""
    model, task, preprocessing = from_info(info)
    images = jnp.zeros((1, *preprocessing.image_size, preprocessing.channels))

    def make() -> Params:
        params = initialise(model, task, jax.random.key(0), images)["params"]
        return {"encoder": params} if task is None else params

    return trace(make)


def _plain_size(size: Any) -> Any:
    """Return Python's own numbers for those of NumPy; what is no size is left as it is."""
    if isinstance(size, np.generic | np.ndarray):
        size = size.tolist()
    if not isinstance(size, list | tuple):
        return size
    return tuple(side.item() if isinstance(side, np.generic) else side for side in size)
