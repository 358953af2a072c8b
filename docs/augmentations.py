"""Draws docs/images/augment_*.jpg, the pictures of docs/augmentation.md, from one photograph.

PYTHONPATH=. python docs/augmentations.py
"""

import pathlib

import jax
import numpy as np
from PIL import Image, ImageDraw

from vit_jax.data.augment import operations as ops
from vit_jax.data.augment.autoaugment import AutoAugment
from vit_jax.data.augment.color_jitter import ColorJitter
from vit_jax.data.augment.erase import Erase
from vit_jax.data.augment.flip import Flip
from vit_jax.data.augment.mix import Mix
from vit_jax.data.augment.randaugment import VARIANTS, RandAugment
from vit_jax.data.augment.shift import Shift
from vit_jax.data.augment.three_augment import ThreeAugment
from vit_jax.data.augment.trivialaugment import TrivialAugment
from vit_jax.data.images.transforms import Preprocessing, RandomResizedCrop
from vit_jax.data.loading import order
from vit_jax.ops.augment import make_prepare
from vit_jax.types import class_fields

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTO = ROOT / "tests" / "golden" / "image.png"
TILE_PX, GAP_PX, LABEL_PX = 96, 4, 200
DRAWS = 8
PREPROCESSING = Preprocessing((TILE_PX, TILE_PX), resize="shortest_edge", interpolation="bicubic")
FILL = (128, 128, 128)


def sheet(name: str, rows: list[tuple[str, list[np.ndarray]]]) -> None:
    """Write a picture with a labelled row of tiles, `[TILE_PX, TILE_PX, 3]` uint8, for each entry."""
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
    families = dict.fromkeys(VARIANTS["timm_increasing"].ops, "timm_increasing") | {"Cutout": "google"}
    rows = []
    for name, family in sorted(families.items()):
        tiles = []
        for magnitude in (1, 3, 5, 7, 9):
            brush = ops.Brush(np.random.default_rng(2), FILL, Image.Resampling.BICUBIC)
            tiles.append(np.asarray(ops.OPS[name](photo, family=family, strength=magnitude / 10, brush=brush)))
        rows.append((name, tiles))
    return rows


def host() -> list[tuple[str, list[np.ndarray]]]:
    """Each policy, and the random resized crop."""
    chosen = {
        "randaugment, timm\nM 9, N 2": RandAugment("timm"),
        "randaugment,\ntimm_increasing\nM 9 +- 0.5, N 2": RandAugment("timm_increasing", magnitude_std=0.5),
        "randaugment, paper\nM 9, N 2": RandAugment("paper"),
        "randaugment, google\nM 15, N 2 (medium1)": RandAugment("google", magnitude=15.0),
        "autoaugment, cifar": AutoAugment("cifar"),
        "autoaugment, imagenet": AutoAugment("imagenet"),
        "trivialaugment": TrivialAugment(),
        "three_augment": ThreeAugment(),
        "color_jitter\n0.3, 0.3, 0.3, 0": ColorJitter(0.3, 0.3, 0.3),
        "color_jitter\n0.4, 0.4, 0.4, 0.1": ColorJitter(0.4, 0.4, 0.4, 0.1),
    }
    crop = RandomResizedCrop(PREPROCESSING)
    rows = [("random_crop", [crop(PHOTO, order.generator(0, position)) for position in range(DRAWS)])]
    photo = Image.fromarray(PREPROCESSING(PHOTO))
    for label, augmentation in chosen.items():
        policy = augmentation.policy(FILL)
        rows.append((label, [np.asarray(policy(photo, order.generator(0, i), [])) for i in range(DRAWS)]))
    return rows


def device() -> list[tuple[str, list[np.ndarray]]]:
    """Show what is done inside the compiled step; the partner in mixing is a mirrored copy in other colours."""
    photo = PREPROCESSING(PHOTO)
    other = np.asarray(ops.hue(Image.fromarray(photo[:, ::-1]), 0.4))
    chosen = {
        "flip": [Flip()],
        "shift, 12 pixels": [Shift(12)],
        "erase, probability 1": [Erase(1.0)],
        "mix, mixup_alpha 0.8": [Mix(mixup_alpha=0.8)],
        "mix, cutmix_alpha 1": [Mix(cutmix_alpha=1.0)],
        "mix, mixup_alpha 0.8,\ncutmix_alpha 1,\nerase 0.25": [Mix(0.8, 1.0), Erase(0.25)],
    }
    rows, fields = [], class_fields(["photo", "other"])
    for label, augmentations in chosen.items():
        prepare = jax.jit(make_prepare((0.5,), (0.25,), fields=fields, augmentations=augmentations))
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
