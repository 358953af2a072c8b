"""The checksums of a checkpoint: a file of its own beside what they are of.

`<step>/checksums/metadata` is a JSON object:
    step: of the checkpoint.
    info: CRC-32 of the info.
    score: what the checkpoint is the best by; None without one.
    leaves: `params/encoder/norm/scale` -> type, shape and digest of each array; see `digest`.
    crc32: of all the others.

Checkpoints of older versions have none and are read as they are.
"""

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax.ops.trees import leaf_names
from vit_jax.training.checkpoints import agreement, digest
from vit_jax.training.checkpoints.damage import Damaged, read_json

ITEM = "checksums"


@dataclasses.dataclass(frozen=True)
class Checksums:
    """What a checkpoint was when it was saved; the module says what each field is.

    leaves: path -> `float32 (3, 4)` and the digest, as hexadecimal digits.
    """

    step: int
    info: int
    score: float | None
    leaves: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, step: int, items: Mapping[str, Any], info: Any, score: float | None) -> "Checksums":
        """Compute them; all processes of a run call this together.

        Args:
            step: of the checkpoint.
            items: name -> tree of arrays, which other processes may hold parts of.
            info: what is saved as JSON.
            score: what the checkpoint is the best by.
        """
        arrays = jax.tree.leaves(dict(items))
        described = zip(_types(arrays), _hexadecimal(arrays), strict=True)
        return cls(step, _crc32(info), score, dict(zip(leaf_names(dict(items)), described, strict=True)))

    def json(self) -> dict[str, Any]:
        """Return what is saved."""
        content = dataclasses.asdict(self)
        return content | {"crc32": _crc32(content)}

    def check_info(self, info: Any) -> None:
        """Raise Damaged unless this is the info that was saved."""
        if _crc32(info) != self.info:
            raise Damaged("its info is not what was saved")

    def check_types(self, name: str, tree: Any) -> None:
        """Raise Damaged unless an item has the leaves, with the types and shapes, that were saved.

        Args:
            name: of the item.
            tree: arrays, or what Orbax says of them.
        """
        there = dict(zip(leaf_names({name: tree}), _types(jax.tree.leaves(tree)), strict=True))
        saved = {path: kind for path, (kind, _) in self.leaves.items() if path.startswith(f"{name}/")}
        for path in sorted(there.keys() | saved.keys()):
            if there.get(path) != saved.get(path):
                raise Damaged(f"{path} is {there.get(path, 'missing')}, and was saved as {saved.get(path, 'nothing')}")

    def check_arrays(self, items: Mapping[str, Any]) -> None:
        """Raise Damaged unless these are the arrays that were saved; all processes of a run call this together.

        Args:
            items: name -> tree of arrays; those of some items will do.
        """
        paths = leaf_names(dict(items))
        for path, found in zip(paths, _hexadecimal(jax.tree.leaves(dict(items))), strict=True):
            if found != self.leaves[path][1]:
                raise Damaged(f"{path} is not what was saved")

    def items(self) -> set[str]:
        """Return the names of the items that hold arrays."""
        return {path.partition("/")[0] for path in self.leaves}


def read(folder: pathlib.Path) -> Checksums | None:
    """Read the checksums of a checkpoint.

    Args:
        folder: `<workdir>/checkpoints/<step>`.

    Returns:
        None for a checkpoint of an older version.

    Raises:
        Damaged: the file is not what was saved, or of another step.
        OSError: it cannot be read.
    """
    if not (folder / ITEM).exists():
        return None
    content = read_json(folder / ITEM / "metadata")
    if not isinstance(content, dict) or content.pop("crc32", None) != _crc32(content):
        raise Damaged(f"its {ITEM} are not what was saved")
    try:
        content["leaves"] = {path: (kind, digits) for path, (kind, digits) in content["leaves"].items()}
        found = Checksums(**content)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Damaged(f"its {ITEM} are none") from None
    if str(found.step) != folder.name:
        raise Damaged(f"it is the checkpoint of step {found.step}, which was renamed")
    return found


def _crc32(content: Any) -> int:
    """Return the CRC-32 of what JSON makes of a value."""
    as_read = json.loads(json.dumps(content))
    return zlib.crc32(json.dumps(as_read, sort_keys=True).encode())


def _types(leaves: list[Any]) -> list[str]:
    return [f"{leaf.dtype} {tuple(leaf.shape)}" for leaf in leaves]


def _hexadecimal(leaves: list[Any]) -> list[str]:
    """Return the digests of whole arrays as hexadecimal digits."""
    own = digest.digests(leaves)
    shared = [i for i, leaf in enumerate(leaves) if digest.is_shared(leaf)]
    if shared:
        own[shared] = agreement.summed(own[shared])
    return [f"{number:016x}" for number in own.tolist()]
