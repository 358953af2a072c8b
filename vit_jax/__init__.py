"""Vision Transformers in JAX: train, fine-tune, evaluate and ship them."""

import typing

from vit_jax.version import __version__

__all__ = ["InputError", "Predictor", "__version__", "attention_rollout", "create_model", "list_models", "load", "save"]

if typing.TYPE_CHECKING:
    from vit_jax.build.plugins import create_model, list_models
    from vit_jax.errors import InputError
    from vit_jax.inference.attention_maps import attention_rollout
    from vit_jax.inference.predictor import Predictor, load
    from vit_jax.inference.save import save

_HOME = {
    "InputError": "vit_jax.errors",
    "Predictor": "vit_jax.inference.predictor",
    "attention_rollout": "vit_jax.inference.attention_maps",
    "create_model": "vit_jax.build.plugins",
    "list_models": "vit_jax.build.plugins",
    "load": "vit_jax.inference.predictor",
    "save": "vit_jax.inference.save",
}


def __getattr__(name: str):
    """Import a public name when it is first used, so that `import vit_jax` and `vit-jax --help` are quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
