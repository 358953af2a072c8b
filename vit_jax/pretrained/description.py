"""What a foreign checkpoint says of itself, in this library's terms."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from vit_jax.data.images.transforms import Preprocessing
from vit_jax.errors import InputError
from vit_jax.models.vit import VARIANTS
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.mapping import Name

SIZES = ("hidden_dim", "depth", "mlp_dim", "num_heads")


@dataclasses.dataclass(frozen=True)
class Description:
    """How to rebuild a checkpoint's model.

    model: family, variant and options, as a checkpoint of ours has them: `name`, `variant`, `options`.
    task: fields of `Classification` besides the number of classes; None if there is no head.
    class_names: in the order of the logits; empty if there is no head.
    preprocessing: as the checkpoint's own.
    names: the expanded table.
    antialias: how its library resizes position embeddings; see `resize_grid`.
    buffers: names of tensors that hold no weights, since the library works them out anew; as regular expressions for
        whole names.
    """

    model: dict[str, Any]
    task: dict[str, Any] | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    names: list[Name]
    antialias: bool = True
    buffers: tuple[str, ...] = ()


def plain_vit(options: dict[str, Any]) -> dict[str, Any]:
    """A `Description.model` of the plain ViT; a published size goes by its name.

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


def numbered_classes(count: int) -> tuple[str, ...]:
    """Names of classes that a checkpoint only numbers: ImageNet-1k's if there are 1,000, and otherwise the numbers.

    Source: ImageNet's classes in the order of their WordNet numbers, with WordNet 3.0's words for them.
    """
    if count != 1000:
        return tuple(map(str, range(count)))
    lines = (pathlib.Path(__file__).parent / "imagenet_classes.txt").read_text().splitlines()
    return tuple(line.partition("\t")[2] for line in lines)


def pair(value: Any, key: str) -> tuple[int, int]:
    """One number for both sides, or height and width.

    Raises:
        InputError: something else.
    """
    sides = tuple(value) if isinstance(value, list | tuple) else (value,)
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"{key} is {value!r}; valid: one number, or height and width")
    return sides


def in_proportion(before: tuple[int, int], old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    """The size before a cut to `new` that is to it as `before` was to `old`; at least `new` itself."""
    height, width = (max(round(b * n / o), n) for b, o, n in zip(before, old, new, strict=True))
    return height, width


def mlp_ratio(mlp_dim: int, dim: int) -> float:
    """The quotient, or a little more where its product with `dim`, rounded down, would be one less than `mlp_dim`."""
    ratio = mlp_dim / dim
    return ratio if int(dim * ratio) == mlp_dim else (mlp_dim + 0.5) / dim


def block_count(tensors: Iterable[str], start: str) -> int:
    """How many blocks there are among tensors called `{start}<number>` and then a dot or slash."""
    numbers = {name[len(start) :].replace("/", ".").partition(".")[0] for name in tensors if name.startswith(start)}
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def shape_of(files: Files, tensor: str, ndim: int) -> tuple[int, ...]:
    """A tensor's shape.

    Raises:
        InputError: there is no such tensor, or it has another number of axes.
    """
    if tensor not in files.tensors:
        raise InputError(f"{files.name} has no tensor {tensor!r}, which its format has")
    shape = files.tensors[tensor].shape
    if len(shape) != ndim:
        raise InputError(f"{files.name}: tensor {tensor!r} has shape {list(shape)}; valid: {ndim} axes")
    return shape
