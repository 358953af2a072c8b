"""DeiT: the Vision Transformer with a token that learns from a teacher, and the details of its PyTorch code.

Source: Touvron et al. 2020, "Training data-efficient image transformers & distillation through attention"
(arXiv:2012.12877), section 4; facebookresearch/deit, models.py.
"""

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.models import vit
from vit_jax.models.vit import Variant, ViT

DEFAULTS = {"distillation_token": True, "gelu": "exact"}
"""Options whose defaults differ from those of `ViT`."""


def create(variant: str, **overrides) -> ViT:
    """Make a DeiT by name.

    Args:
        variant: a row of VARIANTS, or one of these sizes with another patch, as in `vit.create`.
        **overrides: fields of `ViT` in place of the variant's; `distillation_token=False` is the
            paper's model without distillation.

    Raises:
        InputError: an unknown variant, field or value.
    """
    sizes = [name.partition("/")[0] for name in VARIANTS]
    if str(variant).partition("/")[0] not in sizes:
        raise InputError(
            f"deit has no variant {variant!r}; valid: {', '.join(VARIANTS)}, or one of these sizes "
            f"({', '.join(sizes)}) with another patch, as in 'Ti/4'"
        )
    options.check_options("deit", ViT, overrides)  # vit.create checks the values
    return vit.create(variant, **(DEFAULTS | overrides))


_SOURCE = "facebookresearch/deit, README_deit.md, distilled, with both heads"

# params are with both heads of 1,000 classes and agree with timm 1.0.31's deit_*_distilled_patch16_224.
VARIANTS = {
    "Ti/16": Variant(192, 12, 768, 3, (16, 16), 5_910_800, 6, _SOURCE),
    "S/16": Variant(384, 12, 1536, 6, (16, 16), 22_436_432, 22, _SOURCE),
    "B/16": Variant(768, 12, 3072, 12, (16, 16), 87_338_192, 87, _SOURCE),
}
