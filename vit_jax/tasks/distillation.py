"""Image classification, learned from labels and from a teacher.

Source: Hinton et al. 2015 (arXiv:1503.02531); Touvron et al. 2020, "Training data-efficient image transformers &
distillation through attention" (arXiv:2012.12877), section 4.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.class_names import key_of, written
from vit_jax.contracts import Forward
from vit_jax.errors import InputError
from vit_jax.info import Info, class_names_of, fields_of
from vit_jax.tasks.classification import (
    HEADS,
    Classification,
    ClassificationModel,
    mean_logits,
    reordered_heads,
    same_names,
)
from vit_jax.types import Batch, Variables

KINDS = ("hard", "soft")
TEACHER_CLASSES = ("names", "numbers")


class HeadLogits(flax.struct.PyTreeNode):
    """What the model and its teacher say in training.

    label: `[B, num_classes]` float32, of the head that learns the labels.
    distilled: `[B, num_classes]` float32, of the head that learns from the teacher; of a model of one head, the same.
    teacher: `[B, num_classes]` float32, the teacher's logits; None before the teacher was asked.
    """

    label: jax.Array
    distilled: jax.Array
    teacher: jax.Array | None = None


class DistillationModel(ClassificationModel):
    """A `ClassificationModel`, the same in its parameters and in evaluation, that keeps its heads apart in training."""

    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> HeadLogits | Float[Array, "b classes"]:
        """Map images `[B, H, W, C]`, normalised, to each head's logits or, in evaluation, to their mean."""
        logits = self.each_heads_logits(images, train=train)
        return HeadLogits(label=logits[0], distilled=logits[-1]) if train else mean_logits(logits)


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """The task of naming what an image shows as the labels, and a teacher, do.

    The loss of an example is (1 - weight) times that of `Classification` on the label head, plus weight times the
    teacher's: for `hard` the cross-entropy with the teacher's most probable class (equation 3 of Touvron et al.
    2020, with a weight of 1/2), for `soft` the Kullback-Leibler divergence of the student's softmax from the teacher's,
    both at a temperature, times the temperature squared (equation 2).

    With class weights the teacher's part counts as much as the label's, the example's weight.

    The default temperature and teacher_weight are those of facebookresearch/deit's main.py; the paper has 3 and 0.1 for
    `soft`. That code's losses.py also divides the divergence by the number of classes, which neither the paper nor this
    does. The teacher's distribution is the target, as there and in Hinton et al. 2015; the paper writes the
    divergence's arguments the other way round. The teacher's choice is not smoothed, as in the paper.

    loss_type: `softmax`.
    distillation_head: True for a model with a distillation token, whose head then learns from the teacher and the
        other one from the labels; False for any other, whose single head learns from both.
    teacher: the model to learn from: what `vit_jax.load` takes. A run that continues has it in its checkpoint.
    teacher_step: of a teacher that is a work directory: `last`, `best` or a step.
    teacher_revision: of a teacher that is a Hugging Face id: branch, tag or commit.
    teacher_classes: whether the teacher's classes are matched to the data's by their `names`, in any order, or by their
        `numbers`.
    kind: `hard` (learn the teacher's most probable class) or `soft` (learn its probabilities).
    temperature: of the softmax of `soft`, above 0; `hard` has none.
    teacher_weight: share of the teacher in the loss, in [0, 1].
    """

    teacher: str | None = None
    teacher_step: str = "last"
    teacher_revision: str | None = None
    teacher_classes: str = "names"
    kind: str = "hard"
    temperature: float = 1.0
    teacher_weight: float = 0.5

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        super().__post_init__()
        if self.loss_type != "softmax":
            raise InputError(f"task.options.loss_type is {self.loss_type!r}; valid for distillation: softmax")
        if self.kind not in KINDS:
            raise InputError(f"task.options.kind is {self.kind!r}; valid: {', '.join(KINDS)}")
        if self.teacher_classes not in TEACHER_CLASSES:
            raise InputError(
                f"task.options.teacher_classes is {self.teacher_classes!r}; valid: {', '.join(TEACHER_CLASSES)}"
            )
        if not 0.0 < self.temperature < float("inf"):
            raise InputError(f"task.options.temperature is {self.temperature}; valid: above 0")
        if not 0.0 <= self.teacher_weight <= 1.0:
            raise InputError(f"task.options.teacher_weight is {self.teacher_weight}; valid: 0 to 1")

    def companions(self) -> Mapping[str, dict[str, Any]]:
        """Return the teacher.

        Raises:
            InputError: there is none.
        """
        if self.teacher is None:
            raise InputError(
                "task.options.teacher is not set; valid for distillation: a work directory, a folder, an .npz or a "
                "hub id"
            )
        return {"teacher": {"source": self.teacher, "step": self.teacher_step, "revision": self.teacher_revision}}

    def accept_companion(self, name: str, info: Info, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Check that the teacher is a classifier of the data's classes, and puts its heads in their order.

        Raises:
            InputError: it is none, or one of other classes, or its head is zero throughout.
        """
        task, theirs, ours = info["task"], class_names_of(fields_of(info)), self.class_names
        key = f"task.options.{name} {self.teacher}"
        if task is None or task["name"] != "classification" or task["options"].get("loss_type", "softmax") != "softmax":
            what = "has no classification head" if task is None else f"was trained for {task['name']} without a softmax"
            raise InputError(f"{key} {what}; valid: a model that names one class of many")
        if self.teacher_classes == "numbers":
            if len(theirs) != len(ours):
                raise InputError(f"{key} has {len(theirs)} classes, and the data {len(ours)}")
        elif not same_names(theirs, ours):
            keys = {*map(key_of, ours)}
            other = next((name for name in theirs if key_of(name) not in keys), None)
            there = f"{len(theirs)} classes, and the data {len(ours)}" if other is None else f"a class {other!r}"
            there += "" if other is None else written(other, ours)
            raise InputError(
                f"{key} has {there}; valid: a teacher of the data's classes, {ours[0]!r} and so on, or "
                "task.options.teacher_classes 'numbers' if it only calls them otherwise"
            )
        else:
            params = reordered_heads(params, theirs, ours)
        for head in HEADS:
            if head in params and not params[head].any():
                raise InputError(f"{key}: {head} is zero throughout, so that it tells no class apart")
        return params

    def inference(self) -> Classification:
        """Return the task of the trained model, which knows no teacher."""
        names = [field.name for field in dataclasses.fields(Classification)]
        options: dict[str, Any] = {name: getattr(self, name) for name in names} | {"class_weights": None}
        return Classification(**options)

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Add the head or heads: images to `HeadLogits` in training, else to logits."""
        if getattr(encoder, "distillation_token", False) and not self.distillation_head:
            raise InputError(
                "model.options.distillation_token is True, but nothing would learn from it; valid: "
                "task.options.distillation_head of True, or a model without the token"
            )
        model: Any = super().wrap(encoder)
        return DistillationModel(model.encoder, model.num_classes, model.head_bias, model.distillation_head)

    def forward(
        self, given: Forward, batch: Batch, *, rngs: Mapping[str, jax.Array], train: bool
    ) -> tuple[Any, Variables]:
        """Apply the model, and in training the teacher to the same augmented images."""
        outputs, variables = given.apply(batch["image"], train=train, rngs=rngs)
        if train:
            outputs = outputs.replace(teacher=given.companions["teacher"](batch["image"]))
        return outputs, variables

    def loss(self, outputs: HeadLogits | Float[Array, "b classes"], batch: Batch) -> Float[Array, " b"]:
        """Compute each example's loss, `[B]` float32 in nats; for outputs of an evaluation that of the labels."""
        if not isinstance(outputs, HeadLogits):
            return super().loss(outputs, batch)
        labels = super().loss(outputs.label, batch)
        teachers = self.weight(batch) * self._teachers_loss(outputs)
        return (1.0 - self.teacher_weight) * labels + self.teacher_weight * teachers

    def metrics(
        self, outputs: HeadLogits | Float[Array, "b classes"], batch: Batch, *, train: bool = False
    ) -> dict[str, tuple[Array, Array]]:
        """Return those of `Classification`, of the heads' mean."""
        if isinstance(outputs, HeadLogits):
            outputs = mean_logits([outputs.label, outputs.distilled])
        return super().metrics(outputs, batch, train=train)

    def _teachers_loss(self, outputs: HeadLogits) -> Float[Array, " b"]:
        teacher, student = outputs.teacher, outputs.distilled
        assert teacher is not None
        if self.kind == "hard":
            return optax.softmax_cross_entropy_with_integer_labels(student, teacher.argmax(axis=-1))
        log_student, log_teacher = (jax.nn.log_softmax(x / self.temperature) for x in (student, teacher))
        return self.temperature**2 * optax.losses.kl_divergence_with_log_targets(log_student, log_teacher)


create = Distillation
