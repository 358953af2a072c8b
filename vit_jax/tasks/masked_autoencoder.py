"""Masked autoencoding: an encoder learns, without labels, from the few patches that are left of an image.

Source: He et al. 2021, "Masked Autoencoders Are Scalable Vision Learners" (arXiv:2111.06377); facebookresearch/mae,
models_mae.py; transformers' models/vit_mae.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float
from PIL import Image

from vit_jax.contracts import Forward, Result, Row, Task
from vit_jax.errors import InputError
from vit_jax.figures.overlay import panels
from vit_jax.layers import roles
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.projection import Projection
from vit_jax.layers.transformer import EncoderBlock
from vit_jax.ops.patches import extract_patches, join_patches
from vit_jax.ops.posemb import sincos2d_mae
from vit_jax.options import is_count, is_number, short
from vit_jax.types import Batch, Placement, Variables

_EPSILON = 1e-6  # beside a patch's variance
_GREY = np.uint8(128)  # of a hidden patch


class Reconstruction(flax.struct.PyTreeNode):
    """What the model makes of masked images.

    images: `[B, H, W, C]` float32, as the model was given them.
    patches: `[B, N, P]` float32, predicted values of each patch, row by row with channels last.
    masked: `[B, N]` float32, 1 for a patch that the encoder did not see.
    patch_size: height and width of a patch in pixels.
    """

    images: jax.Array
    patches: jax.Array
    masked: jax.Array
    patch_size: tuple[int, int] = flax.struct.field(pytree_node=False)


class FixedPositions(nn.Module):
    """Positions that start as sines and cosines and are never trained; a checkpoint may bring others.

    Parameters: `grid` `[h, w, D]` of the patches, and, if there are tokens before them, `prefix` `[P, D]`, zero at
    first.
    """

    grid: tuple[int, int]
    num_prefix: int

    @nn.compact
    def __call__(self, x: Float[Array, "b n dim"]) -> Float[Array, "b n dim"]:
        """Add the positions to tokens `[B, P + h * w, D]`."""
        dim = x.shape[-1]
        table = jnp.asarray(sincos2d_mae(self.grid, dim))
        role = roles.Role("position_grid", is_fixed=True)
        positions = roles.param(self, "grid", lambda *_: table, table.shape, role).reshape(-1, dim)
        if self.num_prefix:
            shape = (self.num_prefix, dim)
            prefix = roles.param(self, "prefix", nn.initializers.zeros, shape, roles.Role(is_fixed=True))
            positions = jnp.concatenate([prefix, positions])
        return x + positions.astype(x.dtype)


class Decoder(nn.Module):
    """Transformer that predicts the pixels of every patch from the visible patches' tokens.

    Parameters: `embed`, `mask_token`, `pos_embedding`, `block_0` and so on, `norm` and `prediction`.
    """

    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch_values: int
    gelu: str
    norm_eps: float
    dtype: str

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b m encoder"],
        order: Array,
        *,
        grid: tuple[int, int],
        num_prefix: int,
        train: bool,
    ) -> Float[Array, "b n values"]:
        """Predict all patches.

        Args:
            tokens: `[B, num_prefix + kept, D]` of the encoder, the patches in the order in which they were kept.
            order: `[B, N]` int, the place of each patch among those kept, then those masked.
            grid: rows and columns of patches, N in all.
            num_prefix: tokens before the patches.
            train: passed on to the blocks.
        """
        x = Projection((tokens.shape[-1], self.dim), 1, dtype=self.dtype, name="embed")(tokens)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.dim)).astype(x.dtype)
        hidden = order.shape[1] - (tokens.shape[1] - num_prefix)
        fill = jnp.broadcast_to(mask_token, (len(x), hidden, self.dim))
        patches = jnp.concatenate([x[:, num_prefix:], fill], axis=1)
        patches = jnp.take_along_axis(patches, order[:, :, None], axis=1)
        x = jnp.concatenate([x[:, :num_prefix], patches], axis=1)
        x = FixedPositions(grid, num_prefix, name="pos_embedding")(x)
        for i in range(self.depth):
            x = EncoderBlock(
                num_heads=self.num_heads,
                mlp_dim=self.mlp_dim,
                gelu=self.gelu,
                norm_eps=self.norm_eps,
                dropout=0.0,
                attention_dropout=0.0,
                drop_path=0.0,
                dtype=self.dtype,
                qkv_bias=True,
                qk_norm=False,
                layer_scale=None,
                attention="auto",
                name=f"block_{i}",
            )(x, train=train)
        x = LayerNorm(self.norm_eps, name="norm")(x)
        y = Projection((self.dim, self.patch_values), 1, dtype=self.dtype, name="prediction")(x)
        return y[:, num_prefix:].astype(jnp.float32)


class MaskedAutoencoderModel(nn.Module):
    """An encoder of the visible patches, and a decoder of all of them."""

    encoder: nn.Module
    keep_share: float
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_dim: int
    gelu: str
    norm_eps: float

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], noise: Float[Array, "b n"], *, train: bool) -> Reconstruction:
        """Mask images and reconstruct them.

        Args:
            images: `[B, H, W, C]`, normalised.
            noise: `[B, N]`, a number for each patch; those with the smallest are kept.
            train: whether dropout and stochastic depth are on.
        """
        encoder: Any = self.encoder
        grid, num_prefix = patch_grid(encoder, images.shape[1:3]), encoder.num_prefix_tokens
        patches = grid[0] * grid[1]
        kept = num_kept(patches, self.keep_share)
        shuffled = jnp.argsort(noise, axis=1)
        order = jnp.argsort(shuffled, axis=1)  # the place of each patch in the shuffled sequence
        tokens = encoder.embed(images, train=train)
        visible = jnp.take_along_axis(tokens[:, num_prefix:], shuffled[:, :kept, None], axis=1)
        tokens = jnp.concatenate([tokens[:, :num_prefix], visible], axis=1)
        features = encoder.encode(tokens, train=train)
        decoder = Decoder(
            self.decoder_dim,
            self.decoder_depth,
            self.decoder_heads,
            self.decoder_mlp_dim,
            math.prod(encoder.patch_size) * images.shape[3],
            self.gelu,
            self.norm_eps,
            encoder.dtype,
            name="decoder",
        )
        predicted = decoder(features.tokens, order, grid=grid, num_prefix=num_prefix, train=train)
        masked = (order >= kept).astype(jnp.float32)
        return Reconstruction(images=images, patches=predicted, masked=masked, patch_size=encoder.patch_size)


@dataclasses.dataclass(frozen=True)
class ReconstructedImage(Result):
    """What was left of an image, and what the model made of that.

    masked: `[H, W, C]` uint8, the model's input with the hidden patches grey.
    reconstruction: likewise, the hidden patches as they were predicted.
    loss: mean squared error over the hidden patches, as the task counts it.
    placement: where the input lies in the original image.
    """

    masked: np.ndarray
    reconstruction: np.ndarray
    loss: float
    placement: Placement

    def line(self) -> str:
        """Return the error."""
        return f"mean squared error {self.loss:.4f} over the hidden patches"

    def json(self) -> dict[str, Any]:
        """Return `{"loss": ...}`."""
        return {"loss": self.loss}

    def draw(self, image: Image.Image) -> Image.Image:
        """Set the image, its visible patches and the reconstruction side by side, each in the image's size.

        Where the model's input does not reach, all three show the image.
        """
        pictures = [image, self._within(image, self.masked), self._within(image, self.reconstruction)]
        return panels(pictures, ["original", "visible", "reconstruction"])

    def _within(self, image: Image.Image, pixels: np.ndarray) -> Image.Image:
        left, top, right, bottom = (round(side) for side in self.placement.box)
        part = Image.fromarray(np.squeeze(pixels, -1) if pixels.shape[-1] == 1 else pixels).convert("RGB")
        picture = image.convert("RGB")
        picture.paste(part.resize((right - left, bottom - top), Image.Resampling.BICUBIC), (left, top))
        return picture


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoder(Task):
    """The task of reconstructing the hidden patches of an image.

    It needs no labels, and an encoder with `embed` and `encode` whose patches do not overlap. The loss of an image is
    the mean squared error over its hidden patches.

    mask_ratio: share of the patches that are hidden, rounded up, in (0, 1).
    normalise_pixels: whether a patch's target is its pixels less their mean, divided by their deviation.
    decoder_dim: width of the decoder.
    decoder_depth: number of its blocks.
    decoder_heads: heads of its attention.
    decoder_mlp_dim: hidden units of its MLPs.
    gelu: of the decoder: `exact`, `tanh` or `quick`.
    norm_eps: LayerNorm's epsilon in the decoder.
    """

    mask_ratio: float = 0.75
    normalise_pixels: bool = True
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_mlp_dim: int = 2048
    gelu: str = "exact"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            InputError: a value out of its range.
        """
        if not (is_number(self.mask_ratio) and 0.0 < self.mask_ratio < 1.0):
            raise InputError(f"task.options.mask_ratio is {short(self.mask_ratio)}; valid: above 0 and below 1")
        for name in ("decoder_dim", "decoder_depth", "decoder_heads", "decoder_mlp_dim"):
            if not is_count(getattr(self, name)):
                raise InputError(f"task.options.{name} is {short(getattr(self, name))}; valid: 1 or more")
        if self.decoder_dim % 4 or self.decoder_dim % self.decoder_heads:
            raise InputError(
                f"task.options.decoder_dim is {self.decoder_dim}; valid: a multiple of 4 and of decoder_heads, "
                f"{self.decoder_heads}"
            )

    def wrap(self, encoder: nn.Module) -> nn.Module:
        """Add the decoder: images and noise to a `Reconstruction`.

        Raises:
            InputError: an encoder that cannot leave patches out.
        """
        if not _can_leave_patches_out(encoder):
            family = type(encoder).__module__.rpartition(".")[2]
            raise InputError(
                f"masked_autoencoder hides patches, and in the model {family!r} patches overlap or need their "
                "neighbours; valid: a model of separate patches, such as vit"
            )
        return MaskedAutoencoderModel(
            encoder,
            1.0 - self.mask_ratio,
            self.decoder_dim,
            self.decoder_depth,
            self.decoder_heads,
            self.decoder_mlp_dim,
            self.gelu,
            self.norm_eps,
        )

    def initialise(self, model: nn.Module, key: jax.Array, batch: Batch) -> Variables:
        """Make new parameters; see `Task.initialise`."""
        images = batch["image"]
        return dict(model.init({"params": key}, images, self._noise(model, images, None), train=False))

    def forward(
        self, given: Forward, batch: Batch, *, rngs: Mapping[str, jax.Array], train: bool
    ) -> tuple[Reconstruction, Variables]:
        """Hide patches of each image, drawn from its key in `rngs["mask"]`, and reconstruct them."""
        images = batch["image"]
        return given.apply(images, self._noise(given.model, images, rngs["mask"]), train=train, rngs=rngs)

    def loss(self, outputs: Reconstruction, batch: Batch) -> Float[Array, " b"]:
        """Compute the mean squared error over the hidden patches of each image, `[B]` float32."""
        targets, _, _ = self._targets(outputs)
        errors = jnp.square(outputs.patches - targets).mean(axis=-1)
        return (errors * outputs.masked).sum(axis=1) / outputs.masked.sum(axis=1)

    @property
    def rows(self) -> Mapping[str, Row]:
        """What evaluators may ask of each example, so that `knn` and `probe` can judge the features.

        label: of the data's first field of kind `label` or `labels`; absent where there is none.
        """
        labels = [name for name, field in self.fields.items() if field.kind in ("label", "labels")]
        return {"label": lambda outputs, batch: batch[labels[0]]} if labels else {}

    def results(self, outputs: Reconstruction, placements: Sequence[Placement]) -> list[ReconstructedImage]:
        """Return each image with its reconstruction, in pixels."""
        outputs = jax.tree.map(jnp.asarray, outputs)
        _, mean, deviation = self._targets(outputs)
        is_hidden = jnp.broadcast_to(outputs.masked[:, :, None] > 0, outputs.patches.shape)
        mixed = jnp.where(is_hidden, outputs.patches * deviation + mean, _patches(outputs))
        _, height, width, channels = outputs.images.shape
        size = (height, width, channels)
        images, losses = np.asarray(outputs.images), np.asarray(self.loss(outputs, {}))
        # What no patch covers is neither hidden nor reconstructed.
        hidden, reconstruction = np.zeros(images.shape, bool), images.copy()
        for whole, patches in ((hidden, is_hidden), (reconstruction, mixed)):
            part = np.asarray(join_patches(patches, size, outputs.patch_size))
            whole[:, : part.shape[1], : part.shape[2]] = part
        return [
            ReconstructedImage(
                masked=np.where(hidden[i], _GREY, placement.to_pixels(images[i])),
                reconstruction=placement.to_pixels(reconstruction[i]),
                loss=float(losses[i]),
                placement=placement,
            )
            for i, placement in enumerate(placements)
        ]

    def _noise(self, model: nn.Module, images: Array, keys: Array | None) -> Float[Array, "b n"]:
        """Draw a number for each patch of each image; zeros without keys."""
        rows, columns = patch_grid(model.encoder, images.shape[1:3])  # type: ignore[attr-defined]
        num_kept(rows * columns, 1.0 - self.mask_ratio)
        if keys is None:
            return jnp.zeros((len(images), rows * columns))
        return jax.vmap(lambda key: jax.random.uniform(key, (rows * columns,)))(keys)

    def _targets(self, outputs: Reconstruction) -> tuple[Array, Array, Array]:
        """Return what is to be predicted, and the mean and deviation that make pixels of it again."""
        pixels = _patches(outputs)
        if not self.normalise_pixels:
            return pixels, jnp.zeros(()), jnp.ones(())
        mean = pixels.mean(axis=-1, keepdims=True)
        deviation = jnp.sqrt(pixels.var(axis=-1, ddof=1, keepdims=True) + _EPSILON)
        return (pixels - mean) / deviation, mean, deviation


