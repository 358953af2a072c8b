"""Image classification: one label of many, or several at once."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.types import Batch

LOSSES = ("softmax", "sigmoid")


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
        """Images `[B, H, W, C]`, normalised, to logits `[B, num_classes]` float32."""
        return mean_logits(self.each_heads_logits(images, train=train))

    @nn.compact
    def each_heads_logits(self, images: Float[Array, "b H W c"], *, train: bool) -> list[Float[Array, "b classes"]]:
        """The logits of the head and, where there is one, of the distillation head."""
        # Whoever collects intermediates gets all of the last block's.
        patch_tokens = self.is_mutable_collection("intermediates")
        features = self.encoder(images, train=train, patch_tokens=patch_tokens)
        options = {
            "kernel_init": nn.initializers.zeros,
            "bias_init": nn.initializers.constant(self.head_bias),
        }
        logits = nn.Dense(self.num_classes, **options, name="head")(features.pooled.astype(jnp.float32))
        if not self.distillation_head:
            return [logits]
        head = nn.Dense(self.num_classes, **options, name="head_distillation")
        return [logits, head(features.tokens[:, 1].astype(jnp.float32))]


def mean_logits(logits: list[Float[Array, "b classes"]]) -> Float[Array, "b classes"]:
    """What one or two heads say together: the mean."""
    return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


@dataclasses.dataclass(frozen=True)
class Classification:
    """The task of naming what an image shows.

    num_classes: two or more.
    loss_type: `softmax` (exactly one label) or `sigmoid` (each class on its own; summed over the classes, as
        in Beyer et al. 2020, arXiv:2006.07159, section 5, and big_vision).
    label_smoothing: in [0, 1); the share of the label spread evenly over all classes (Szegedy et al. 2015,
        arXiv:1512.00567, section 7).
    head_bias: where the head's bias starts; -log(num_classes) suits the sigmoid loss.
    distillation_head: whether the model's distillation token has a head too; the logits are the mean of both.
    """

    num_classes: int
    loss_type: str = "softmax"
    label_smoothing: float = 0.0
    head_bias: float = 0.0
    distillation_head: bool = False

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            InputError: a value out of its range.
        """
        if self.num_classes < 2:
            raise InputError(f"classification needs at least 2 classes, not {self.num_classes}")
        if self.loss_type not in LOSSES:
            raise InputError(f"task.loss_type is {self.loss_type!r}; valid: {', '.join(LOSSES)}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"task.label_smoothing is {self.label_smoothing}; valid: at least 0 and less than 1")

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """The encoder with this task's head: images to logits `[B, num_classes]`."""
        if self.distillation_head and not getattr(encoder, "distillation_token", False):
            raise InputError("task.distillation_head needs model.distillation_token")
        return ClassificationModel(encoder, self.num_classes, self.head_bias, self.distillation_head)

    def loss(self, outputs: Float[Array, "b classes"], batch: Batch) -> Float[Array, " b"]:
        """Cross-entropy of each example, `[B]` float32 in nats.

        Args:
            outputs: logits `[B, num_classes]`.
            batch: `label` is `[B]` int or `[B, num_classes]` in [0, 1].
        """
        targets = self._targets(batch["label"])
        targets = targets * (1.0 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if self.loss_type == "softmax":
            return optax.softmax_cross_entropy(outputs, targets)
        return optax.sigmoid_binary_cross_entropy(outputs, targets).sum(axis=-1)

    def metrics(self, outputs: Float[Array, "b classes"], batch: Batch) -> dict[str, tuple[Array, Array]]:
        """Sums over the batch's unmasked examples, and how many there are: name -> (sum, count).

        `loss` as above; `accuracy`, whether the highest logit (the first of equals) is a label's; and
        `accuracy_top5` where there are more than five classes.
        """
        targets = self._targets(batch["label"])
        mask = batch.get("mask", jnp.ones(outputs.shape[0], jnp.float32))
        # The highest target counts as a label, so that blended labels have one too.
        is_label = (targets > 0) & (targets >= targets.max(axis=-1, keepdims=True))
        values = {"loss": self.loss(outputs, batch), "accuracy": _hit(outputs, is_label, 1)}
        if self.num_classes > 5:
            values["accuracy_top5"] = _hit(outputs, is_label, 5)
        count = mask.sum()
        # `where`, since a masked row may hold anything, NaN included.
        return {name: (jnp.where(mask > 0, value, 0.0).sum(), count) for name, value in values.items()}

    def probabilities(self, outputs: Float[Array, "b classes"]) -> Float[Array, "b classes"]:
        """Each class's probability, `[B, num_classes]` float32 in [0, 1], by the task's loss."""
        return jax.nn.softmax(outputs) if self.loss_type == "softmax" else jax.nn.sigmoid(outputs)

    def _targets(self, label: Array) -> Float[Array, "b classes"]:
        if label.ndim == 1:
            return jax.nn.one_hot(label, self.num_classes)
        if label.shape[1:] != (self.num_classes,):
            raise ValueError(f"labels of shape {label.shape} do not fit {self.num_classes} classes")
        return label.astype(jnp.float32)


create = Classification
"""What `build` looks for in a task's file."""


def _hit(logits: Float[Array, "b classes"], is_label: Array, k: int) -> Float[Array, " b"]:
    """1 where a label is among the k highest logits, else 0; a NaN logit is no hit."""
    _, top = jax.lax.top_k(logits, k)  # [b, k]
    hit = jnp.take_along_axis(is_label, top, axis=-1).any(axis=-1)
    return (hit & ~jnp.isnan(logits).any(axis=-1)).astype(jnp.float32)
