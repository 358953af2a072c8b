"""From pixels to tokens, and where the tokens are."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.errors import InputError
from vit_jax.layers import roles
from vit_jax.ops import patches, posemb

POSEMB = ("learned", "sincos2d", "sincos2d_mae", "sincos1d", "none")
"""Kinds of `PositionEmbedding`."""


class PatchEmbed(nn.Module):
    """Linear projection of non-overlapping patches: a convolution whose stride is its size.

    The kernel is kept in a convolution's shape `[height, width, C, D]`, which is how checkpoints hold it, but
    computed as a matrix product over flattened patches, which is the same and faster on the CPU.

    patch_size: height and width of a patch.
    hidden_dim: width D of a token.
    dtype: of the product.
    use_bias: whether a bias is added.
    is_stem: whether it sees the image itself.

    Source: Dosovitskiy et al. 2020 (arXiv:2010.11929), section 3.1; kernel initialised like Flax's Conv.
    """

    patch_size: tuple[int, int]
    hidden_dim: int
    dtype: str = "float32"
    use_bias: bool = True
    is_stem: bool = True

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w dim"]:
        """Map images `[B, H, W, C]` to `[B, H // height, W // width, hidden_dim]`; see `patch_grid` for the rest.

        Raises:
            InputError: the image is smaller than a patch, or has other channels than the kernel.
        """
        channels = images.shape[-1]
        if self.has_variable("params", "kernel"):
            check_channels(channels, self.get_variable("params", "kernel").shape[2])
        shape = (*self.patch_size, channels, self.hidden_dim)
        role = roles.kernel(3, kind="stem" if self.is_stem else "kernel")
        kernel = roles.param(self, "kernel", nn.initializers.lecun_normal(), shape, role)
        x = patches.extract_patches(images.astype(self.dtype), self.patch_size)
        x = x @ kernel.reshape(-1, self.hidden_dim).astype(self.dtype)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.hidden_dim,)).astype(self.dtype)
        return x


def check_channels(channels: int, made_for: int) -> None:
    """Raise InputError unless images have the channels that a model was made for."""
    if channels != made_for:
        raise InputError(f"the images have {channels} channels, but the model was made for {made_for}")


class PositionEmbedding(nn.Module):
    """Puts prefix tokens in front of the patches and adds a position embedding to all.

    kind: what it is:
        `learned`: a parameter `grid` `[h, w, D]` and one `prefix` `[P, D]`, both normal with deviation 0.02.
        `sincos2d_mae`: the same parameters, which are never trained: `ops.posemb.sincos2d_mae`, and zeros for the
            prefix tokens (masked autoencoders).
        `sincos2d`: `ops.posemb.sincos2d` for the patches; prefix tokens have no position.
        `sincos1d`: `ops.posemb.sincos1d` of the whole sequence, prefix tokens included.
        `none`: none.
    prefix_posemb: whether `learned` and `sincos2d_mae` have positions for the prefix tokens too.

    The grid keeps its two axes, so that its rows and columns never have to be guessed.
    """

    kind: str = "learned"
    prefix_posemb: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w dim"], prefix: Float[Array, "b p dim"]) -> Float[Array, "b n dim"]:
        """Map patches `[B, h, w, D]` and prefix tokens `[B, P, D]` to tokens `[B, P + h * w, D]`.

        Raises:
            InputError: an unknown kind, or a grid that differs from that of the parameter.
        """
        batch, rows, columns, dim = x.shape
        num_prefix = prefix.shape[1]
        if self.kind in ("learned", "sincos2d_mae"):
            x = x + self._grid((rows, columns), dim).astype(x.dtype)
            if num_prefix and self.prefix_posemb:
                prefix = prefix + self._prefix(num_prefix, dim).astype(x.dtype)
        elif self.kind == "sincos2d":
            x = x + posemb.sincos2d((rows, columns), dim).astype(x.dtype)
        elif self.kind not in POSEMB:
            raise InputError(f"posemb {self.kind!r} is unknown; valid: {', '.join(POSEMB)}")
        tokens = jnp.concatenate([prefix, x.reshape(batch, rows * columns, dim)], axis=1)
        if self.kind == "sincos1d":
            tokens = tokens + posemb.sincos1d(tokens.shape[1], dim).astype(x.dtype)
        return tokens

    @property
    def _is_fixed(self) -> bool:
        return self.kind == "sincos2d_mae"

    def _prefix(self, num_prefix: int, dim: int) -> Float[Array, "p dim"]:
        init = nn.initializers.zeros if self._is_fixed else nn.initializers.normal(0.02)
        return roles.param(self, "prefix", init, (num_prefix, dim), roles.Role(is_fixed=self._is_fixed))

    def _grid(self, grid: tuple[int, int], dim: int) -> Float[Array, "h w dim"]:
        if self.has_variable("params", "grid"):
            have = self.get_variable("params", "grid").shape[:2]
            if have != grid:
                raise InputError(
                    f"the images give {grid[0]}x{grid[1]} patches, but the position embedding was made "
                    f"for {have[0]}x{have[1]}; use images of the size the model was trained with"
                )
        init = _mae if self._is_fixed else nn.initializers.normal(0.02)
        return roles.param(self, "grid", init, (*grid, dim), roles.Role("position_grid", is_fixed=self._is_fixed))


def _mae(key: Array, shape: tuple[int, ...]) -> Float[Array, "h w dim"]:
    """Make MAE's positions, as a Linen initialiser."""
    return jnp.asarray(posemb.sincos2d_mae((shape[0], shape[1]), shape[2]))
