"""Optimizers by name, which parameters they change and how fast, and the moving average of the parameters."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vit_jax.errors import InputError
from vit_jax.layers.roles import Role, Roles, role_of
from vit_jax.ops.trees import leaf_names
from vit_jax.types import Params

OPTIMIZERS = ("adamw", "adam", "sgd", "muon")
MOMENT_DTYPES = ("float32", "bfloat16")
_MUON_RMS = 0.2  # root mean square of an update's elements, about AdamW's, so that rates and decay fit both


@dataclasses.dataclass(frozen=True)
class Layers:
    """The order of a model's parameters from the image to the outputs.

    depth: number of blocks.
    number: parameter's path -> 0 before the blocks, i in the i-th block, depth + 1 after them.
    """

    depth: int
    number: Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients change parameters.

    transform: Optax transformation at a learning rate of 1; its updates are subtracted times the rate.
    schedule: steps done -> learning rate. It follows the run's step, also past steps that were skipped.
    freeze: regular expressions; a leaf is frozen if one of them matches somewhere in its path.
    freeze_blocks: number of the first blocks that are frozen, with all before them; 0 freezes nothing.
    layer_decay: ratio of a layer's learning rate to that of the next layer.
    layers: of the model; needed for the two above.
    roles: of the parameters. A fixed one has a learning rate of 0.
    """

    transform: optax.GradientTransformation
    schedule: optax.Schedule
    freeze: tuple[str, ...] = ()
    freeze_blocks: int = 0
    layer_decay: float = 1.0
    layers: Layers | None = None
    roles: Roles = dataclasses.field(default_factory=dict)

    def split(self, params: Params) -> tuple[Params, Params]:
        """Split params into (trainable, frozen), two trees of the same form with None for the other's leaves.

        Raises:
            InputError: an expression is invalid or matches no leaf, or nothing is left to train.
        """
        frozen = self._frozen(params)
        trainable_part = jax.tree.map(lambda p, is_frozen: None if is_frozen else p, params, frozen)
        frozen_part = jax.tree.map(lambda p, is_frozen: p if is_frozen else None, params, frozen)
        if not jax.tree.leaves(trainable_part):
            raise InputError(f"optimizer.freeze {self.freeze} matches every parameter; nothing is left to train")
        return trainable_part, frozen_part

    def rate_factors(self, params: Params) -> Params:
        """Return what each leaf's learning rate is multiplied by.

        It is layer_decay ** (depth + 1 - the leaf's layer), and 0 for a fixed parameter, which no gradient reaches.

        Source: Clark et al. 2020 (arXiv:2003.10555) for language models, Bao et al. 2021 (arXiv:2106.08254) for ViT,
        both in their fine-tuning details.
        """

        def factor(path: str, leaf: Any) -> float:
            if role_of(self.roles, path).is_fixed:
                return 0.0
            if self.layer_decay == 1.0:
                return 1.0
            assert self.layers is not None
            return self.layer_decay ** (self.layers.depth + 1 - self.layers.number(path))

        return _map_leaves(factor, params)

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
    roles: Roles | None = None,
) -> Optimizer:
    """Make an optimizer by name.

    Args:
        name: `adamw` (decay decoupled from the moments and multiplied by the learning rate), `adam`, `sgd`
            (decay added to the gradient, before the momentum), or `muon` (the matrices of the blocks change by
            orthogonalised momentum, all else as with adamw).
        schedule: steps done -> learning rate.
        weight_decay: applied to kernels alone; biases, norms, tokens and position embeddings have none.
        b1: Adam's decay of the mean of the gradients.
        b2: Adam's decay of the mean of their squares.
        eps: Adam's epsilon.
        momentum: of SGD.
        nesterov: whether SGD's momentum is Nesterov's.
        moment_dtype: in which Adam's mean of the gradients, and SGD's and Muon's momentum, are kept between steps:
            `float32`, or `bfloat16` for half the memory (Zhai et al. 2021, arXiv:2106.04560, section 3.4). They are
            computed in float32, and Adam's mean of the squares is always kept in it.
        clip_norm: greatest global norm of the gradients of the trainable leaves; 0 turns clipping off.
        freeze: regular expressions over paths such as `encoder/block_0/mlp/fc1/kernel`.
        freeze_blocks: number of the first blocks that stay as they are, with all before them; 0 freezes nothing.
        layer_decay: ratio of a layer's learning rate to that of the next layer, in (0, 1]; see
            `Optimizer.rate_factors`.
        layers: of the model; None for a model without an order of layers.
        roles: path -> role, of all parameters (`layers.roles.roles_of`). Without them a parameter's name decides: a
            `kernel` decays, and `muon` is refused.

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
    roles = {} if roles is None else roles
    if name == "muon" and (layers is None or not any(role.in_block for role in roles.values())):
        raise InputError("optimizer.name is 'muon', but the model tells no blocks apart; valid: adamw, adam, sgd")
    if layer_decay != 1.0 and layers is None:
        raise InputError(f"optimizer.layer_decay is {layer_decay}, but the model tells no layers apart; valid: 1")
    # A part that is off is an identity, so that turning it on does not move the others within a checkpoint.
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    decay = optax.identity()
    if weight_decay:
        decay = optax.add_decayed_weights(weight_decay, mask=lambda params: decayed(params, roles))
    if name == "sgd":
        chain = (clip, decay, optax.trace(momentum, nesterov, moment_dtype) if momentum else optax.identity())
    else:
        adam = optax.scale_by_adam(b1, b2, eps, mu_dtype=moment_dtype)
        chain = (clip, adam if name != "muon" else _muon(layers, roles, adam, moment_dtype), decay)
    return Optimizer(optax.chain(*chain), schedule, tuple(freeze), freeze_blocks, layer_decay, layers, roles)


def _muon(
    layers: Layers | None, roles: Mapping[str, Role], adam: optax.GradientTransformation, moment_dtype: str
) -> optax.GradientTransformation:
    """Make orthogonalised momentum for the matrices of the blocks and `adam` for all other leaves."""
    assert layers is not None
    number = layers.number

    def label(path: str, leaf: jax.Array) -> str:
        role = role_of(roles, path)
        in_layers = role.in_block and 1 <= number(path) <= layers.depth
        return "muon" if in_layers and role.kind == "kernel" and role.num_inputs is not None else "adam"

    def num_inputs(path: str, leaf: jax.Array) -> int:
        given = role_of(roles, path).num_inputs
        return leaf.ndim - 1 if given is None else given  # of leaves that are left to adam too

    def axes(path: str, leaf: jax.Array) -> MuonDimensionNumbers:
        inputs = num_inputs(path, leaf)
        return MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, leaf.ndim)))

    def scaled(path: str, update: jax.Array) -> jax.Array:
        inputs = num_inputs(path, update)
        return _MUON_RMS * math.sqrt(max(math.prod(update.shape[:inputs]), math.prod(update.shape[inputs:]))) * update

    muon = optax.chain(
        scale_by_muon(mu_dtype=moment_dtype, weight_dimension_numbers=lambda params: _map_leaves(axes, params)),
        optax.stateless(lambda updates, _: _map_leaves(scaled, updates)),
    )
    return optax.partition({"muon": muon, "adam": adam}, lambda params: _map_leaves(label, params))


def _map_leaves(function: Callable[[str, Any], Any], params: Params):
    """Make the tree of function(path, leaf)."""
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, list(map(function, leaf_names(params), leaves)))


def decayed(params: Params, roles: Roles) -> Params:
    """Make a tree of bools: True for the leaves that weight decay applies to.

    Args:
        params: any tree of parameters.
        roles: path -> role; see `layers.roles.role_of` for parameters that it lacks.
    """
    return _map_leaves(lambda path, _: role_of(roles, path).is_decayed, params)


def merge(trainable: Params, frozen: Params) -> Params:
    """Join what `Optimizer.split` gave."""
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None)


def moving_average(average: Params, params: Params, decay: float) -> Params:
    """Compute decay * average + (1 - decay) * params, leaving equal leaves bitwise equal."""
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)
