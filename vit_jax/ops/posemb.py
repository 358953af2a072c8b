"""Position embeddings that are computed, and the resizing of learned ones."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.errors import InputError

_LARGEST_TABLE = 2**27
"""Values of a table that is computed on the host, in float64."""


def sincos1d(length: int, dim: int, *, temperature: float = 10_000.0) -> Float[Array, "length dim"]:
    """Compute sines and cosines of the position in the sequence, interleaved.

    Channel 2i of position p is sin(p / temperature**(2i / dim)), channel 2i + 1 the cosine of the same.

    Returns:
        `[length, dim]` float32 in [-1, 1].

    Raises:
        InputError: dim is odd.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5.
    """
    if dim % 2:
        raise InputError(f"posemb sincos1d needs an even hidden_dim, not {dim}")
    angles = _angles(length, jnp.arange(0, dim, 2) / dim, temperature)  # [length, dim / 2]
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(length, dim)


def sincos2d(grid: tuple[int, int], dim: int, *, temperature: float = 10_000.0) -> Float[Array, "h w dim"]:
    """Compute sines and cosines of the column, then of the row, a quarter of the channels each.

    The channels are sin(x w), cos(x w), sin(y w), cos(y w) with w_k = temperature**(-k / (dim / 4 - 1)).

    Returns:
        `[h, w, dim]` float32 in [-1, 1].

    Raises:
        InputError: dim is not a multiple of 4 of at least 8.

    Source: Chen et al. 2021 (MoCo v3, arXiv:2104.02057); order and frequencies as in big_vision's
    `posemb_sincos_2d` (models/vit.py), whose last frequency is exactly 1 / temperature.
    """
    if dim % 4 or dim < 8:
        raise InputError(f"posemb sincos2d needs a hidden_dim that is a multiple of 4, at least 8, not {dim}")
    rows, columns = grid
    quarter = dim // 4
    exponents = jnp.arange(quarter) / (quarter - 1)
    x = _angles(columns, exponents, temperature)[None, :, :]
    y = _angles(rows, exponents, temperature)[:, None, :]
    parts = [jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)]
    return jnp.concatenate([jnp.broadcast_to(p, (rows, columns, quarter)) for p in parts], axis=-1)


def sincos2d_mae(grid: tuple[int, int], dim: int, *, temperature: float = 10_000.0) -> Float[np.ndarray, "h w dim"]:
    """Compute the masked autoencoder's sines and cosines of the column and the row.

    The channels are sin(x w), cos(x w), sin(y w), cos(y w) as in `sincos2d`, a quarter each, but with
    w_k = temperature**(-k / (dim / 4)).

    Args:
        grid: rows and columns `(h, w)`.
        dim: channels.
        temperature: see above.

    Returns:
        `[h, w, dim]` float32 in [-1, 1], computed in float64 as in the reference.

    Raises:
        InputError: dim is not a multiple of 4, or the table would take more than a gigabyte.

    Source: He et al. 2021 (arXiv:2111.06377), section 4, "MAE"; facebookresearch/mae, util/pos_embed.py, and
    transformers' models/vit_mae/modeling_vit_mae.py, which agree. A class token has zeros there.

    Example:
        >>> sincos2d_mae((2, 3), 4)[1, 2].round(2)  # x is 2, y is 1
        array([ 0.91, -0.42,  0.84,  0.54], dtype=float32)
    """
    if dim % 4 or dim < 4:
        raise InputError(f"posemb sincos2d_mae needs a width that is a multiple of 4, not {dim}")
    rows, columns = grid
    if rows * columns * dim > _LARGEST_TABLE:
        raise InputError(f"posemb sincos2d_mae of {rows}x{columns} patches and width {dim} takes more than a gigabyte")
    quarter = dim // 4
    frequencies = temperature ** -(np.arange(quarter) / quarter)
    x = np.broadcast_to(np.arange(columns)[None, :, None] * frequencies, (rows, columns, quarter))
    y = np.broadcast_to(np.arange(rows)[:, None, None] * frequencies, (rows, columns, quarter))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=-1).astype(np.float32)


def resize_grid(
    grid_embedding: Float[Array, "h w dim"], size: tuple[int, int], *, antialias: bool = True
) -> Float[Array, "h2 w2 dim"]:
    """Resize a learned position embedding from one grid of patches to another by cubic convolution.

    The corners of the grids' outermost cells coincide (half-pixel centres), as in the two libraries below. The two
    choices differ a little even where the grid grows, so that a checkpoint is best resized as in its own library.

    Args:
        grid_embedding: `[h, w, D]`, prefix tokens not included.
        size: rows and columns `(h2, w2)`.
        antialias: True uses a kernel with a = -0.5, widened where the grid shrinks and renormalised at the border, as
            timm's `resample_abs_pos_embed` and `jax.image.resize` do. False uses a kernel with a = -0.75 over four
            cells, those of the border repeated, as Hugging Face's `interpolate_pos_encoding` does.

    Returns:
        `[h2, w2, D]` float32; for the same size the argument itself.

    Source: Keys 1981 (doi:10.1109/TASSP.1981.1163711), equation 15; timm's layers/pos_embed.py and transformers'
    models/vit/modeling_vit.py, both by PyTorch's `interpolate(mode="bicubic")`.
    """
    if tuple(grid_embedding.shape[:2]) == tuple(size):
        return grid_embedding
    rows, columns = (_cubic(old, new, antialias) for old, new in zip(grid_embedding.shape[:2], size, strict=True))
    # In NumPy and float64: it happens once, on the host, whatever matrix products on the accelerator cost in digits.
    resized = np.einsum("Hh,Ww,hwd->HWd", rows, columns, np.asarray(grid_embedding, np.float64), optimize=True)
    return jnp.asarray(resized, jnp.float32)


def _cubic(old: int, new: int, antialias: bool) -> np.ndarray:
    """Compute each new cell's weights of the old ones, which sum to 1, `[new, old]` float64."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    if antialias:
        distance = np.abs(centres[:, None] - np.arange(old)) / max(old / new, 1.0)
        weights = _keys(distance, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((new, old))
    first = np.floor(centres).astype(int) - 1
    for tap in range(4):
        cell = first + tap
        np.add.at(weights, (np.arange(new), cell.clip(0, old - 1)), _keys(np.abs(centres - cell), -0.75))
    return weights


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Compute the cubic convolution kernel at distances x of at least 0."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _angles(length: int, exponents: Array, temperature: float) -> Array:
    """Compute position / temperature**exponent for positions 0 to length - 1, `[length, k]` float32."""
    return jnp.arange(length, dtype=jnp.float32)[:, None] / temperature**exponents
