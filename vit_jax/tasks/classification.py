"""Image classification: one class of many, or any number of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.class_names import key_of
from vit_jax.contracts import Result, Row, Task
from vit_jax.errors import InputError
from vit_jax.layers.head import Head
from vit_jax.ops import class_weights
from vit_jax.ops.class_weights import ClassWeights
from vit_jax.types import Batch, Params, Placement, mask_of

LOSSES = ("softmax", "sigmoid")
HEADS = ("head/kernel", "head_distillation/kernel")


class ClassificationModel(nn.Module):
    """An encoder with a linear head on its pooled vector.

    The head's kernel starts at zero, so that every class begins equally likely (Dosovitskiy et al. 2020,
    arXiv:2010.11929, section 3.2, for fine-tuning; vision_transformer and big_vision do it always).

    distillation_head: a second head, `head_distillation`, on the token after the class token; the logits are the
        mean of the two (Touvron et al. 2020, arXiv:2012.12877, section 4, "joint classifiers").
    """

    encoder: nn.Module
    num_classes: int
    head_bias: float = 0.0
    distillation_head: bool = False

    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b classes"]:
        """Map images `[B, H, W, C]`, normalised, to logits `[B, num_classes]` float32."""
        return mean_logits(self.each_heads_logits(images, train=train))

    @nn.compact
    def each_heads_logits(self, images: Float[Array, "b H W c"], *, train: bool) -> list[Float[Array, "b classes"]]:
        """Return the logits of the head and, where there is one, of the distillation head."""
        # Whoever collects intermediates gets all of the last block's.
        patch_tokens = self.is_mutable_collection("intermediates")
        features = self.encoder(images, train=train, patch_tokens=patch_tokens)
        bias_init = nn.initializers.constant(self.head_bias)
        head = Head(self.num_classes, bias_init=bias_init, name="head")
        logits = head(features.pooled.astype(jnp.float32))
        if not self.distillation_head:
            return [logits]
        head = Head(self.num_classes, bias_init=bias_init, name="head_distillation")
        return [logits, head(features.tokens[:, 1].astype(jnp.float32))]


def mean_logits(logits: list[Float[Array, "b classes"]]) -> Float[Array, "b classes"]:
    """Average the logits of one or two heads."""
    return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of an image.

    label: the class's number.
    class_name: its name.
    probability: in [0, 1]; of a softmax over the classes, or of a sigmoid where the task's loss is one.
    """

    label: int
    class_name: str
    probability: float


