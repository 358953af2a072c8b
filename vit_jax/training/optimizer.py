"""Optax transformations by name, what they leave alone, and the moving average of the parameters."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vit_jax.errors import InputError
from vit_jax.ops.trees import leaf_names
from vit_jax.types import Params

OPTIMIZERS = ("adamw", "adam", "sgd", "muon")
MOMENT_DTYPES = ("float32", "bfloat16")
_MUON_RMS = 0.2  # of its updates' elements, about what AdamW's have, so that rate and decay mean the same in both


@dataclasses.dataclass(frozen=True)
class Layers:
    """The order of a model's parameters from the image to the outputs.

    depth: number of blocks.
    number: a parameter's path -> 0 for what comes before the blocks, i for the i-th block, depth + 1 for what comes
        after them.
    """

    depth: int
    number: Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients change parameters.

    transform: Optax transformation at a learning rate of 1; its updates are subtracted times the rate.
    schedule: steps done -> learning rate. It follows the run's step, also past steps that were skipped.
    freeze: regular expressions; a leaf is frozen if one of them matches somewhere in its path.
    freeze_blocks: the stem and so many blocks are frozen too; 0 is none.
    layer_decay: the factor between the learning rates of neighbouring layers.
    layers: what the model's layers are; needed for the two above.
    """

    transform: optax.GradientTransformation
    schedule: optax.Schedule
    freeze: tuple[str, ...] = ()
    freeze_blocks: int = 0
    layer_decay: float = 1.0
    layers: Layers | None = None

    def split(self, params: Params) -> tuple[Params, Params]:
        """Splits params into (trainable, frozen), two trees of the same form with None for the other's leaves.

        Raises:
            InputError: an expression that is invalid or matches no leaf, or nothing is left to train.
        """
        frozen = self._frozen(params)
        trainable_part = jax.tree.map(lambda p, is_frozen: None if is_frozen else p, params, frozen)
        frozen_part = jax.tree.map(lambda p, is_frozen: p if is_frozen else None, params, frozen)
        if not jax.tree.leaves(trainable_part):
            raise InputError(f"optimizer.freeze {self.freeze} matches every parameter; nothing is left to train")
        return trainable_part, frozen_part

    def rate_factors(self, params: Params) -> Params:
        """What each leaf's learning rate is multiplied by: layer_decay ** (depth + 1 - the leaf's layer).

        Source: Clark et al. 2020 (arXiv:2003.10555) for language models, Bao et al. 2021 (arXiv:2106.08254) for ViT,
        both in their fine-tuning details.
        """
        if self.layer_decay == 1.0:
            return jax.tree.map(lambda _: 1.0, params)
        assert self.layers is not None
        last = self.layers.depth + 1
        number = self.layers.number
        return _map_leaves(lambda path, _: self.layer_decay ** (last - number(path)), params)

    def _frozen(self, params: Params):
        paths = leaf_names(params)
        for expression in self.freeze:
            try:
                matches = [path for path in paths if re.search(expression, path)]
            except re.error as error:
                raise InputError(f"optimizer.freeze {expression!r} is no regular expression: {error}") from None
            if not matches:
                raise InputError(
                    f"optimizer.freeze {expression!r} matches no parameter; valid: expressions for paths such as "
                    f"{', '.join(paths[:3])}"
                )
        leaves = [any(re.search(expression, path) for expression in self.freeze) for path in paths]
        if self.freeze_blocks:
            assert self.layers is not None
            leaves = [
                frozen or self.layers.number(path) <= self.freeze_blocks
                for frozen, path in zip(leaves, paths, strict=True)
            ]
        return jax.tree.unflatten(jax.tree.structure(params), leaves)


