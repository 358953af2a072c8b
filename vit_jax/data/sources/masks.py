"""A folder of images and of their masks: pictures of the same size whose pixels are numbers of classes."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from vit_jax import class_names
from vit_jax.data.images.decoding import Picture, decode_numbers
from vit_jax.data.images.formats import is_image
from vit_jax.data.sources.files import Files
from vit_jax.data.sources.listing import IMAGES, Endings, some
from vit_jax.data.sources.readable import failures, mark_of
from vit_jax.data.sources.tree import Tree, walk
from vit_jax.errors import InputError
from vit_jax.types import Field, Fields

CLASSES_FILE = "classes.txt"
_BIT_DEPTH = 24  # place of the byte in a PNG file
_IMAGES, _MASKS = "images", "masks"
_VALID = "valid: a grey or palette PNG whose values are numbers of classes"


def ignored_by(names: tuple[str, ...]) -> tuple[int, ...]:
    """Values of a mask that mark pixels without a class: 255, unless this is the number of a class.

    Example:
        >>> ignored_by(("background", "cat"))
        (255,)
    """
    return (255,) if len(names) <= 255 else ()


def are_in(tree: Tree, folder: str) -> bool:
    """Return whether a folder holds images and masks."""
    return {_IMAGES, _MASKS} <= {*tree.listed(folder)[0]}


def read_masks(
    tree: Tree, folders: Mapping[str, str], others: Endings, *, classes_in: str
) -> tuple[Fields, dict[str, Files]]:
    """List images and their masks: `images/**/NAME.jpg` with `masks/**/NAME.png`.

    Args:
        tree: where they lie, on disk.
        folders: split -> folder of `images` and `masks`.
        others: counts the files that are not images.
        classes_in: folder of `classes.txt`, which has the name of a class on each line, class 0 first.

    Returns:
        The fields, and split -> files.

    Raises:
        InputError: no images, an image without a mask or with several, a mask that is not a PNG, or class names that
            are missing or not unique.
    """
    names = _class_names(os.path.join(classes_in, CLASSES_FILE))
    splits = {}
    for split, folder in folders.items():
        where = tree.name(folder)
        if not are_in(tree, folder):
            like = next(iter(folders.values()))
            raise InputError(f"{where} lacks {_IMAGES} or {_MASKS}; valid: both, as in {like or tree.root}")
        inside = set(tree.listed(folder)[1]) - {CLASSES_FILE}
        loose = [name for name in sorted(inside) if is_image(name)]
        if loose:
            raise InputError(f"{os.path.join(where, loose[0])} lies beside {_IMAGES} and {_MASKS}; valid: in {_IMAGES}")
        splits[split] = _pairs(tree, folder, others)
    image = Field("image", (None, None, None), "uint8")
    return {"image": image, "mask": Field("mask", (None, None), names=names, ignore=ignored_by(names))}, splits


def _pairs(tree: Tree, folder: str, others: Endings) -> Files:
    paths = sorted(walk(tree, os.path.join(folder, _IMAGES), others))
    if not paths:
        where = tree.name(os.path.join(folder, _IMAGES))
        raise InputError(f"{where} holds no images; valid: {IMAGES}")
    masks: dict[str, str] = {}
    for path in sorted(walk(tree, os.path.join(folder, _MASKS), others)):
        stem = _stem(path, os.path.join(folder, _MASKS))
        if not path.lower().endswith(".png"):
            raise InputError(f"{tree.name(path)} is no PNG; {_VALID}")
        if stem in masks:
            raise InputError(f"{tree.name(path)} and {masks[stem]} are masks of one image; valid: one of them")
        masks[stem] = path
    stems = [_stem(path, os.path.join(folder, _IMAGES)) for path in paths]
    missing = [path for path, stem in zip(paths, stems, strict=True) if stem not in masks]
    if missing:
        more = f", one of {len(missing)}," if len(missing) > 1 else ""
        expected = os.path.join(tree.name(folder), _MASKS, _stem(missing[0], os.path.join(folder, _IMAGES)) + ".png")
        raise InputError(f"{tree.name(missing[0])}{more} has no mask; valid: {expected}")
    return Files(tree.root, paths, masks=[masks[stem] for stem in stems])


def _stem(path: str, folder: str) -> str:
    """`a/b` of `train/images/a/b.jpg` in `train/images`."""
    return os.path.splitext(os.path.relpath(path, folder))[0]


def _class_names(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            names = tuple(line.strip() for line in file.read().rstrip().split("\n"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; valid: a class's name on each line") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8; valid: a class's name on each line") from None
    for number, name in enumerate(names):
        if not name:
            raise InputError(f"{path}, line {number + 1}, is empty; valid: the name of class {number}")
        if name in names[:number]:
            raise InputError(f"{path}, line {number + 1}, repeats {name!r}; valid: each name once")
    if twins := class_names.twins(names):
        raise InputError(f"{path} has two classes whose names look the same, {twins[0]!a} and {twins[1]!a}; valid: one")
    return names


def _read_values(path: str) -> np.ndarray:
    """Decode a mask: `[H, W]` int32, of a palette the indices."""
    values = decode_numbers(path)
    if _header(path) in (b"\2\0", b"\4\0"):  # which Pillow spreads over a byte
        raise InputError(f"{path} is grey of less than 8 bits; {_VALID}, of 8 or 16 bits or with a palette")
    return values


def _header(path: str) -> bytes:
    """Return bit depth and colour type of a PNG file, each a byte; grey is of type 0."""
    with open(path, "rb") as file:
        return file.read(_BIT_DEPTH + 2)[_BIT_DEPTH:]


@dataclasses.dataclass(frozen=True)
class MaskCheck:
    """Refuses masks that do not fit their images or their classes, before the first step.

    field: of the mask.
    """

    field: Field

    def __call__(self, files: Files, *, name: str, max_pixels: int) -> None:
        """Read the masks of a split that have not passed before.

        Args:
            files: with readable images and masks.
            name: of the split.
            max_pixels: of an image.

        Raises:
            InputError: a mask of another size than its image, or with several channels, or values that are no classes;
                these with the share of each value.
        """
        masks = [os.path.join(files.root, path) for path in files.masks or ()]
        images = [os.path.join(files.root, path) for path in files.paths]
        against = (len(self.field.names), self.field.ignore)
        bad = failures(
            len(masks),
            lambda place: self._check(images[place], masks[place], max_pixels),
            lambda place: mark_of(masks[place], mark_of(images[place]), *against),
            root=files.root,
            name=f"{name}, values of the masks",
        )
        if not bad:
            return
        more = f"; {len(bad) - 1} more masks of {name} have faults" if len(bad) > 1 else ""
        raise InputError(bad[min(bad)] + more)

    def _check(self, image: str, mask: str, max_pixels: int) -> None:
        values = _read_values(mask)
        picture = Picture(image, 3, max_pixels)
        if values.shape != (picture.height, picture.width):
            raise InputError(
                f"{mask} has {values.shape[0]}x{values.shape[1]} pixels and its image {image} "
                f"{picture.height}x{picture.width} (height x width); valid: the same size"
            )
        classes = len(self.field.names)
        shares = value_shares(values)
        unknown = [value for value in shares if value >= classes and value not in self.field.ignore]
        if unknown:
            ignored = "".join(f"; {value} is ignored" for value in self.field.ignore)
            raise InputError(
                f"{mask} has values without a class: {some([str(value) for value in unknown])}; valid: 0 to "
                f"{classes - 1}, the lines of {CLASSES_FILE}{ignored}; its values are "
                + some([f"{value} ({share:.1%})" for value, share in shares.items()], 12)
            )


def value_shares(values: np.ndarray) -> dict[int, float]:
    """Count a mask's values: value -> share of the pixels, ascending.

    Example:
        >>> value_shares(np.array([[0, 0], [0, 7]]))
        {0: 0.75, 7: 0.25}
    """
    found, counts = np.unique(values, return_counts=True)
    return {int(value): float(count / values.size) for value, count in zip(found, counts, strict=True)}
