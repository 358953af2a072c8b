"""Image classification, learned from labels and from a teacher.

Source: Hinton et al. 2015 (arXiv:1503.02531); Touvron et al. 2020, "Training data-efficient image transformers &
distillation through attention" (arXiv:2012.12877), section 4.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.tasks.classification import Classification, ClassificationModel, mean_logits
from vit_jax.types import Batch

KINDS = ("hard", "soft")


class HeadLogits(flax.struct.PyTreeNode):
    """What the model says in training.

    label: `[B, num_classes]` float32, of the head that learns the labels.
    teacher: `[B, num_classes]` float32, of the head that learns from the teacher; of a model of one head, the same.
    """

    label: jax.Array
    teacher: jax.Array


class DistillationModel(ClassificationModel):
    """A `ClassificationModel`, the same in its parameters and in evaluation, that keeps its heads apart in training."""

    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> HeadLogits | Float[Array, "b classes"]:
        """Images `[B, H, W, C]`, normalised, to each head's logits or, in evaluation, `[B, num_classes]` float32."""
        logits = self.each_heads_logits(images, train=train)
        return HeadLogits(label=logits[0], teacher=logits[-1]) if train else mean_logits(logits)


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """The task of naming what an image shows as the labels, and a teacher, do.

    The loss of an example is (1 - weight) times that of `Classification` on the label head, plus weight times the
    teacher's: for `hard` the cross-entropy with the teacher's most probable class (equation 3 of Touvron et al.
    2020, with a weight of 1/2), for `soft` the Kullback-Leibler divergence of the student's softmax from the teacher's,
    both at a temperature, times the temperature squared (equation 2).

    kind: `hard` or `soft`.
    temperature: of the softmax of `soft`, above 0; `hard` has none, whatever this is.
    weight: of the teacher, in [0, 1].
    distillation_head: True for a model with a distillation token, whose head then learns from the teacher and the
        other one from the labels; False for any other, whose single head learns from both.

    The default temperature and weight are those of facebookresearch/deit's main.py; the paper has 3 and 0.1 for `soft`.
    That code's losses.py also divides the divergence by the number of classes, which neither the paper nor this does.
    The teacher's distribution is the target, as there and in Hinton et al. 2015; the paper writes the divergence's
    arguments the other way round. The teacher's choice is not smoothed, as in the paper.
    """

    kind: str = "hard"
    temperature: float = 1.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            InputError: a value out of its range.
        """
        super().__post_init__()
        if self.loss_type != "softmax":
            raise InputError(f"task.loss_type is {self.loss_type!r}; valid for distillation: softmax")
        if self.kind not in KINDS:
            raise InputError(f"task.kind is {self.kind!r}; valid: {', '.join(KINDS)}")
        if not 0.0 < self.temperature < float("inf"):
            raise InputError(f"task.temperature is {self.temperature}; valid: above 0")
        if not 0.0 <= self.weight <= 1.0:
            raise InputError(f"task.weight is {self.weight}; valid: 0 to 1")

    def inference(self) -> dict[str, Any]:
        """The task that the trained model is for, which knows no teacher."""
        fields = [field.name for field in dataclasses.fields(Classification) if field.name != "num_classes"]
        return {"name": "classification", "options": {name: getattr(self, name) for name in fields}}

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """The encoder with its head or heads: images to `HeadLogits` in training, else to logits."""
        if getattr(encoder, "distillation_token", False) and not self.distillation_head:
            raise InputError(
                "model.distillation_token is True, but nothing would learn from it; valid: task.distillation_head of "
                "True, or a model without the token"
            )
        model: Any = super().wrap(encoder)
        return DistillationModel(model.encoder, model.num_classes, model.head_bias, model.distillation_head)

    def loss(self, outputs: HeadLogits | Float[Array, "b classes"], batch: Batch) -> Float[Array, " b"]:
        """Each example's loss, `[B]` float32 in nats.

        Args:
            outputs: of training, or logits `[B, num_classes]`, whose loss is that of `Classification`.
            batch: `label` as there, and in training `teacher_logits` `[B, num_classes]`.
        """
        if not isinstance(outputs, HeadLogits):
            return super().loss(outputs, batch)
        labels = super().loss(outputs.label, batch)
        return (1.0 - self.weight) * labels + self.weight * self._teachers_loss(outputs.teacher, batch)

    def metrics(self, outputs: HeadLogits | Float[Array, "b classes"], batch: Batch) -> dict[str, tuple[Array, Array]]:
        """Those of `Classification`, of the heads' mean; in training `loss` is what is trained on."""
        if not isinstance(outputs, HeadLogits):
            return super().metrics(outputs, batch)
        metrics = super().metrics(mean_logits([outputs.label, outputs.teacher]), batch)
        mask = batch.get("mask", jnp.ones(outputs.label.shape[0], jnp.float32))
        return metrics | {"loss": (jnp.where(mask > 0, self.loss(outputs, batch), 0.0).sum(), mask.sum())}

    def _teachers_loss(self, logits: Float[Array, "b classes"], batch: Batch) -> Float[Array, " b"]:
        teacher = batch["teacher_logits"]
        if self.kind == "hard":
            return optax.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(axis=-1))
        log_student, log_teacher = (jax.nn.log_softmax(x / self.temperature) for x in (logits, teacher))
        return self.temperature**2 * optax.losses.kl_divergence_with_log_targets(log_student, log_teacher)


create = Distillation
"""What `build` looks for in a task's file."""