def create(
    name: str,
    *,
    schedule: optax.Schedule,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    momentum: float = 0.9,
    nesterov: bool = False,
    moment_dtype: str = "float32",
    clip_norm: float = 0.0,
    freeze: tuple[str, ...] = (),
    freeze_blocks: int = 0,
    layer_decay: float = 1.0,
    layers: Layers | None = None,
) -> Optimizer:
    """Makes an optimizer by name.

    Args:
        name: `adamw` (decay decoupled from the moments and multiplied by the learning rate), `adam`, `sgd`
            (decay added to the gradient, before the momentum), or `muon` (the kernels of the blocks, but for those of
            depth-wise convolutions, change by orthogonalised momentum, all else as with adamw).
        schedule: steps done -> learning rate.
        weight_decay: applied to kernels alone; biases, norms, tokens and position embeddings have none.
        b1: Adam's decay of the mean of the gradients.
        b2: Adam's decay of the mean of their squares.
        eps: Adam's.
        momentum: SGD's.
        nesterov: SGD's.
        moment_dtype: in which Adam's mean of the gradients, and SGD's and Muon's momentum, are kept between steps:
            `float32`, or `bfloat16` for half the memory (Zhai et al. 2021, arXiv:2106.04560, section 3.4). They are
            computed in float32, and Adam's mean of the squares is always kept in it.
        clip_norm: greatest global norm of the gradients of the trainable leaves; 0 is no clipping.
        freeze: regular expressions over paths such as `encoder/block_0/mlp/fc1/kernel`.
        freeze_blocks: how many of the first blocks stay as they are, with all that comes before them; 0 is none.
        layer_decay: by how much a layer's learning rate is less than that of the next, in (0, 1]; see
            `Optimizer.rate_factors`.
        layers: of the model; None for one that tells no layers apart.

    Raises:
        InputError: an unknown name, or a value out of its range.

    Source: Kingma and Ba 2014 (arXiv:1412.6980); Loshchilov and Hutter 2017 (arXiv:1711.05101). Muon: Jordan et al.
    2024 (https://kellerjordan.github.io/posts/muon), with its momentum of 0.95 (Nesterov) and five iterations; its
    updates are scaled as in Liu et al. 2025 (arXiv:2502.16982), section 2.2.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer.name is {name!r}; valid: {', '.join(OPTIMIZERS)}")
    if name == "adam" and weight_decay:
        raise InputError("optimizer.weight_decay is set, but adam has none; valid: adamw, or a decay of 0")
    for key, value in (("b1", b1), ("b2", b2), ("momentum", momentum)):
        if not 0.0 <= value < 1.0:
            raise InputError(f"optimizer.{key} is {value}; valid: at least 0 and less than 1")
    for key, value in (("weight_decay", weight_decay), ("clip_norm", clip_norm)):
        if not 0.0 <= value < float("inf"):
            raise InputError(f"optimizer.{key} is {value}; valid: 0 or more")
    if moment_dtype not in MOMENT_DTYPES:
        raise InputError(f"optimizer.moment_dtype is {moment_dtype!r}; valid: {', '.join(MOMENT_DTYPES)}")
    if eps <= 0:
        raise InputError(f"optimizer.eps is {eps}; valid: above 0")
    if not 0.0 < layer_decay <= 1.0:
        raise InputError(f"optimizer.layer_decay is {layer_decay}; valid: more than 0, at most 1 (none)")
    depth = 0 if layers is None else layers.depth
    if not 0 <= freeze_blocks <= depth:
        raise InputError(f"optimizer.freeze_blocks is {freeze_blocks}; valid: 0 to the model's {depth} blocks")
    if name == "muon" and layers is None:
        raise InputError("optimizer.name is 'muon', but the model tells no blocks apart; valid: adamw, adam, sgd")
    if layer_decay != 1.0 and layers is None:
        raise InputError(f"optimizer.layer_decay is {layer_decay}, but the model tells no layers apart; valid: 1")
    # What is off leaves its place empty, so that turning it on does not change where a checkpoint keeps the rest.
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    decay = optax.add_decayed_weights(weight_decay, mask=decayed) if weight_decay else optax.identity()
    if name == "sgd":
        chain = (clip, decay, optax.trace(momentum, nesterov, moment_dtype) if momentum else optax.identity())
    else:
        adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=moment_dtype)
        chain = (clip, adam if name != "muon" else _muon(layers, adam, moment_dtype), decay)
    return Optimizer(optax.chain(*chain), schedule, tuple(freeze), freeze_blocks, layer_decay, layers)


def _muon(layers: Layers | None, adam: optax.GradientTransformation, moment_dtype: str) -> optax.GradientTransformation:
    """Orthogonalised momentum for the matrices of the blocks, adam for all other leaves."""
    assert layers is not None
    number = layers.number

    def label(path: str, leaf: jax.Array) -> str:
        in_layers = 1 <= number(path) <= layers.depth
        return "muon" if in_layers and _in_block(path) and not _is_depthwise(leaf) else "adam"

    def axes(path: str, leaf: jax.Array) -> MuonDimensionNumbers:
        inputs = _num_input_axes(path, leaf.ndim)
        return MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, leaf.ndim)))

    def scaled(path: str, update: jax.Array) -> jax.Array:
        inputs = _num_input_axes(path, update.ndim)
        return _MUON_RMS * math.sqrt(max(math.prod(update.shape[:inputs]), math.prod(update.shape[inputs:]))) * update

    muon = optax.chain(
        scale_by_muon(mu_dtype=moment_dtype, weight_dimension_numbers=lambda params: _map_leaves(axes, params)),
        optax.stateless(lambda updates, _: _map_leaves(scaled, updates)),
    )
    return optax.partition({"muon": muon, "adam": adam}, lambda params: _map_leaves(label, params))


def _in_block(path: str) -> bool:
    """Whether it is a kernel of a block; what lies between a pyramid's stages is none, whatever its layer's number."""
    return re.search(r"(^|/)block_\d+/(.*/)?kernel$", path) is not None


def _is_depthwise(leaf: jax.Array) -> bool:
    """Whether it is a kernel `[h, w, 1, C]`: many small filters that have nothing to do with each other."""
    return leaf.ndim == 4 and leaf.shape[2] == 1


def _num_input_axes(path: str, ndim: int) -> int:
    """How many of a kernel's axes are inputs: the first of `[D, heads, d]`, or else all but the last."""
    return 1 if ndim == 3 and not path.endswith("/out/kernel") else ndim - 1


def _map_leaves(function: Callable[[str, Any], Any], params: Params):
    """The tree of function(path, leaf)."""
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, list(map(function, leaf_names(params), leaves)))


def decayed(params: Params):
    """A tree of bools: True for the leaves that weight decay applies to, which are those named `kernel`."""
    return _map_leaves(lambda path, _: path.rpartition("/")[2] == "kernel", params)


def merge(trainable: Params, frozen: Params) -> Params:
    """Undoes `Optimizer.split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None)


def moving_average(average: Params, params: Params, decay: float) -> Params:
    """Decay * average + (1 - decay) * params, written so that equal leaves stay bitwise equal."""
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)
