"""Prepares datasets with TFDS's own code, which downloads them and needs TensorFlow."""

import contextlib
import importlib.util
import pathlib
import sys
from typing import Any

import tensorflow_datasets as tfds

from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError


def download(name: str, data_dir: str | None = None) -> pathlib.Path:
    """Download and prepares a TFDS dataset as array_record; gives its folder.

    Raises:
        InputError: a name that TFDS does not know, a dataset that is there already or cannot be prepared, or no
            TensorFlow.
    """
    folder = sources.data_folder(data_dir)
    if name == "digits":
        return pathlib.Path(str(sources.open_builder(name, folder).data_dir))
    try:
        builder: Any = tfds.builder(name, data_dir=folder, file_format="array_record", try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        raise InputError(f"TFDS has no dataset {name!r}; valid: one that it has, or --from PATH") from None
    except (AssertionError, ValueError) as error:
        raise InputError(f"dataset {name!r} cannot be prepared: {sources.first_line(error)}") from None
    target = pathlib.Path(str(builder.data_dir))
    if target.exists():
        raise InputError(f"{target} is there already; to prepare it again, remove it first")
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"to download {name}, TFDS needs TensorFlow, which is not installed; valid: 'pip install tensorflow', or "
            "--from PATH, from files that you have and without it"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):  # TFDS announces itself there
            builder.download_and_prepare()
    except Exception as error:  # of the network, of its libraries, of the dataset's own code
        raise InputError(
            f"TFDS cannot prepare {name}: {type(error).__name__}: {sources.first_line(error)}; valid: --from PATH, "
            "from files that you have"
        ) from error
    return target
