"""Other libraries' checkpoint formats, found by the names of their files.

`pretrained/<family>/<format>.py` reads and writes one library's checkpoints of one family of `vit_jax/models`, and has
at its top level what `Library` lists. A family may have several files of one format, `huggingface.py` and
`huggingface_mae.py`: the format's name ends at the first underscore. Files without `KINDS` are shared by the others.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import importlib
import pathlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import vit_jax.pretrained
from vit_jax.contracts import Task
from vit_jax.errors import InputError
from vit_jax.options import short
from vit_jax.pretrained.description import Description
from vit_jax.pretrained.export import ExportModel, Unsupported
from vit_jax.pretrained.files import Files
from vit_jax.types import Fields

_BY_MODEL_TYPE, _NPZ = "huggingface", "google"
"""The format whose config.json has a `model_type`, and the one without config.json; others have an `architecture`."""
_LONGEST = 2000  # characters of a message, which may have a hostile value in it
_KINDS = re.compile(r"^KINDS\b", re.MULTILINE)
DEFAULT_TASKS = (None, "classification")


class Library(Protocol):
    """What a file of a format has at its top level.

    KINDS: what the library calls the models that the file reads, with `*` and `?`: values of `model_type` (huggingface)
        or `architecture` (others) in config.json, or `plain` or `hybrid` for an `.npz`. Empty for a file that only
        writes.
    TASKS: names of the tasks that the file writes, None for a bare encoder; DEFAULT_TASKS where it is not there.
    """

    KINDS: tuple[str, ...]

    def describe(self, files: Files) -> Description:
        """Describe a checkpoint; for an `.npz` it also takes `num_heads` and `image_size`, as `load` has them.

        Raises:
            InputError: a model, or an option of it, that cannot be computed as in its own library.
        """
        ...

    def unsupported(self, model: ExportModel) -> list[Unsupported]:
        """List the settings of a model that the format cannot express."""
        ...

    def write(self, model: ExportModel, destination: pathlib.Path) -> str:
        """Write a model into an empty folder, or for an `.npz` as that file; gives what the library calls it."""
        ...

    def warnings(self, model: ExportModel) -> list[str]:
        """List, a sentence each, what around the model the format has no place for; optional."""
        return []


@dataclasses.dataclass(frozen=True)
class LibraryFile:
    """A file that reads or writes one format of one family.

    family: file of `vit_jax/models`.
    format: name of the format, `huggingface`.
    module: full name of the file, which `library` imports.
    """

    family: str
    format: str
    module: str

    @property
    def library(self) -> Any:
        """The imported file, a `Library`."""
        return importlib.import_module(self.module)

    @property
    def tasks(self) -> tuple[str | None, ...]:
        """Names of the tasks that it writes, None for a bare encoder; empty if it only reads."""
        return getattr(self.library, "TASKS", DEFAULT_TASKS) if hasattr(self.library, "write") else ()


@functools.cache
def library_files() -> tuple[LibraryFile, ...]:
    """Find the files of all formats, without importing them."""
    found = []
    [root] = map(pathlib.Path, vit_jax.pretrained.__path__)
    for folder in pkgutil.iter_modules([str(root)]):
        for file in pkgutil.iter_modules([str(root / folder.name)]) if folder.ispkg else ():
            if _KINDS.search((root / folder.name / f"{file.name}.py").read_text(encoding="utf-8")):
                module = f"{vit_jax.pretrained.__name__}.{folder.name}.{file.name}"
                found.append(LibraryFile(folder.name, file.name.partition("_")[0], module))
    return tuple(found)


def formats() -> tuple[str, ...]:
    """Name all formats, in alphabetical order.

    Example:
        >>> "timm" in formats()
        True
    """
    return tuple(sorted({file.format for file in library_files()}))


def writers(family: str, task: str | None) -> dict[str, list[LibraryFile]]:
    """Find what writes a kind of model: format -> files.

    Args:
        family: file of `vit_jax/models`.
        task: name of the model's task; None for a bare encoder.

    Example:
        >>> list(writers("vit", "classification"))
        ['google', 'huggingface', 'timm']
    """
    found: dict[str, list[LibraryFile]] = {}
    for file in library_files():
        if file.family == family and task in file.tasks:
            found.setdefault(file.format, []).append(file)
    return found


def describe(files: Files, *, num_heads: int | None = None, image_size: tuple[int, int] | None = None) -> Description:
    """Describe a checkpoint; the arguments are those of `load`.

    Raises:
        InputError: no file reads this kind of model, or the file that does refuses it.
    """
    config = files.config
    if config is None:
        file = _reader((_NPZ,), npz_kind(files), f"{files.name}: the kind of .npz")
        return _describe(file, files, num_heads=num_heads, image_size=image_size)
    if num_heads is not None:
        raise InputError(f"num_heads is for a Google .npz; {files.name} says it itself")
    if "architecture" in config:
        others = tuple(name for name in formats() if name not in (_BY_MODEL_TYPE, _NPZ))
        architecture = str(config["architecture"]).partition(".")[0]
        return _describe(_reader(others, architecture, f"{files.name}: architecture"), files)
    if "model_type" in config or "architectures" in config:
        return _describe(_reader((_BY_MODEL_TYPE,), config.get("model_type"), f"{files.name}: model_type"), files)
    raise InputError(
        f"{files.name}: its config.json has neither model_type (Hugging Face transformers) nor architecture (timm and "
        "T2T-ViT)"
    )


def _describe(file: LibraryFile, files: Files, **options: Any) -> Description:
    with refusing_values(files.name, file.format):
        return file.library.describe(files, **options)


@contextlib.contextmanager
def refusing_values(name: str, writer: str) -> Iterator[None]:
    """Turn what a config's or tensor's value of another kind leads to into an InputError that names the checkpoint.

    Args:
        name: of the checkpoint.
        writer: what writes such checkpoints, for the message.
    """
    try:
        yield
    except InputError as error:
        text = str(error) if name in str(error) else f"{name}: {error}"  # a part may not know where a value came from
        raise InputError(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...") from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(
            f"{name}: a value in its config.json is not of the kind that {writer} writes, or a tensor's shape "
            f"({type(error).__name__}: {reason})"
        ) from error


def _reader(formats: tuple[str, ...], kind: Any, what: str) -> LibraryFile:
    """Find the file whose pattern names a kind; the longest pattern that does, if there are several."""
    patterns = [(pattern, file) for file in library_files() if file.format in formats for pattern in file.library.KINDS]
    matching = [(len(pattern), file) for pattern, file in patterns if fnmatch.fnmatchcase(str(kind), pattern)]
    if not matching:
        valid = ", ".join(pattern for pattern, _ in patterns)
        raise InputError(f"{what} {short(kind)} is not supported; valid: {valid}")
    return max(matching, key=lambda each: each[0])[1]


def npz_kind(files: Files) -> str:
    """Tell what an `.npz` holds: `hybrid`, a ViT on a ResNet, or else `plain`."""
    return "hybrid" if any(name.startswith("conv_root") for name in files.tensors) else "plain"


def create_encoder(name: str, variant: str, options: Mapping[str, Any]) -> Any:
    """Create the encoder that a checkpoint describes; the arguments are the keys of `Description.model`."""
    return importlib.import_module(f"vit_jax.models.{name}").create(variant, **options)


def create_task(name: str, fields: Fields, options: Mapping[str, Any]) -> Task:
    """Create the task that a checkpoint describes.

    Args:
        name: a file of `vit_jax/tasks`.
        fields: of the data.
        options: of the task.
    """
    return importlib.import_module(f"vit_jax.tasks.{name}").create(fields, **options)
