"""The ResNet below a hybrid's transformer: weight-standardised convolutions and group normalisation.

Source: Dosovitskiy et al. 2020 (arXiv:2010.11929), section 4.1; google-research/vision_transformer, models_resnet.py
and models_vit.py. It is the ResNet of Kolesnikov et al. 2019 (BiT, arXiv:1912.11370) in its normalisation and its place
of the stride (in the 3x3 convolution), but not pre-activated: norm and ReLU follow a convolution, as in He et al. 2015.
"""

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from vit_jax.layers import roles
from vit_jax.layers.norm import GroupNorm
from vit_jax.layers.patch_embed import check_channels

EXPANSION = 4
"""Ratio of the width of a residual unit's output to that of its 3x3 convolution."""


def stage_grids(image_size: tuple[int, int], num_stages: int) -> list[tuple[int, int]]:
    """Return height and width after the root's convolution, after its pooling, and after each stage.

    Each halving rounds up, as its padding does.
    """
    grids = [halved(image_size)]
    grids.append(halved(grids[-1]))
    for stage in range(num_stages):
        grids.append(halved(grids[-1]) if stage > 0 else grids[-1])
    return grids


def total_stride(num_stages: int) -> int:
    """Return the side in pixels of one cell of the output."""
    return 4 * 2 ** max(num_stages - 1, 0)


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """Halve each side, rounded up."""
    return -(-size[0] // 2), -(-size[1] // 2)


class ResNet(nn.Module):
    """Images to a grid of features: a root that divides their size by 4, and stages, which halve it but for the first.

    Submodules: `conv_root`, `gn_root`, and `stage<i>_unit<j>`, counted from 1.

    stages: number of residual units in each stage; an empty tuple is the root alone.
    width: channels of the root and of the first stage's 3x3 convolutions; they double from stage to stage.
    """

    stages: tuple[int, ...]
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w features"]:
        """Map images `[B, H, W, C]` to `[B, h, w, features]` in `dtype`; see `stage_grids` for h and w.

        Raises:
            InputError: images of other channels than those the model was made for.
        """
        if self.has_variable("params", "conv_root"):
            check_channels(images.shape[-1], self.get_variable("params", "conv_root")["kernel"].shape[2])
        x = StdConv(self.width, 7, 2, self.dtype, is_stem=True, name="conv_root")(images)
        x = nn.relu(GroupNorm(name="gn_root")(x)).astype(self.dtype)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, units in enumerate(self.stages):
            for j in range(units):
                stride = 2 if i > 0 and j == 0 else 1
                x = ResidualUnit(self.width * 2**i, stride, self.dtype, name=f"stage{i + 1}_unit{j + 1}")(x)
        return x


class ResidualUnit(nn.Module):
    """Bottleneck: convolutions of 1x1, 3x3 and 1x1, each with its norm, beside the input or its projection.

    The last norm's scale starts at 0, so that a new unit passes on its input alone.
    """

    width: int
    stride: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w features"]:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, 4 width]`, rounded up."""
        features = self.width * EXPANSION
        residual = x
        if x.shape[-1] != features or self.stride > 1:
            residual = StdConv(features, 1, self.stride, self.dtype, name="conv_proj")(x)
            residual = GroupNorm(name="gn_proj")(residual)
        y = StdConv(self.width, 1, 1, self.dtype, name="conv1")(x)
        y = nn.relu(GroupNorm(name="gn1")(y))
        y = StdConv(self.width, 3, self.stride, self.dtype, name="conv2")(y)
        y = nn.relu(GroupNorm(name="gn2")(y))
        y = StdConv(features, 1, 1, self.dtype, name="conv3")(y)
        y = GroupNorm(scale_init=nn.initializers.zeros, name="gn3")(y)
        return nn.relu(residual + y).astype(self.dtype)


class StdConv(nn.Module):
    """A convolution without bias whose kernel is standardised: mean 0 and deviation 1 for each output channel.

    The parameter `kernel` `[size, size, C, features]` is not standardised; 1e-5 is added to the deviation. Padding is
    XLA's `SAME`: where it is uneven, there is more of it at the lower right.

    features: output channels.
    size: side of the kernel.
    stride: of the convolution.
    dtype: of products.
    is_stem: whether it sees the image itself.

    Source: Qiao et al. 2019 (arXiv:1903.10520), equation 3; `StdConv` in Google's models_resnet.py. timm's
    `StdConv2dSame` adds its epsilon to the variance instead.
    """

    features: int
    size: int
    stride: int
    dtype: str = "float32"
    is_stem: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b H W c"]) -> Float[Array, "b h w features"]:
        """Map `[B, H, W, C]` to `[B, H / stride, W / stride, features]`, rounded up, in `dtype`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        role = roles.kernel(3, kind="stem" if self.is_stem else "kernel")
        kernel = roles.param(self, "kernel", nn.initializers.lecun_normal(), shape, role)
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        kernel = kernel / (kernel.std(axis=(0, 1, 2)) + 1e-5)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
