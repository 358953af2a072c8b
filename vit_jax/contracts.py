"""What sources, transforms, tasks, evaluators and results promise one another.

A part that fulfils a contract inherits from it here, and overrides what the default does not do.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from vit_jax.errors import InputError
from vit_jax.types import Batch, Fields, Params, Placement, Variables, mask_of


@runtime_checkable
class Source(Protocol):
    """Numbered examples of a dataset.

    name: for messages, `digits train[:80%]`.
    fields: what an example holds. Shapes that differ from image to image are None.
    """

    name: str
    fields: Fields

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def __getitem__(self, record: int, /) -> dict[str, Any]:
        """Return example number `record`: a value for each field, and `path` if the image is a file.

        An image or a mask is an encoded file as bytes, or an array; boxes are in pixels of the upright original.

        Raises:
            InputError: a record that cannot be read, or a value out of its range.
        """
        ...


class Transform(Protocol):
    """A random change of one example on the host; a frozen dataclass whose fields are its options.

    A file of `vit_jax/data/augment` names it `create`.
    """

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Change a decoded example, whose values are arrays as `Field` describes them.

        Args:
            example: name -> array.
            rng: of this example alone.
        """
        ...

    def fields(self, given: Fields) -> Fields:
        """Return the fields of what it gives.

        Raises:
            InputError: a field that it cannot move, by name.
        """
        return given


class BatchTransform(Protocol):
    """A random change of a batch in the compiled step; a frozen dataclass whose fields are its options."""

    def __call__(self, key: jax.Array, batch: Batch, fields: Fields, axis_name: str | None) -> Batch:
        """Change a batch, or a device's slice of it.

        Args:
            key: `[]` typed key, the same on all devices and in all steps; an example's own key is made of it and
                `batch["index"]` (`ops.keys.example_keys`).
            batch: arrays with images `[..., H, W, C]` float32, normalised.
            fields: of the batch.
            axis_name: the device axis if the batch is a slice.
        """
        ...

    def fields(self, given: Fields) -> Fields:
        """Return the fields of what it gives; see `Transform.fields`."""
        return given


class Prepare(Protocol):
    """What turns a batch off the loader into one for the model, inside the compiled step."""

    def __call__(self, key: jax.Array | None, batch: Batch, axis_name: str | None = None) -> Batch:
        """Augment and normalises the images; without a key nothing random is done.

        Args:
            key: `[]` typed key, the same on all devices and in all steps.
            batch: see `Batch`.
            axis_name: the device axis if the batch is a device's slice of a larger one.
        """
        ...


class Forward(NamedTuple):
    """What a task's forward pass may use.

    model: what `Task.wrap` gave.
    params: of the model; in training the trainable ones among them carry the gradient.
    ema_params: their moving average, which may serve as a teacher; None where none is kept.
    variables: the model's other collections.
    companions: name -> `(images) -> outputs` of a model that never changes; it takes images as the task's own model
        sees them. Present in training only.
    step: `[]` int32, steps done; 0 outside training.
    """

    model: nn.Module
    params: Params
    ema_params: Params | None = None
    variables: Variables = {}  # noqa: RUF012 - never changed
    companions: Mapping[str, Callable[[jax.Array], Any]] = {}
    step: Any = 0

    def apply(
        self, *args: Any, train: bool, rngs: Mapping[str, jax.Array] | None = None, params: Params = None, **kwargs: Any
    ) -> tuple[Any, Variables]:
        """Apply the model.

        Args:
            *args: of the model's `__call__`, or of `method`.
            train: passed on; in training the model may change its variables.
            rngs: named streams as `Task.forward` gets them.
            params: others than the model's own, such as `ema_params`.
            **kwargs: passed on to `Module.apply`, such as `method`.

        Returns:
            The outputs, and the variables after them.
        """
        variables = {"params": self.params if params is None else params, **self.variables}
        keys = {name: key for name, key in (rngs or {}).items() if key.ndim == 0}  # the others are the task's to use
        if not train or not self.variables:
            return self.model.apply(variables, *args, train=train, rngs=keys, **kwargs), self.variables
        outputs, changed = self.model.apply(
            variables, *args, train=train, rngs=keys, mutable=list(self.variables), **kwargs
        )
        return outputs, {**self.variables, **changed}


