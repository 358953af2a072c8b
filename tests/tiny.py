"""A tiny model of each family, for the tests that run over all of them."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Tiny:
    """One family's.

    variant: a row of its VARIANTS.
    options: that make it small.
    sizes: heights and widths of images that it takes, the second not square.
    without: of the suite's checks, those that do not apply; the reason stands beside the row.
    """

    variant: str
    options: dict[str, Any]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    without: tuple[str, ...] = ()


TINY = {
    "deit": Tiny("Ti/4", {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}, ((16, 16), (8, 20))),
    "pvt": Tiny(
        "B0",
        {
            "hidden_dims": (8, 16, 24, 32),
            "depths": (1, 2, 1, 1),
            "num_heads": (1, 2, 3, 4),
            "mlp_ratios": (2, 2, 2, 2),
        },
        ((64, 64), (64, 36)),  # smaller ones are reduced to a single key, which attention learns nothing from
    ),
    "swin": Tiny(
        "T/2", {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "mlp_ratio": 2.0}, ((32, 32), (24, 44))
    ),
    "vit": Tiny("Ti/4", {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2}, ((16, 16), (8, 20))),
    "hybrid": Tiny(
        "R50+B/16",
        {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "resnet_stages": (1, 1), "resnet_width": 32},
        ((32, 32), (16, 48)),
    ),
    # Its random features, like a softmax, are computed in float32, with matrix products.
    "t2t": Tiny(
        "14",
        {"hidden_dim": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "token_dim": 8},
        ((32, 32), (16, 48)),
        without=("bfloat16 in all products",),
    ),
}
