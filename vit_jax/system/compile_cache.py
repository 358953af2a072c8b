"""Keeps compiled programs on disk, so that the same run starts sooner the next time."""

import os
import pathlib


def keep_in(folder: pathlib.Path) -> None:
    """Make JAX keep what it compiles in a folder and look there first, unless $JAX_COMPILATION_CACHE_DIR is set.

    Does nothing on CPUs: XLA's CPU loader compares the features that a program was compiled for with the machine's,
    finds tuning hints among them that no machine has, and logs for each program that it may crash
    (https://github.com/jax-ml/jax/issues/38445).
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