class Result(Protocol):
    """What a model says of one image, in the pixels of the original."""

    def line(self) -> str:
        """Return one line of text."""
        ...

    def json(self) -> dict[str, Any]:
        """Name -> numbers, text, lists and dicts of them."""
        ...

    def draw(self, image: Image.Image) -> Image.Image | None:
        """Draw it on the original image; None if there is nothing to draw.

        Args:
            image: RGB, upright.
        """
        return None

    def files(self) -> dict[str, Image.Image]:
        """Return pictures by the ending of a file's name, which a program can read, `{"mask.png": ...}`."""
        return {}


Row = Callable[[Any, Batch], jax.Array]
"""`(outputs, batch) -> [B, ...]`."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A learning problem: a frozen dataclass in a file of `vit_jax/tasks`, which the file names `create`.

    Its fields besides `fields` are its options, `config.task.options`. Only `wrap`, `loss` and `results` have to be
    written.

    fields: of the data, as a batch has them.
    """

    fields: Fields = dataclasses.field(hash=False)  # a mapping has no hash

    needs_moving_average: ClassVar[bool] = False
    """Whether the forward pass uses `Forward.ema_params`."""
    model_options: ClassVar[tuple[str, ...]] = ()
    """Options that say what the model is; a run with init.source takes them from there unless they are given."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that the head tells apart, in its order; empty for a task without classes.

        A warm start keeps the head of the same task if these names are the same.
        """
        return ()

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Add the head: a module that has the encoder as `encoder`."""
        raise NotImplementedError

    def initialise(self, model: nn.Module, key: jax.Array, batch: Batch) -> Variables:
        """Make new parameters and other variables of the model that `wrap` gave.

        Args:
            model: what `wrap` gave.
            key: `[]` typed key.
            batch: prepared, of one example or more; only shapes count.
        """
        return dict(model.init({"params": key}, batch["image"], train=False))

    def forward(
        self, given: Forward, batch: Batch, *, rngs: Mapping[str, jax.Array], train: bool
    ) -> tuple[Any, Variables]:
        """Return the outputs for a batch, and the variables after it.

        The variables have to be the same on all devices; `ops.batch_axes.mean_over_devices` reduces over them.

        Args:
            given: model, parameters and what else there is.
            batch: prepared; the fields of the labels may be missing where nothing is to be learned.
            rngs: `dropout` `[]`, a key for this step and device, in training only; `mask` and `noise` `[B]`, a key
                for each example, made of the seed and its index. In an evaluation they depend on the index alone.
            train: whether this is a step of training.
        """
        return given.apply(batch["image"], train=train, rngs=rngs)

    def loss(self, outputs: Any, batch: Batch) -> jax.Array:
        """`[B]` float32, each example's loss, summed over what `weight` counts; finite for a row of zeros."""
        raise NotImplementedError

    def weight(self, batch: Batch) -> jax.Array:
        """`[B]` float32, what each example counts in the mean loss: 1, its boxes, its valid pixels."""
        return jnp.ones(mask_of(batch).shape, jnp.float32)

    def metrics(self, outputs: Any, batch: Batch, *, train: bool) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Name -> (sum, count) over the unmasked examples, both `[]` float32; the step itself adds `loss`."""
        return {}

    @property
    def rows(self) -> Mapping[str, Row]:
        """What evaluators may ask of each example; an encoder's `features` are there for every task."""
        return {}

    def results(self, outputs: Any, placements: Sequence[Placement], **options: Any) -> Sequence[Result]:
        """Return what a user is told of each image.

        Args:
            outputs: of `forward` without training, as NumPy arrays.
            placements: where each model input lies in its image.
            **options: of `Predictor.predict`, such as `top_k`.
        """
        raise NotImplementedError

    def companions(self) -> Mapping[str, dict[str, Any]]:
        """Models used in training: name -> `source`, `step` and `revision`, as `vit_jax.load` has them."""
        return {}

    def accept_companion(self, name: str, info: dict[str, Any], params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Check a companion when a run starts, and may rearrange its parameters.

        Args:
            name: key of `companions`.
            info: what its checkpoint says of itself.
            params: path -> array.

        Raises:
            InputError: it cannot be used, in one line.
        """
        return params

    def for_data(self, count: Callable[[str], Sequence[int]]) -> "Task":
        """Return the task of a run once its training data are open; itself by default.

        Args:
            count: name of a field of kind `label` or `labels` -> number of training examples of each class.
        """
        return self

    def evaluation(self) -> "Task":
        """Return the task whose loss and metrics an evaluation gives; itself by default.

        It has the same outputs, and leaves out what only helps to learn, such as label smoothing, so that figures of
        runs with other options can be compared.
        """
        return self

    def inference(self) -> "Task":
        """Return the task that a checkpoint names, whose model has the same parameters; itself by default."""
        return self


Rows = dict[str, np.ndarray]
"""Name -> `[n, ...]`, one value for each example; `index` is its record number. See `Task.rows`."""


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Figures of a whole dataset: a frozen dataclass in a file of `vit_jax/evaluators`, which the file names `create`.

    Its fields besides `fields` are its options. It is given the rows batch by batch, and keeps in its state what the
    figures need of them.

    fields: of the data.
    """

    fields: Fields = dataclasses.field(hash=False)  # a mapping has no hash

    needs: ClassVar[tuple[str, ...]] = ()
    """Rows that it takes, by name."""
    uses_reference: ClassVar[bool] = False
    """Whether it learns from a reference dataset, of which it takes the same rows."""
    keeps_all: ClassVar[bool] = False
    """Whether its state grows with the dataset."""

    @property
    def metrics(self) -> Sequence[str]:
        """Names of its figures."""
        raise NotImplementedError

    def start(self, reference: Rows) -> Any:
        """Return the state before the first batch.

        Args:
            reference: rows of the reference dataset in the order of its records; empty if it uses none.
        """
        raise NotImplementedError

    def add(self, state: Any, rows: Rows) -> Any:
        """Return the state after further examples, in any order; `rows` has no masked ones."""
        raise NotImplementedError

    def figures(self, state: Any) -> dict[str, float]:
        """Name -> figure of all examples that were added; there was one or more."""
        raise NotImplementedError

    def files(self, state: Any) -> dict[str, Any]:
        """File name -> what it shows: for a .csv a list of rows, header first; for a .png a matplotlib figure."""
        return {}

    def check(self, task: Task) -> None:
        """Raise InputError unless the task gives the rows that it needs."""
        missing = [name for name in self.needs if name not in {*task.rows, "features", "index"}]
        if missing:
            name = type(self).__module__.rpartition(".")[2]
            raise InputError(
                f"the metric {name!r} needs {', '.join(missing)} of each example, which the task "
                f"{type(task).__module__.rpartition('.')[2]!r} does not give; it gives {', '.join(task.rows) or 'none'}"
            )


@dataclasses.dataclass(frozen=True)
class WholeDataset(Evaluator):
    """An evaluator whose figures need the rows of all examples at once.

    It overrides `figures_of` and `files_of`, which get them in the order of the records.
    """

    keeps_all: ClassVar[bool] = True

    def start(self, reference: Rows) -> tuple[Rows, list[Rows]]:
        """Return the reference and no rows."""
        return reference, []

    def add(self, state: tuple[Rows, list[Rows]], rows: Rows) -> tuple[Rows, list[Rows]]:
        """Return the rows beside those before."""
        reference, parts = state
        return reference, [*parts, {name: rows[name] for name in (*self.needs, "index")}]

    def figures(self, state: tuple[Rows, list[Rows]]) -> dict[str, float]:
        """See `figures_of`."""
        return self.figures_of(in_order(state[1]), state[0])

    def files(self, state: tuple[Rows, list[Rows]]) -> dict[str, Any]:
        """See `files_of`."""
        return self.files_of(in_order(state[1]))

    def figures_of(self, rows: Rows, reference: Rows) -> dict[str, float]:
        """Name -> figure; see `Evaluator.figures`."""
        raise NotImplementedError

    def files_of(self, rows: Rows) -> dict[str, Any]:
        """See `Evaluator.files`."""
        return {}


def in_order(parts: Sequence[Rows]) -> Rows:
    """Join the rows of batches in the order of their records.

    Example:
        >>> parts = [{"index": np.array([2, 0]), "x": np.array([20, 0])}, {"index": np.array([1]), "x": np.array([10])}]
        >>> in_order(parts)["x"]
        array([ 0, 10, 20])
    """
    order = np.argsort(np.concatenate([part["index"] for part in parts]), kind="stable")
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
