"""Mixup and cutmix: each example of a batch blended with another one, images and labels alike.

Partners and amounts depend on the whole batch, not on how it lies on devices, so that the result does not either.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Shaped

from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mixup or cutmix with one share for the whole batch.

    The share lambda of an example itself follows Beta(alpha, alpha); the rest is that of its mirror: the first example
    of the global batch is mixed with the last, the second with the last but one.

    num_classes: of the labels.
    mixup_alpha: 0 is no mixup.
    cutmix_alpha: 0 is no cutmix.
    probability: of mixing a batch at all.
    switch_probability: of cutmix, where both are on.

    Source: Zhang et al. 2017 (mixup, arXiv:1710.09412), Yun et al. 2019 (cutmix, arXiv:1905.04899), and timm's Mixup in
    mode `batch`, which DeiT uses, once a process. big_vision's mixup takes the neighbour instead of the mirror, and the
    larger of lambda and 1 - lambda, which would change nothing here: a pair appears twice, with the two shares swapped.
    """

    num_classes: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            InputError: a value out of its range.
        """
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"data.{name} is {getattr(self, name)}; valid: 0 (none) or more")
        for field, name in (("probability", "mix_probability"), ("switch_probability", "mix_switch_probability")):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(f"data.{name} is {getattr(self, field)}; valid: 0 to 1")

    def __call__(self, key: Key[Array, ""], batch: dict, axis_name: str | None = None) -> dict:
        """Mixes a batch, or a device's slice of it.

        Args:
            key: `[]`, the same on all devices.
            batch: `image` `[B, H, W, C]` float, `label` `[B]` int or `[B, num_classes]` float, `index` `[B]` uint32.
            axis_name: the device axis if the batch is a slice.

        Returns:
            The batch with `image` of the same shape and dtype and `label` `[B, num_classes]` float32.
        """
        images, labels = batch["image"], batch["label"]
        if labels.ndim == 1:
            labels = jax.nn.one_hot(labels, self.num_classes)
        first = batch["index"].min()
        if axis_name is not None:
            first = jax.lax.pmin(first, axis_name)
        own = self.draw(jax.random.fold_in(key, first), *images.shape[1:3])
        mixed = blend(images, mirrored(images, axis_name), own[None, :, :, None])
        return batch | {"image": mixed, "label": blend(labels, mirrored(labels, axis_name), own.mean())}

    def draw(self, key: Key[Array, ""], height_px: int, width_px: int) -> Float[Array, "H W"]:
        """Draws each pixel's share of the example itself: lambda everywhere (mixup), or 0 in a box and 1 around it."""
        mix_key, switch_key, share_key, box_key = jax.random.split(key, 4)
        cut = jax.random.bernoulli(switch_key, self.switch_probability)
        if not (self.mixup_alpha and self.cutmix_alpha):
            cut = jnp.asarray(self.cutmix_alpha > 0)
        alpha = jnp.where(cut, self.cutmix_alpha, self.mixup_alpha)
        share = jax.random.beta(share_key, alpha, alpha)
        own = jnp.where(cut, 1.0 - cut_box(box_key, share, height_px, width_px), share)
        return jnp.where(jax.random.bernoulli(mix_key, self.probability), own, 1.0)


def cut_box(key: Key[Array, ""], share: Float[Array, ""], height_px: int, width_px: int) -> Bool[Array, "H W"]:
    """A box around a random pixel with the image's proportions and 1 - share of its area, cut off at the edges.

    Source: Yun et al. 2019, section 3.1 and algorithm A1; sides are rounded down, as in timm.
    """
    ratio = jnp.sqrt(1.0 - share)

    def within(key, side_px):
        cut_px = (side_px * ratio).astype(jnp.int32)
        start = jax.random.randint(key, (), 0, side_px) - cut_px // 2
        place = jnp.arange(side_px)
        return (place >= start) & (place < start + cut_px)

    row_key, column_key = jax.random.split(key)
    return within(row_key, height_px)[:, None] & within(column_key, width_px)[None]


def blend(one: Shaped[Array, "..."], other: Shaped[Array, "..."], share: Float[Array, "..."]) -> Float[Array, "..."]:
    """Share * one + (1 - share) * other."""
    return share * one + (1.0 - share) * other


def mirrored(x: Shaped[Array, "b ..."], axis_name: str | None) -> Shaped[Array, "b ..."]:
    """The batch in reverse order; of a slice, what lies in its place in the whole batch reversed.

    A process has every n-th example of a global batch, and its devices have consecutive parts of these. Reversing the
    devices and then each slice therefore reverses the global batch whatever their numbers.
    """
    if axis_name is not None:
        devices = jax.lax.axis_size(axis_name)
        x = jax.lax.ppermute(x, axis_name, [(i, devices - 1 - i) for i in range(devices)])
    return x[::-1]
