"""The data that travels between the parts: a batch, an encoder's features, the training state."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.struct
import jax
import numpy as np
from flax import linen as nn

from vit_jax.errors import InputError

Params = Any
"""A nested dict of float32 arrays, as Flax makes it."""

Batch = dict[str, Any]
"""Arrays that share their leading axis B (or [devices, B / devices] once placed under `pmap`).

image: `[B, H, W, C]` uint8 off the loader; float32 and normalised after `prepare`.
label: `[B]` int32, or `[B, num_classes]` float32 in [0, 1].
index: `[B]` uint32, the example's position in the endless training stream (modulo 2**32), or its record
    number in an evaluation.
mask: `[B]` float32, 1 for an example and 0 for padding; absent where nothing is padded.
teacher_logits: `[B, num_classes]` float32, what a teacher says of the images; only while it teaches.
"""


class Task(Protocol):
    """A learning problem: a frozen dataclass in a file of `vit_jax/tasks`, which names it `create`.

    One that needs a teacher is a `TaughtTask`.
    """

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Adds the head: a module from images `[B, H, W, C]` to outputs, which has the encoder as `encoder`."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> jax.Array:
        """`[B]` float32, one loss an example; a masked row may give anything."""
        ...

    def metrics(self, outputs: Any, batch: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Name -> (sum, count) over the unmasked examples, both `[]` float32."""
        ...


@runtime_checkable
class TaughtTask(Task, Protocol):
    """A task that learns from a teacher: its batches have `teacher_logits` in training, and only then."""

    def inference(self) -> dict[str, Any]:
        """`name` and `options` of the task that a checkpoint names, whose model has the same parameters."""
        ...


def encoder_of(model: Any) -> Any:
    """The encoder within what `Task.wrap` gives."""
    return model.encoder


class Prepare(Protocol):
    """What turns a batch off the loader into one for the model, inside the compiled step."""

    def __call__(self, key: jax.Array | None, batch: Batch, axis_name: str | None = None) -> Batch:
        """Augments and normalises the images; without a key nothing random is done.

        Args:
            key: `[]` typed key, the same on all devices and in all steps.
            batch: see `Batch`.
            axis_name: the device axis if the batch is a device's slice of a larger one.
        """
        ...


Rows = dict[str, np.ndarray]
"""Name -> `[n, ...]`, one value an example of a whole dataset, in the order of its records.

label: `[n]` int32, or `[n, num_classes]` float32 in [0, 1].
prediction: `[n]` int32, the class with the highest output, the first of equals.
confidence: `[n]` float32 in [0, 1], the highest probability.
probabilities: `[n, num_classes]` float32 in [0, 1].
features: `[n, D]` float32, the encoder's pooled vectors.
"""


class Evaluator(Protocol):
    """Figures of a whole dataset: a frozen dataclass in a file of `vit_jax/evaluators`, which names it `create`.

    Its first field is `class_names`, in the order of the labels; the others are its options.
    """

    needs: ClassVar[tuple[str, ...]]
    """The rows it takes, by name."""

    uses_reference: ClassVar[bool] = False
    """Whether it learns from a reference dataset, of which it takes the same rows."""

    @property
    def metrics(self) -> Sequence[str]:
        """The names of its figures."""
        ...

    def figures(self, rows: Rows, reference: Rows) -> dict[str, float]:
        """Name -> figure.

        Args:
            rows: of the dataset; one example or more.
            reference: of the reference dataset; empty if it uses none.
        """
        ...

    def files(self, rows: Rows) -> dict[str, Any]:
        """File name -> what it shows: for a .csv a list of rows, header first; for a .png a matplotlib figure."""
        return {}

    def check(self, task: Task, *, multi_label: bool) -> None:
        """Raises InputError unless it can judge this task, with one label an image or, `multi_label`, several."""
        if multi_label:
            name = type(self).__module__.rpartition(".")[2]
            raise InputError(f"the metric {name!r} needs one label an image, and the dataset has several")


class Features(flax.struct.PyTreeNode):
    """What an encoder makes of a batch of images.

    tokens: `[B, N, D]`, prefix tokens (class, distillation, registers) first, then the patches row by row; called with
        `patch_tokens=False`, an encoder may leave out the patches, whatever `grid` says.
    pooled: `[B, D]`, one vector an image.
    grid: rows and columns of patches `(h, w)`; None if `encode` was given tokens without their grid.
    maps: `[B, h, w, C]` feature maps of a hierarchical model, finest first; None for a plain one.
    """

    tokens: jax.Array
    pooled: jax.Array
    grid: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)
    maps: tuple[jax.Array, ...] | None = None


class TrainState(flax.struct.PyTreeNode):
    """Everything a step changes, and all that a checkpoint needs to continue exactly.

    step: `[]` int32, steps done; also the position in the data.
    params: nested dict of float32 arrays.
    opt_state: Optax state of the trainable leaves only.
    ema_params: like params, or None when the moving average is off.
    key: `[2]` uint32, the run's base key (`jax.random.key_data`); it never changes.
    sums: name -> (sum, count), both `[]` float32, over the steps since the last log.
    skipped: `[]` int32, steps left out so far because something was not finite.
    skipped_in_row: `[]` int32, how many of them directly precede this state.
    nonfinite_leaf: `[]` int32, the first leaf (in tree order) with a bad gradient or update in the first step of
        that row, the number of leaves if only the loss was bad, -1 if there is no such row.
    teacher: parameters of the model that is learned from, which no step changes; None without one.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema_params: Params | None
    key: jax.Array
    sums: dict[str, tuple[jax.Array, jax.Array]]
    skipped: jax.Array
    skipped_in_row: jax.Array
    nonfinite_leaf: jax.Array
    teacher: Params | None = None
