"""What a family's or a task's own test file tells the suites that run over all of them."""

import importlib
import importlib.util
from typing import Any

from vit_jax.build import plugins


def own_rows(kind: str, attribute: str) -> dict[str, Any]:
    """The attribute of test_NAME.py for each name of a kind of plugin; a name whose test lacks it is left out."""
    found = {}
    for name in plugins.names(kind):
        if importlib.util.find_spec(f"test_{name}"):
            module = importlib.import_module(f"test_{name}")
            if hasattr(module, attribute):
                found[name] = getattr(module, attribute)
    return found
