"""What another library's checkpoint says of its model, in this library's terms."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.models.vit import VARIANTS
from vit_jax.options import short
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name
from vit_jax.synonyms import imagenet_classes
from vit_jax.types import Field, Fields, class_fields

MAX_BLOCKS = 1000
"""Of one model or stage; published ones have up to a hundred."""
SIZES = ("hidden_dim", "depth", "mlp_dim", "num_heads")


IMAGE_ONLY: Fields = {"image": Field("image", (None, None, None), "uint8")}
"""Fields of images without labels."""


@dataclasses.dataclass(frozen=True)
class Description:
    """How to rebuild a checkpoint's model.

    model: `name` (a file of `vit_jax/models`), `variant` and `options` of the encoder.
    preprocessing: as the checkpoint's own.
    names: the expanded table, a row for each parameter.
    task: `name` (a file of `vit_jax/tasks`) and `options`; None for a bare encoder.
    fields: of the data, with the names of the classes; see `classification`.
    antialias: how its library resizes position embeddings; see `resize_grid`.
    buffers: regular expressions for whole names of tensors that hold no weights, since the library computes them.
    """

    model: dict[str, Any]
    preprocessing: Preprocessing
    names: list[Name]
    task: dict[str, Any] | None = None
    fields: Fields = dataclasses.field(default_factory=lambda: IMAGE_ONLY)
    antialias: bool = True
    buffers: tuple[str, ...] = ()


def classification(class_names: Sequence[str], **options: Any) -> dict[str, Any]:
    """Return `task` and `fields` of the `Description` of a model with a classification head.

    Args:
        class_names: in the order of the logits.
        **options: of `tasks.classification`.

    Example:
        >>> classification(["cat", "dog"], loss_type="sigmoid")["fields"]["label"].kind
        'labels'
    """
    several = options.get("loss_type") == "sigmoid"
    return {
        "task": {"name": "classification", "options": options},
        "fields": class_fields(list(class_names), several=several),
    }


def plain_vit(options: dict[str, Any]) -> dict[str, Any]:
    """Make `Description.model` of a plain ViT; a published size goes by its name.

    Args:
        options: fields of `ViT`, its sizes and patch size among them.
    """
    options = dict(options)
    height, width = options.pop("patch_size")
    patch = f"{height}" if height == width else f"{height}x{width}"
    sizes = {name: options[name] for name in SIZES}
    for name, row in VARIANTS.items():
        if sizes == {field: getattr(row, field) for field in SIZES}:
            options = {key: value for key, value in options.items() if key not in SIZES}
            return {"name": "vit", "variant": f"{name.partition('/')[0]}/{patch}", "options": options}
    return {"name": "vit", "variant": f"B/{patch}", "options": options}


_IMAGENET_1K = re.compile(r"imagenet[-_ ]?(2012|1k)|(^|[^a-z0-9])in1k([^a-z0-9]|$)", re.IGNORECASE)


def numbered_classes(count: int, *, about: str = "") -> tuple[str, ...]:
    """Name classes that a checkpoint only numbers: by their numbers, or as ImageNet-1k does if it says it is of that.

    Args:
        count: number of classes.
        about: what the checkpoint, or its name, says of the data: `vit_base_patch16_224.augreg_in1k`.

    Example:
        >>> numbered_classes(3), numbered_classes(1000)[1], numbered_classes(1000, about="vit.augreg_in1k")[1]
        (('0', '1', '2'), '1', 'goldfish, Carassius auratus')
    """
    if count != 1000 or not _IMAGENET_1K.search(about):
        return tuple(map(str, range(count)))
    return tuple(names for _, names in imagenet_classes())


def pair(value: Any, key: str) -> tuple[int, int]:
    """Read one number for both sides, or height and width; NumPy's whole numbers too.

    Example:
        >>> pair(224, "image_size"), pair([8, 16], "image_size")
        ((224, 224), (8, 16))

    Raises:
        InputError: something else.
    """
    several = isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1
    sides: tuple[Any, ...] = tuple(value) if several else (value,)
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(is_whole(side) and side > 0 for side in sides):
        raise InputError(f"{key} is {short(value)}; valid: one number, or height and width")
    return int(sides[0]), int(sides[1])


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number of Python, NumPy or JAX; true and false are not."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return isinstance(value, int) and not isinstance(value, bool)


def in_proportion(before: tuple[int, int], old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    """Scale the size before a cut from `old` to `new`, so that it keeps its ratio; it is at least `new`."""
    height, width = (max(round(b * n / o), n) for b, o, n in zip(before, old, new, strict=True))
    return height, width


def mlp_ratio(mlp_dim: int, dim: int) -> float:
    """Divide, and adds a little where the product with `dim`, rounded down, would be one less than `mlp_dim`."""
    ratio = mlp_dim / dim
    return ratio if int(dim * ratio) == mlp_dim else (mlp_dim + 0.5) / dim


def block_count(files: Files, start: str) -> int:
    """Count the blocks whose tensors are called `{start}<number>` and then a dot or slash.

    Raises:
        InputError: there is a gap in their numbers, or more of them than any model has.
    """
    pattern = re.compile(re.escape(start) + r"([0-9]{1,9})[./]")
    numbers = {int(match[1]) for name in files.tensors if (match := pattern.match(name))}
    gap = next((number for number in range(len(numbers)) if number not in numbers), None)
    if gap is not None:
        raise InputError(f"{files.name} has tensors of {start}{max(numbers)}, but none of {start}{gap}")
    if len(numbers) > MAX_BLOCKS:
        raise InputError(f"{files.name} has {len(numbers)} blocks {start}<number>; valid: up to {MAX_BLOCKS}")
    return len(numbers)


def claimed_depth(files: Files, key: str, value: Any, start: str) -> int:
    """Check a number of blocks that a config claims against the tensors that are there.

    Args:
        files: the checkpoint.
        key: of the config, for the message.
        value: what it claims.
        start: what the blocks' tensors begin with, up to their number; see `block_count`.

    Raises:
        InputError: no number, or one of more blocks than there are tensors of.
    """
    there = block_count(files, start)
    if not is_whole(value) or not 0 <= value <= there:
        raise InputError(
            f"{files.name}: {key} is {short(value)}, but there are tensors of {there} blocks {start}<number>"
        )
    return int(value)


def claimed_channels(files: Files, config: dict[str, Any]) -> int:
    """Check the number of image channels that a config of transformers claims.

    Raises:
        InputError: no number, or more than any tensor there has.
    """
    value, most = config["num_channels"], max((max(x.shape, default=0) for x in files.tensors.values()), default=0)
    if not is_whole(value) or not 0 < value <= most:
        raise InputError(f"{files.name}: num_channels is {short(value)}; valid: the channels of its patch embedding")
    return int(value)


def shape_of(files: Files, tensor: str, ndim: int) -> tuple[int, ...]:
    """Return a tensor's shape.

    Raises:
        InputError: there is no such tensor, or it has another number of axes.
    """
    if tensor not in files.tensors:
        raise InputError(f"{files.name} has no tensor {tensor!r}, which its format has")
    shape = files.tensors[tensor].shape
    if len(shape) != ndim:
        raise InputError(f"{files.name}: tensor {tensor!r} has shape {list(shape)}; valid: {ndim} axes")
    return shape