class Classes(tuple[Prediction, ...], Result):
    """The most probable classes of an image, best first."""

    def line(self) -> str:
        """Return names and probabilities, `cat 91.2%  dog 5.0%`."""
        return "  ".join(f"{each.class_name} {each.probability:.1%}" for each in self)

    def json(self) -> dict[str, Any]:
        """Return `{"predictions": [{"label": 3, "class_name": "cat", "probability": 0.91}, ...]}`."""
        return {"predictions": [dataclasses.asdict(each) for each in self]}


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """The task of naming what an image shows.

    The data need a field of kind `label` (exactly one class) or `labels` (any number of them).

    loss_type: `softmax` (exactly one class) or `sigmoid` (each class on its own; summed over the classes, as in Beyer
        et al. 2020, arXiv:2006.07159, section 5, and big_vision).
    label_smoothing: share of the label that is spread evenly over all classes in training, in [0, 1) (Szegedy et al.
        2015, arXiv:1512.00567, section 7). The loss of an evaluation has none.
    head_bias: initial bias of the head; -log(number of classes) suits the sigmoid loss.
    distillation_head: whether the model's distillation token has a head too; the logits are the mean of both.
    class_weights: how much each class counts in training: `balanced`, numbers by class name (1 for the others), or a
        number for each class. The softmax loss is sum_i sum_c w_c t_ic (-log p_ic) / sum_i sum_c w_c y_ic over the
        examples i of the batch and the classes c, t being the label y after smoothing, as PyTorch's CrossEntropyLoss
        has it; the sigmoid loss is the mean over i of sum_c w_c times the class's own cross-entropy. `balanced` is
        w_c = n / (k n_c) for n_c of n training examples in k classes, as in scikit-learn. The loss of an evaluation
        has no weights.
    """

    loss_type: str = "softmax"
    label_smoothing: float = 0.0
    head_bias: float = 0.0
    distillation_head: bool = False
    class_weights: ClassWeights = None

    model_options: ClassVar = ("distillation_head",)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: data without classes, or a value out of its range.
        """
        if self.num_classes < 2:
            raise InputError(f"classification needs at least 2 classes, and the data has {self.num_classes}")
        if self.loss_type not in LOSSES:
            raise InputError(f"task.options.loss_type is {self.loss_type!r}; valid: {', '.join(LOSSES)}")
        if self.fields[self.target].kind == "labels" and self.loss_type != "sigmoid":
            raise InputError(
                f"the field {self.target!r} has several classes an image; valid: a task.options.loss_type of 'sigmoid'"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(
                f"task.options.label_smoothing is {self.label_smoothing}; valid: at least 0 and less than 1"
            )
        weights = class_weights.checked(self.class_weights, self.class_names, key="task.options.class_weights")
        object.__setattr__(self, "class_weights", weights)

    @property
    def target(self) -> str:
        """Name of the field that is predicted.

        Raises:
            InputError: the data has none.
        """
        for name, field in self.fields.items():
            if field.kind in ("label", "labels"):
                return name
        there = ", ".join(f"{name} ({field.kind})" for name, field in self.fields.items())
        raise InputError(f"classification needs a field of kind label or labels, and the data has {there}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.fields[self.target].names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Add the head: images to logits `[B, num_classes]`."""
        if self.distillation_head and not getattr(encoder, "distillation_token", False):
            raise InputError("task.options.distillation_head needs model.options.distillation_token")
        return ClassificationModel(encoder, self.num_classes, self.head_bias, self.distillation_head)

    def loss(self, outputs: Float[Array, "b classes"], batch: Batch) -> Float[Array, " b"]:
        """Compute the cross-entropy of each example, `[B]` float32 in nats.

        Args:
            outputs: logits `[B, num_classes]`.
            batch: the labels are `[B]` int or `[B, num_classes]` in [0, 1].
        """
        targets = self._targets(batch)
        targets = targets * (1.0 - self.label_smoothing) + self.label_smoothing / self.num_classes
        weights = self._class_weights()
        if self.loss_type == "softmax":
            if weights is None:
                return optax.softmax_cross_entropy(outputs, targets)
            return -(weights * targets * jax.nn.log_softmax(outputs)).sum(axis=-1)
        losses = optax.sigmoid_binary_cross_entropy(outputs, targets)
        return losses.sum(axis=-1) if weights is None else (weights * losses).sum(axis=-1)

    def weight(self, batch: Batch) -> Float[Array, " b"]:
        """Return what each example counts in the mean: 1, or with the softmax loss its class's weight."""
        weights = self._class_weights()
        if weights is None or self.loss_type != "softmax":
            return super().weight(batch)
        return (weights * self._targets(batch)).sum(axis=-1)

    def metrics(
        self, outputs: Float[Array, "b classes"], batch: Batch, *, train: bool = False
    ) -> dict[str, tuple[Array, Array]]:
        """Sum over the unmasked examples, and counts them: name -> (sum, count).

        `accuracy`: whether the highest logit (the first of equals) is a label's. `accuracy_top5`: likewise for the five
        highest, where there are more than five classes.
        """
        targets = self._targets(batch)
        mask = mask_of(batch)
        # The highest target counts as a label, so that blended labels have one too.
        is_label = (targets > 0) & (targets >= targets.max(axis=-1, keepdims=True))
        values = {"accuracy": _hit(outputs, is_label, 1)}
        if self.num_classes > 5:
            values["accuracy_top5"] = _hit(outputs, is_label, 5)
        count = mask.sum()
        # `where`, since a masked row may hold anything, NaN included.
        return {name: (jnp.where(mask > 0, value, 0.0).sum(), count) for name, value in values.items()}

    def evaluation(self) -> "Classification":
        """Return the task without smoothing and weights: the loss of an evaluation is the plain cross-entropy."""
        return dataclasses.replace(self, label_smoothing=0.0, class_weights=None)

    def for_data(self, count: Callable[[str], Sequence[int]]) -> "Classification":
        """Return the task with the weights of balanced classes in numbers; see `Task.for_data`."""
        if self.class_weights != class_weights.BALANCED:
            return self
        return dataclasses.replace(self, class_weights=class_weights.balanced(count(self.target)))

    def inference(self) -> "Classification":
        """Return the task without class weights, which belong to the training data."""
        return dataclasses.replace(self, class_weights=None)

    @property
    def rows(self) -> Mapping[str, Row]:
        """What evaluators may ask of each example.

        label: `[]` int32, or `[num_classes]` float32 in [0, 1].
        prediction: `[]` int32, the class with the highest output, the first of equals.
        confidence: `[]` float32 in [0, 1], the highest probability.
        probabilities: `[num_classes]` float32 in [0, 1].
        """
        return {
            "label": lambda outputs, batch: batch[self.target],
            "prediction": lambda outputs, batch: outputs.argmax(axis=-1).astype(jnp.int32),
            "confidence": lambda outputs, batch: self.probabilities(outputs).max(axis=-1),
            "probabilities": lambda outputs, batch: self.probabilities(outputs),
        }

    def results(self, outputs: Any, placements: Sequence[Placement], *, top_k: int = 5) -> list[Classes]:
        """Name the most probable classes of each image.

        Args:
            outputs: logits `[B, num_classes]`.
            placements: one for each image.
            top_k: number of classes, at most all.

        Raises:
            InputError: top_k is below 1.
        """
        if top_k < 1:
            raise InputError(f"top_k is {top_k}; valid: 1 to {self.num_classes}")
        probabilities = np.asarray(self.probabilities(outputs))
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
        return [
            Classes(Prediction(int(label), self.class_names[label], float(row[label])) for label in labels)
            for row, labels in zip(probabilities, best, strict=True)
        ]

    def probabilities(self, outputs: Float[Array, "b classes"]) -> Float[Array, "b classes"]:
        """Turn logits into each class's probability, `[B, num_classes]` float32 in [0, 1]."""
        return jax.nn.softmax(outputs) if self.loss_type == "softmax" else jax.nn.sigmoid(outputs)

    def _class_weights(self) -> Float[Array, " classes"] | None:
        """Return the weights; None where all classes count the same, or as long as nobody has counted them."""
        if self.class_weights is None or isinstance(self.class_weights, str):
            return None
        return jnp.asarray(self.class_weights, jnp.float32)

    def _targets(self, batch: Batch) -> Float[Array, "b classes"]:
        label = batch[self.target]
        if label.ndim == 1:
            return jax.nn.one_hot(label, self.num_classes)
        if label.shape[1:] != (self.num_classes,):
            raise ValueError(f"labels of shape {label.shape} do not fit {self.num_classes} classes")
        return label.astype(jnp.float32)


