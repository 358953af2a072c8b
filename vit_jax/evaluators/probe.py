"""A linear classifier on features in closed form, from a few examples of each class or from all."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from vit_jax.contracts import Rows, Task, WholeDataset
from vit_jax.errors import InputError
from vit_jax.evaluators.labels import check_one_label
from vit_jax.info import class_names_of

_BIAS = 100.0
"""The constant feature; large, so that its weight is hardly held back."""


@dataclasses.dataclass(frozen=True)
class Probe(WholeDataset):
    """Computes `probe_<n>shot`, the accuracy of ridge regression on n reference examples of each class.

    `probe_all` is that on all reference examples.

    The targets are 1 for the class and -1 for the others, and the highest output is the prediction. A figure of few
    shots is the mean over several choices of them: choice i, by the raw bits of NumPy's Philox generator of seed i,
    nests the fewer shots in the more and depends on nothing but the reference dataset's size, order and labels. A
    class with fewer examples gives all it has.

    shots: numbers of examples of each class, 1 or more; 0 is all.
    l2: the weight of the squared weights beside the sum of squared errors, above 0. It is fixed beforehand: nothing is
        chosen by the examples that are judged.
    num_seeds: number of choices of the shots, 1 or more.

    Source: `evaluators/fewshot_lsr.py` of google-research/big_vision and the values of its
    `configs/common_fewshot.py`; `probe_all` is not in it.
    """

    shots: Sequence[int] = (1, 5, 10, 25, 0)
    l2: float = 1024.0
    num_seeds: int = 3

    needs: ClassVar = ("label", "features")
    uses_reference: ClassVar = True

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if not self.shots or any(shots < 0 for shots in self.shots):
            raise InputError(
                f"evaluation.metrics.probe.shots is {tuple(self.shots)}; valid: numbers of examples, 0 for all"
            )
        if not self.l2 > 0:
            raise InputError(f"evaluation.metrics.probe.l2 is {self.l2}; valid: above 0")
        if self.num_seeds < 1:
            raise InputError(f"evaluation.metrics.probe.num_seeds is {self.num_seeds}; valid: 1 or more")

    @property
    def metrics(self) -> Sequence[str]:
        """Names them after each number of shots."""
        return [_name(shots) for shots in self.shots]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return class_names_of(self.fields)

    def check(self, task: Task) -> None:
        """Check that an image has one label, and that the task gives the rows.

        Raises:
            InputError: it does not.
        """
        super().check(task)
        check_one_label("probe", self.fields)

    def figures_of(self, rows: Rows, reference: Rows) -> dict[str, float]:
        """Return the mean accuracy over the choices of shots."""
        labels = reference["label"]
        figures = {}
        for shots in self.shots:
            if shots:
                choices = [choose_shots(labels, shots, seed=seed) for seed in range(self.num_seeds)]
            else:
                choices = [np.arange(len(labels))]
            figures[_name(shots)] = float(np.mean([self._accuracy(rows, reference, chosen) for chosen in choices]))
        return figures

    def _accuracy(self, rows: Rows, reference: Rows, chosen: Int[np.ndarray, " n"]) -> float:
        probe = fit(
            reference["features"][chosen], reference["label"][chosen], num_classes=len(self.class_names), l2=self.l2
        )
        return float(np.mean(probe.outputs(rows["features"]).argmax(axis=-1) == rows["label"]))


create = Probe


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Standardises features and maps them to classes.

    mean, scale: `[D]`, subtracted and divided by.
    weights: `[D + 1, num_classes]`, the last row for the constant feature.
    """

    mean: Float[np.ndarray, " dim"]
    scale: Float[np.ndarray, " dim"]
    weights: Float[np.ndarray, "dim_and_bias classes"]

    def outputs(self, features: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n classes"]:
        """Return `[n, num_classes]` float64, 1 where it is sure of a class and -1 where it is sure of another."""
        return _inputs(features, self.mean, self.scale) @ self.weights


def fit(
    features: Float[np.ndarray, "n dim"], labels: Int[np.ndarray, " n"], *, num_classes: int, l2: float
) -> LinearProbe:
    """Solve (X'X + l2 I) W = X'Y in float64, X being the standardised features with a constant one."""
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64) + 1e-5
    x = _inputs(features, mean, scale)
    y = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)
    return LinearProbe(mean, scale, np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y))


def choose_shots(labels: Int[np.ndarray, " n"], shots: int, *, seed: int) -> Int[np.ndarray, " chosen"]:
    """Choose the numbers of `shots` examples of each class, or of all where there are fewer; ascending."""
    # The raw bits of a generator, unlike its permutations, are the same in every NumPy version.
    shuffled = np.argsort(np.random.Philox(seed).random_raw(len(labels)), kind="stable")
    of_classes = [shuffled[labels[shuffled] == label][:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(of_classes))


def _inputs(features: Float[np.ndarray, "n dim"], mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.pad((features - mean) / scale, ((0, 0), (0, 1)), constant_values=_BIAS)


def _name(shots: int) -> str:
    return f"probe_{shots}shot" if shots else "probe_all"
