"""The smallest sensible model of each family on the digits, enlarged to 32x32 pixels where the family needs it.

python train.py --config=configs/digits_families.py:vit --workdir=runs/digits_vit

docs/results.md has what each reached.
"""

from ml_collections import ConfigDict

from configs import common, digits

# Family -> the model's options, and the side in pixels that the images are enlarged to.
FAMILIES = {
    "deit": ({"variant": "Ti/4", "hidden_dim": 64, "depth": 4, "mlp_dim": 128, "num_heads": 4}, 8),
    "swin": ({"variant": "T/4", "embed_dim": 24, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "mlp_ratio": 2.0}, 32),
    "pvt": (
        {
            "variant": "B0",
            "hidden_dims": (16, 32, 48, 64),
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 2, 3, 4),
            "mlp_ratios": (4, 4, 2, 2),
            "reductions": (4, 2, 1, 1),  # the maps are 8, 4, 2 and 1 wide
        },
        32,
    ),
    "vit": ({"variant": "Ti/4", "hidden_dim": 64, "depth": 4, "mlp_dim": 128, "num_heads": 4, "pooling": "gap"}, 8),
    "hybrid": (
        {"variant": "R50+B/16", "hidden_dim": 64, "depth": 2, "mlp_dim": 128, "num_heads": 4}
        | {"resnet_stages": (1, 1), "resnet_width": 32},
        16,
    ),
    "t2t": (
        {"variant": "14", "hidden_dim": 64, "depth": 4, "mlp_dim": 128, "num_heads": 4, "token_dim": 32},
        32,
    ),
}


def get_config(family: str = "vit") -> ConfigDict:
    """Return the run of one family.

    Args:
        family: of FAMILIES.
    """
    if family not in FAMILIES:
        raise ValueError(f"digits_families has no variant {family!r}; valid: {', '.join(FAMILIES)}")
    config = digits.get_config().unlock()
    options, side = FAMILIES[family]
    config.model = common.get_config().model  # without what the digits' config chooses for its ViT
    config.model.update({"name": family, "variant": options["variant"]})
    config.model.options = {"drop_path": 0.1} | {key: value for key, value in options.items() if key != "variant"}
    config.data.image_size = (side, side)
    config.num_epochs = 60.0
    return config.lock()