create = Classification


def same_names(old: Sequence[str], new: Sequence[str]) -> bool:
    """Tell whether two lists name the same classes, in any order, without repetition."""
    keys = [*map(key_of, new)]
    return len(set(keys)) == len(keys) and sorted(map(key_of, old)) == sorted(keys)


def reordered_heads(arrays: Mapping[str, np.ndarray], old: Sequence[str], new: Sequence[str]) -> dict[str, np.ndarray]:
    """Reorder the classes of the heads.

    Args:
        arrays: path -> array. Those outside the encoder have the classes as their last axis.
        old: names of the classes, as the arrays have them.
        new: the same names in the order that is wanted.
    """
    keys = [*map(key_of, old)]
    order = [keys.index(key_of(name)) for name in new]
    return {path: x if path.startswith("encoder/") else x[..., order] for path, x in arrays.items()}


def zero_heads(params: Params) -> list[str]:
    """Name the heads whose kernel is zero throughout: they tell no class from another."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return [name for name in HEADS if name in flat and not np.any(np.asarray(flat[name]))]


def _hit(logits: Float[Array, "b classes"], is_label: Array, k: int) -> Float[Array, " b"]:
    """Return 1 where a label is among the k highest logits, else 0; a NaN logit is no hit."""
    _, top = jax.lax.top_k(logits, k)  # [b, k]
    hit = jnp.take_along_axis(is_label, top, axis=-1).any(axis=-1)
    return (hit & ~jnp.isnan(logits).any(axis=-1)).astype(jnp.float32)
