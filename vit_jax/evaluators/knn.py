"""k-nearest-neighbour classification of features: what they are worth without a head."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.contracts import Rows, Task, WholeDataset
from vit_jax.errors import InputError
from vit_jax.evaluators.labels import check_one_label
from vit_jax.info import class_names_of

_SIMILARITIES_AT_ONCE = 2**26


@dataclasses.dataclass(frozen=True)
class Knn(WholeDataset):
    """Computes `knn_accuracy`: each example is given the class that its k nearest reference examples vote for.

    Nearness is the cosine similarity s of the features, and a vote weighs exp(s / temperature).

    k: number of neighbours, 1 or more; the whole reference dataset if that is smaller.
    temperature: of the votes, above 0.

    Source: Caron et al. 2021, arXiv:2104.14294, section 3.2, with its k of 20, and `eval_knn.py` of
    facebookresearch/dino; Wu et al. 2018, arXiv:1805.01978, section 3.4.
    """

    k: int = 20
    temperature: float = 0.07

    needs: ClassVar = ("label", "features")
    uses_reference: ClassVar = True

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if self.k < 1:
            raise InputError(f"evaluation.metrics.knn.k is {self.k}; valid: 1 or more")
        if not self.temperature > 0:
            raise InputError(f"evaluation.metrics.knn.temperature is {self.temperature}; valid: above 0")

    @property
    def metrics(self) -> Sequence[str]:
        """Its one figure."""
        return ("knn_accuracy",)

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
        check_one_label("knn", self.fields)

    def figures_of(self, rows: Rows, reference: Rows) -> dict[str, float]:
        """Return the share of the examples whose neighbours are right."""
        predictions = knn_predictions(
            rows["features"],
            reference["features"],
            reference["label"],
            k=self.k,
            temperature=self.temperature,
            num_classes=len(self.class_names),
        )
        return {"knn_accuracy": float(np.mean(predictions == rows["label"]))}


create = Knn


def knn_predictions(
    features: Float[np.ndarray, "n dim"],
    reference: Float[np.ndarray, "m dim"],
    labels: Int[np.ndarray, " m"],
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> Int[np.ndarray, " n"]:
    """Find the class that the k nearest of m reference examples vote for, `[n]`; of equals the first.

    Computed on the first device, with the reference as a whole and no more than 256 MiB of similarities at a time.
    """
    database = _unit(jnp.asarray(reference))
    at_once = max(_SIMILARITIES_AT_ONCE // len(reference), 1)
    vote = functools.partial(_vote, k=min(k, len(reference)), temperature=temperature, num_classes=num_classes)
    parts = [
        vote(jnp.asarray(features[start : start + at_once]), database, jnp.asarray(labels))
        for start in range(0, len(features), at_once)
    ]
    return np.concatenate([np.asarray(part) for part in parts])


@functools.partial(jax.jit, static_argnames=("k", "temperature", "num_classes"))
def _vote(
    features: Float[Array, "n dim"],
    database: Float[Array, "m dim"],
    labels: Int[Array, " m"],
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> Int[Array, " n"]:
    similarity = jnp.matmul(_unit(features), database.T, precision="highest")  # [n, m]
    nearest, which = jax.lax.top_k(similarity, k)
    # Relative to the nearest's, so that no weight overflows.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    votes = (weights[:, :, None] * jax.nn.one_hot(labels[which], num_classes)).sum(axis=1)  # [n, classes]
    return votes.argmax(axis=-1)


def _unit(x: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
