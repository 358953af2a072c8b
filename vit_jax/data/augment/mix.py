"""Mixup and cutmix."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vit_jax.data.augment.stages import StepAugmentation
from vit_jax.errors import InputError
from vit_jax.ops.mixing import blend, cut_box, mirrored
from vit_jax.types import Batch, Field, Fields, mask_of


@dataclasses.dataclass(frozen=True)
class Mix(StepAugmentation):
    """Blends the images of a batch and their labels, by mixup or cutmix, with one share for the whole batch.

    The share lambda of an example itself follows Beta(alpha, alpha); the rest is that of its mirror: the first example
    of the global batch is mixed with the last, the second with the last but one. One whose mirror is a masked row stays
    as it is.

    mixup_alpha: alpha of mixup's Beta(alpha, alpha); 0 is no mixup.
    cutmix_alpha: alpha of cutmix's; 0 is no cutmix.
    probability: of blending a batch at all, in [0, 1].
    switch_probability: of cutmix, where both are on, in [0, 1].

    Source: Zhang et al. 2017 (mixup, arXiv:1710.09412), Yun et al. 2019 (cutmix, arXiv:1905.04899), and timm's Mixup in
    mode `batch`, which DeiT uses, once per process. big_vision's mixup takes the neighbour instead of the mirror, and
    the larger of lambda and 1 - lambda, which would change nothing here: a pair appears twice, with the two shares
    swapped.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5

    order: ClassVar = 3

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"data.augment.mix.{name} is {getattr(self, name)}; valid: 0 (none) or more")
        for name in ("probability", "switch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"data.augment.mix.{name} is {getattr(self, name)}; valid: 0 to 1")

    def fields(self, given: Fields) -> Fields:
        """Return fields whose labels have a number for each class.

        Raises:
            InputError: a field that cannot be blended, or a label without names of classes.
        """
        super().fields(given)
        for name, field in given.items():
            if field.kind == "array":
                raise InputError(f"data.augment.mix cannot move the field {name!r} of kind array; valid without it")
            if field.kind == "label" and not field.names:
                raise InputError(f"data.augment.mix needs the names of the classes of {name!r}; valid without it")
        return {name: _blended(field) for name, field in given.items()}

    def __call__(self, key: Key[Array, ""], batch: Batch, fields: Fields, axis_name: str | None) -> Batch:
        """Blend a batch, or a device's slice of it.

        Args:
            key: `[]`, the same on all devices.
            batch: images `[B, ..., H, W, C]` float, labels `[B]` int or `[B, classes]` float, `index` `[B]` uint32.
            fields: of the batch.
            axis_name: the device axis if the batch is a slice.

        Returns:
            The batch with images of the same shape and dtype, and labels `[B, classes]` float32.
        """
        if not self.mixup_alpha and not self.cutmix_alpha:
            return batch
        there = mask_of(batch) > 0
        first = jnp.where(there, batch["index"], jnp.uint32(2**32 - 1)).min()
        if axis_name is not None:
            first = jax.lax.pmin(first, axis_name)
        own = self.draw(jax.random.fold_in(key, first), *batch["image"].shape[-3:-1])
        has_partner = mirrored(there, axis_name)

        def mixed(x: Array, share: Array) -> Array:
            # `where`, since a row that is no example may hold NaN.
            has_one = has_partner.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(has_one, blend(x, mirrored(x, axis_name), share), x)

        changed = {}
        for name, field in fields.items():
            x = batch.get(name)
            if x is not None and field.kind == "image":
                changed[name] = mixed(x, own[:, :, None])
            elif x is not None and field.kind in ("label", "labels"):
                labels = jax.nn.one_hot(x, len(field.names)) if x.ndim == 1 else x
                changed[name] = mixed(labels, own.mean())
        return batch | changed

    def draw(self, key: Key[Array, ""], height_px: int, width_px: int) -> Float[Array, "H W"]:
        """Draw each pixel's share of the example itself: lambda everywhere (mixup), or 0 in a box and 1 around it."""
        mix_key, switch_key, share_key, box_key = jax.random.split(key, 4)
        cut = jax.random.bernoulli(switch_key, self.switch_probability)
        if not (self.mixup_alpha and self.cutmix_alpha):
            cut = jnp.asarray(self.cutmix_alpha > 0)
        alpha = jnp.where(cut, self.cutmix_alpha, self.mixup_alpha)
        share = jax.random.beta(share_key, alpha, alpha)
        own = jnp.where(cut, 1.0 - cut_box(box_key, share, height_px, width_px), share)
        return jnp.where(jax.random.bernoulli(mix_key, self.probability), own, 1.0)


create = Mix


def _blended(field: Field) -> Field:
    """Return a label as a row of numbers, and any other field as it is."""
    return Field("labels", (len(field.names),), "float32", field.names) if field.kind == "label" else field
