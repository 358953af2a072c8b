"""Draws docs/images/augment_*.jpg, the pictures of docs/augmentation.md, from one photograph.

PYTHONPATH=. python docs/augmentations.py
"""

import pathlib

import jax
import numpy as np
from PIL import Image, ImageDraw

from vit_jax.data.augment import operations as augment
from vit_jax.data.augment import policies
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.data.loading import order
from vit_jax.ops.augment import make_prepare
from vit_jax.ops.mixing import Mixing

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTO = ROOT / "tests" / "golden" / "image.png"
TILE_PX, GAP_PX, LABEL_PX = 96, 4, 200
DRAWS = 8
PREPROCESSING = Preprocessing((TILE_PX, TILE_PX), resize="shortest_edge", interpolation="bicubic")
FILL = (128, 128, 128)


def sheet(name: str, rows: list[tuple[str, list[np.ndarray]]]) -> None:
    """Writes a picture with a labelled row of tiles, `[TILE_PX, TILE_PX, 3]` uint8, for each entry."""
    columns = max(len(tiles) for _, tiles in rows)
    step = TILE_PX + GAP_PX
    picture = Image.new("RGB", (LABEL_PX + columns * step, GAP_PX + len(rows) * step), "white")
    draw = ImageDraw.Draw(picture)
    for i, (label, tiles) in enumerate(rows):
        top = GAP_PX + i * step
        draw.multiline_text((GAP_PX, top + TILE_PX // 2), label, fill="black", anchor="lm", font_size=15)
        for j, tile in enumerate(tiles):
            picture.paste(Image.fromarray(tile), (LABEL_PX + j * step, top))
    picture.save(ROOT / "docs" / "images" / f"augment_{name}.jpg", quality=85)


def operations() -> list[tuple[str, list[np.ndarray]]]:
    """Each operation of timm_increasing at the magnitudes 1, 3, 5, 7, 9, and Cutout."""
    photo = Image.fromarray(PREPROCESSING(PHOTO))
    families = dict.fromkeys(policies.VARIANTS["timm_increasing"].ops, "timm_increasing") | {"Cutout": "google"}
    rows = []
    for name, family in sorted(families.items()):
        tiles = []
        for magnitude in (1, 3, 5, 7, 9):
            brush = augment.Brush(np.random.default_rng(2), FILL, Image.Resampling.BICUBIC)
            tiles.append(np.asarray(augment.OPS[name](photo, family=family, strength=magnitude / 10, brush=brush)))
        rows.append((name, tiles))
    return rows


def host() -> list[tuple[str, list[np.ndarray]]]:
    """Each policy, and the random resized crop."""
    randaugment = policies.RandAugment
    chosen = {
        "randaugment, timm\nM 9, N 2": randaugment(FILL, "timm"),
        "randaugment,\ntimm_increasing\nM 9 +- 0.5, N 2": randaugment(FILL, "timm_increasing", magnitude_std=0.5),
        "randaugment, paper\nM 9, N 2": randaugment(FILL, "paper"),
        "randaugment, google\nM 15, N 2 (medium1)": randaugment(FILL, "google", magnitude=15.0),
        "autoaugment_cifar": policies.AutoAugment("cifar", FILL),
        "autoaugment_imagenet": policies.AutoAugment("imagenet", FILL),
        "trivialaugment": policies.TrivialAugment(FILL),
        "three_augment": policies.ThreeAugment(),
        "color_jitter\n0.3, 0.3, 0.3, 0": policies.ColorJitter(0.3, 0.3, 0.3),
        "color_jitter\n0.4, 0.4, 0.4, 0.1": policies.ColorJitter(0.4, 0.4, 0.4, 0.1),
    }
    crop = RandomResizedCrop(PREPROCESSING)
    rows = [("crop, random", [crop(PHOTO, order.generator(0, position)) for position in range(DRAWS)])]
    photo = PREPROCESSING(PHOTO)
    for label, policy in chosen.items():
        rows.append((label, [policies.apply([policy], photo, order.generator(0, i)) for i in range(DRAWS)]))
    return rows


def device() -> list[tuple[str, list[np.ndarray]]]:
    """What is done inside the compiled step; the partner in mixing is a mirrored copy in other colours."""
    photo = PREPROCESSING(PHOTO)
    other = np.asarray(augment.hue(Image.fromarray(photo[:, ::-1]), 0.4))
    chosen = {
        "flip": {"flip": True},
        "shift_px 12": {"shift_px": 12},
        "erase_probability 1": {"erase_probability": 1.0},
        "mixup_alpha 0.8": {"mixing": Mixing(2, mixup_alpha=0.8)},
        "cutmix_alpha 1": {"mixing": Mixing(2, cutmix_alpha=1.0)},
        "mixup_alpha 0.8,\ncutmix_alpha 1,\nerase_probability 0.25": {
            "mixing": Mixing(2, mixup_alpha=0.8, cutmix_alpha=1.0),
            "erase_probability": 0.25,
        },
    }
    rows = []
    for label, options in chosen.items():
        prepare = jax.jit(make_prepare((0.5,), (0.25,), **options))
        tiles = []
        for i in range(DRAWS):
            batch = {"image": np.stack([photo, other]), "label": np.arange(2), "index": np.uint32([2 * i, 2 * i + 1])}
            image = prepare(jax.random.key(0), batch)["image"][0] * 0.25 + 0.5
            tiles.append(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8))
        rows.append((label, tiles))
    return rows


if __name__ == "__main__":
    for part in (operations, host, device):
        sheet(part.__name__, part())
