"""DeiT in the format of timm: written as a ViT with its options, as which it is also read."""

from vit_jax.pretrained.vit.timm import unsupported, warnings, write

__all__ = ["KINDS", "unsupported", "warnings", "write"]

KINDS = ()
