"""Names of what is in a tree."""

from collections.abc import Mapping
from typing import Any

import jax


def leaf_names(tree: Any) -> list[str]:
    """List the paths of the leaves in tree order, `encoder/block_0/mlp/fc1/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one with dotted keys.

    Args:
        tree: dicts within dicts.
        prefix: of all keys.

    Example:
        >>> flat({"model": {"name": "vit", "options": {"depth": 2}}})
        {'model.name': 'vit', 'model.options.depth': 2}
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result
