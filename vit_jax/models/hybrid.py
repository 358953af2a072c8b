"""The hybrid: a ViT on the features of a ResNet instead of on pixels.

Source: Dosovitskiy et al. 2020 (arXiv:2010.11929), section 3.1; Steiner et al. 2021 (AugReg, arXiv:2106.10270),
table 2; google-research/vision_transformer, configs/models.py.
"""

import dataclasses
import math

from jaxtyping import Array, Float

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.layers.resnet import EXPANSION, ResNet, stage_grids, total_stride
from vit_jax.models import vit


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of VARIANTS.

    vit: the size of the transformer, a row of the plain ViT's table up to its slash.
    stages: residual units in each stage of the ResNet.
    patch_size: side of the patches that are cut out of the ResNet's features.
    params: parameters at 224 px with a head of 1,000 classes.
    paper_params_millions: figure that the source prints; None if it prints none.
    source: papers and tables.
    """

    vit: str
    stages: tuple[int, ...]
    patch_size: int
    params: int
    paper_params_millions: float | None
    source: str


class Hybrid(vit.ViT):
    """The encoder: images to `Features`. `create` makes one by name.

    Its options are those of `ViT` and these:

    patch_size: height and width of a patch in cells of the ResNet's output; one number is both.
    resnet_stages: number of residual units in each stage of the ResNet; an empty tuple is its root alone.
    resnet_width: channels of the ResNet's root, a multiple of 32.

    The ResNet comes before the first block in `layer_number`, and is not recomputed under `remat`.
    """

    resnet_stages: tuple[int, ...] = (3, 4, 9)
    resnet_width: int = 64

    _patches_are_pixels = False

    def setup(self) -> None:
        """Make the layers."""
        super().setup()
        self.resnet = ResNet(self.resnet_stages, self.resnet_width, self.dtype)

    @property
    def stride(self) -> int:
        """Side in pixels of one cell of the ResNet's output."""
        return total_stride(len(self.resnet_stages))

    def grid_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches in an image of this height and width.

        Raises:
            InputError: the ResNet's output is smaller than a patch.
        """
        rows, columns = stage_grids(image_size, len(self.resnet_stages))[-1]
        patch_rows, patch_columns = self.patch_size
        if rows < patch_rows or columns < patch_columns:
            raise InputError(
                f"images of {image_size[0]}x{image_size[1]} px leave the ResNet as {rows}x{columns} cells, fewer than "
                f"the patch of {patch_rows}x{patch_columns} cells has"
            )
        return rows // patch_rows, columns // patch_columns

    def extent_of(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width in pixels of what the patches cover; it may reach beyond the image."""
        height, width = super().extent_of(image_size)
        return height * self.stride, width * self.stride

    def flops(self, image_size: tuple[int, int], channels: int = 3, *, patch_tokens: bool = True) -> int:
        """Count the FLOPs of the forward pass of one image, without a head; a training step takes three times as many.

        Only convolutions and matrix products count, a multiply-add as two.

        Args:
            image_size: height and width in pixels.
            channels: of the image.
            patch_tokens: see `__call__`.
        """
        root, last, *grids = stage_grids(image_size, len(self.resnet_stages))
        macs, features = math.prod(root) * 7**2 * channels * self.resnet_width, self.resnet_width
        for i, (units, grid) in enumerate(zip(self.resnet_stages, grids, strict=True)):
            width, cells = self.resnet_width * 2**i, math.prod(grid)
            for j in range(units):
                macs += math.prod(last) * features * width + cells * (3**2 + EXPANSION) * width**2
                macs += cells * features * EXPANSION * width if j == 0 else 0  # the projection of the input
                features, last = EXPANSION * width, grid
        return 2 * macs + super().flops(last, features, patch_tokens=patch_tokens)

    def embed(self, images: Float[Array, "b H W c"], *, train: bool) -> Float[Array, "b n dim"]:
        """Make tokens with their positions: `[B, H, W, C]` to `[B, prefix + h * w, D]`."""
        self.grid_of((images.shape[1], images.shape[2]))  # it may raise InputError
        return super().embed(self.resnet(images), train=train)


def create(variant: str, **overrides) -> Hybrid:
    """Make a hybrid by name.

    Args:
        variant: a row of VARIANTS, `"R50+B/16"`.
        **overrides: fields of `Hybrid` in place of the variant's; `patch_size` may be one number for both sides.

    Raises:
        InputError: an unknown variant, field or value.
    """
    if variant not in VARIANTS:
        raise InputError(f"hybrid has no variant {variant!r}; valid: {', '.join(VARIANTS)}")
    row = VARIANTS[variant]
    overrides = options.check_options("hybrid", Hybrid, overrides, _RULES)
    plain = vit.create(
        f"{row.vit}/{row.patch_size}", **{name: value for name, value in overrides.items() if name not in _RULES}
    )
    fields = {name: getattr(plain, name) for name in options.names_of(vit.ViT)}
    stages, width = overrides.get("resnet_stages", row.stages), overrides.get("resnet_width", 64)
    return Hybrid(**fields, resnet_stages=stages, resnet_width=width)


_RULES = {
    "resnet_stages": options.Rule(
        lambda x: isinstance(x, tuple) and all(map(options.is_count, x)), "numbers of 1 or more, or an empty tuple"
    ),
    "resnet_width": options.Rule(lambda x: options.is_count(x) and x % 32 == 0, "a multiple of 32"),
}

_AUGREG = (
    "Steiner et al. 2021 (AugReg, arXiv:2106.10270), table 2; its counts have a hidden layer as wide as the model in "
    "the head, which the text says was left out"
)
_UNCOUNTED = "Dosovitskiy et al. 2020 (arXiv:2010.11929), section 4.1, and configs/models.py of Google's code"

# params agree with timm 1.0.31's models of the same geometry, counted on PyTorch's meta device. R+Ti/16 is called so in
# the source, but its root halves an image twice, so that a patch of 8 cells is one of 32 pixels.
VARIANTS = {
    "R+Ti/16": Variant("Ti", (), 8, 6_337_704, 6.4, _AUGREG),
    "R26+S/32": Variant("S", (2, 2, 2, 2), 1, 36_431_912, 36.6, _AUGREG),
    "R26+B/32": Variant("B", (2, 2, 2, 2), 1, 101_383_976, None, _UNCOUNTED),
    "R50+B/16": Variant("B", (3, 4, 9), 1, 98_659_112, None, _UNCOUNTED),
    "R50+L/32": Variant("L", (3, 4, 6, 3), 1, 328_994_856, 330.0, _AUGREG),
}