create = MaskedAutoencoder


def patch_grid(encoder: Any, image_size: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of an encoder's patches in an image of this height and width."""
    return encoder.grid_of(tuple(image_size))


def _can_leave_patches_out(encoder: Any) -> bool:
    """Tell whether the encoder has `embed` and `encode`, and one grid of patches that do not overlap."""
    if not all(hasattr(encoder, name) for name in ("embed", "encode", "patch_size", "num_prefix_tokens")):
        return False
    height, width = encoder.patch_size
    return encoder.grid_of((32 * height, 32 * width)) == (32, 32)  # a hybrid's patches are cells of feature maps


def num_kept(patches: int, keep_share: float) -> int:
    """Return the number of patches that stay visible, rounded down as in the source.

    Raises:
        InputError: none or all of them would.
    """
    kept = int(patches * keep_share + 1e-9)
    if not 0 < kept < patches:
        raise InputError(
            f"task.options.mask_ratio of {1 - keep_share:.3g} leaves {kept} of {patches} patches; valid: a ratio that "
            "leaves and hides at least one"
        )
    return kept


def _patches(outputs: Reconstruction) -> Float[Array, "b n values"]:
    """Cut the images into patches, `[B, N, P]`."""
    patches = extract_patches(outputs.images, outputs.patch_size)
    return patches.reshape(len(patches), -1, patches.shape[-1])
