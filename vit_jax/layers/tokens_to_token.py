"""The tokens-to-token module: neighbouring tokens become one, with a small transformer before each step."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.layers import roles
from vit_jax.layers.attention import attention_weights
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import check_channels
from vit_jax.ops.patches import unfold, unfold_grid

TOKENS_TYPES = ("performer", "transformer")
"""Attention of the module's tokens: with random features, in time linear in their number, or with softmax."""

SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Of each soft split: side of the patches, stride and padding, in pixels or tokens."""

_EPSILON = 1e-8  # in the denominator of the Performer's attention, as in the source


def split_grids(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the rows and columns of tokens after each soft split of an image of this height and width.

    Raises:
        InputError: the image is smaller than a patch.
    """
    grids, size = [], image_size
    for side, stride, padding in SPLITS:
        size = unfold_grid(size, side, stride=stride, padding=padding)
        grids.append(size)
    return grids


class TokensToToken(nn.Module):
    """Makes tokens of images by three soft splits, with a `TokenTransformer` (`layer1`, `layer2`) between them.

    hidden_dim: width D of the tokens that leave it.
    token_dim: width of those within.
    tokens_type: one of TOKENS_TYPES.
    dropout: within the layers; in [0, 1).
    norm_eps: LayerNorm's epsilon.
    dtype: of products.

    Source: Yuan et al. 2021 (arXiv:2101.11986), section 3.1; models/t2t_vit.py (`T2T_module`) of the authors' code.
    Tokens keep their two axes here, so that the image need not be square.
    """

    hidden_dim: int
    token_dim: int
    tokens_type: str
    dropout: float
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b h w dim"]:
        """Map images `[B, H, W, C]` to `[B, h, w, D]` in `dtype`; see `split_grids` for h and w.

        Raises:
            InputError: the image is smaller than a patch, or it has other channels than those the model was made for.
        """
        if self.has_variable("params", "layer1"):
            width = self.get_variable("params", "layer1")["norm1"]["scale"].shape[0]
            check_channels(images.shape[-1], width // SPLITS[0][0] ** 2)
        x = images.astype(self.dtype)
        for i, (side, stride, padding) in enumerate(SPLITS):
            if i > 0:
                layer = TokenTransformer(
                    self.token_dim, self.tokens_type, self.dropout, self.norm_eps, self.dtype, name=f"layer{i}"
                )
                x = layer(x.reshape(x.shape[0], -1, x.shape[-1]), train=train).reshape(*x.shape[:3], -1)
            x = unfold(x, side, stride=stride, padding=padding)
        init = nn.initializers.xavier_uniform()
        return nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=init, name="project")(x)


class TokenTransformer(nn.Module):
    """A transformer layer of one head that changes the tokens' width; its first residual is the attention's values.

    Parameters: LayerNorms `norm1` and `norm2`; `query`, `key`, `value` (with biases only in a performer), `out`; `mlp`,
    as wide as the tokens; and of a performer `random_features` `[token_dim / 2, token_dim]`, which are never trained.

    token_dim: width of the tokens that leave it.
    tokens_type: one of TOKENS_TYPES.
    dropout: on what attention and MLP add; in [0, 1).

    Source: models/token_performer.py and models/token_transformer.py of the authors' code. As there, the softmax's
    scale is that of the width D of the tokens that come in, not of the keys. The authors have a dropout of 0.1 in a
    performer and none in a transformer.
    """

    token_dim: int
    tokens_type: str
    dropout: float
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b n dim"], *, train: bool) -> Float[Array, "b n token_dim"]:
        """Map tokens `[B, N, D]` to `[B, N, token_dim]` in `dtype`."""
        performer = self.tokens_type == "performer"
        init = nn.initializers.xavier_uniform()
        options = {"dtype": self.dtype, "kernel_init": init}
        y = LayerNorm(self.norm_eps, name="norm1")(x)
        query, key, value = (
            nn.Dense(self.token_dim, use_bias=performer, name=name, **options)(y) for name in ("query", "key", "value")
        )
        if performer:
            mixed = performer_attention(query, key, value, self._random_features())
        else:
            # attention_weights divides by the root of the keys' width.
            query = query * math.sqrt(self.token_dim / x.shape[-1])
            weights = attention_weights(query[:, None], key[:, None])[:, 0]  # [b, n, n]
            mixed = weights.astype(self.dtype) @ value
        mixed = nn.Dense(self.token_dim, name="out", **options)(mixed)
        x = value + nn.Dropout(self.dropout, deterministic=not train)(mixed)

        y = LayerNorm(self.norm_eps, name="norm2")(x)
        y = Mlp(self.token_dim, "exact", 0.0, self.dtype, name="mlp")(y, train=train)
        return x + nn.Dropout(self.dropout, deterministic=not train)(y)

    def _random_features(self) -> Float[Array, "m token_dim"]:
        count = self.token_dim // 2
        init = nn.initializers.orthogonal(math.sqrt(count))
        return roles.param(self, "random_features", init, (count, self.token_dim), roles.Role(is_fixed=True))


def performer_attention(
    query: Float[Array, "b n d"],
    key: Float[Array, "b m d"],
    value: Float[Array, "b m d"],
    features: Float[Array, "r d"],
) -> Float[Array, "b n d"]:
    """Estimate softmax(query key^T) value without ever computing the N x M weights.

    With f(x) = exp(features x - |x|^2 / 2) / sqrt(R), the mean of f(q) f(k) over random features is exp(q k), and the
    sums over the keys are taken first.

    Args:
        query: `[B, N, d]`.
        key: `[B, M, d]`.
        value: `[B, M, d]`.
        features: `[R, d]` float32, the random features.

    Returns:
        `[B, N, d]` in the value's dtype. All is computed in float32, as a softmax is, and the products with all its
        digits, which accelerators do not do by default: the rounding of an exponent becomes a relative error.

    Source: Choromanski et al. 2020 (arXiv:2009.14794), lemma 1, with positive orthogonal features; the scale of
    the products is 1 and 1e-8 is added to the denominator, as in the T2T authors' models/token_performer.py.
    """
    mapped_query, mapped_key = (_mapped(x.astype(jnp.float32), features) for x in (query, key))
    sums = jnp.einsum("bmr,bmd->brd", mapped_key, value.astype(jnp.float32), precision="highest")
    total = jnp.matmul(mapped_query, mapped_key.sum(axis=1)[:, :, None], precision="highest")  # [b, n, 1]
    mixed = jnp.matmul(mapped_query, sums, precision="highest")
    return (mixed / (total + _EPSILON)).astype(value.dtype)


def _mapped(x: Float[Array, "b n d"], features: Float[Array, "r d"]) -> Float[Array, "b n r"]:
    exponent = jnp.matmul(x, features.T, precision="highest") - jnp.square(x).sum(axis=-1, keepdims=True) / 2
    return jnp.exp(exponent) / math.sqrt(features.shape[0])
