"""Names of the leaves of a tree of arrays."""

from typing import Any

import jax


def leaf_names(tree: Any) -> list[str]:
    """Paths of the leaves in tree order, `encoder/block_0/mlp/fc1/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
