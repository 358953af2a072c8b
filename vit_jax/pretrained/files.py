"""The files of a checkpoint: a folder, a `.safetensors` or `.npz` file, or what `hub` fetches."""

import dataclasses
import difflib
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vit_jax.errors import InputError
from vit_jax.options import short
from vit_jax.pretrained import hub
from vit_jax.pretrained.reading import read_json, read_npz, read_safetensors, regular_file
from vit_jax.system.paths import expanded, is_folder

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
"""In which transformers 5 keeps the image processor together with what else a model needs, such as a tokenizer."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
VALID = (
    "a work directory of train.py, a folder with config.json and *.safetensors, a Google .npz file or URL, "
    "or a Hugging Face id such as google/vit-base-patch16-224"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = re.compile(r"[^/\\\0]+\.safetensors")
_URL = re.compile(r"[a-z0-9]+://.+")


@dataclasses.dataclass(frozen=True)
class Files:
    """A checkpoint as it was found.

    name: for messages, and in a Google checkpoint for what its name says.
    tensors: name -> array, float32 or what the file holds.
    config: of config.json; None for an `.npz`.
    preprocessor: of the image processor, if a file describes one.
    preprocessor_file: the name of that file.
    prefix: what all tensors' names began with there, and was taken off; see `prefixes`.
    about: the whole URL or path, for what folders' names say.
    """

    name: str
    tensors: dict[str, np.ndarray]
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    preprocessor_file: str = PREPROCESSOR
    prefix: str = ""
    about: str = ""


def open_source(source: str | pathlib.Path, *, revision: str | None = None) -> Files:
    """Find and reads a checkpoint.

    Args:
        source: a folder, a `.npz` or `.safetensors` file (with config.json beside it), a URL of an `.npz`, or a hub id.
        revision: branch, tag or commit on the hub; None is its main branch.

    Raises:
        InputError: nothing there, or nothing that is read here.
    """
    if source == "":  # a path of which would be this folder
        raise InputError(f"the name of the model is empty; valid: {VALID}")
    name, path = str(source), expanded(source)
    if is_folder(path):
        try:
            return _folder(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if name.lower().endswith(PICKLES) and (regular_file(path) or not _HUB_ID.fullmatch(name)):
        raise InputError(f"{name}: {_pickle(path.name)}")
    if _URL.fullmatch(name):
        if not name.lower().endswith(".npz"):
            raise InputError(f"{name} is not read; valid as a URL: a Google .npz file")
        return Files(name.rsplit("/", 1)[-1], read_npz(hub.download(name)), about=name)
    is_file = regular_file(path) is not None
    if is_file and path.suffix == ".npz":
        return Files(path.name, read_npz(path), about=f"{path.parent.name}/{path.name}")
    if is_file and path.suffix == ".safetensors":
        return _read(path.parent.name, lambda file: path if file == WEIGHTS else regular_file(path.parent / file))
    if is_file:
        raise InputError(f"{name} is no checkpoint that is read here; valid: {VALID}")
    siblings = sorted(str(sibling) for sibling in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(str(path), siblings, n=1, cutoff=0.8)
    if near and len(path.parts) > 1:  # rather a slip of the pen than a hub id
        raise InputError(f"{name} does not exist; nearest: {near[0]}")
    is_id = isinstance(source, str) and _HUB_ID.fullmatch(source) and path.suffix not in (".npz", ".safetensors")
    in_folder = len(path.parts) > 1 and path.parent.is_dir()
    if is_id and (not in_folder or hub.is_cached(name, revision)):
        return _read(name, hub.finder(name, revision, valid=VALID))
    if in_folder:
        from_hub = f"; the model of the Hugging Face hub, if that is meant: `hf download {name} --local-dir {name}`"
        contents = _contents(path.parent, siblings)
        raise InputError(f"{name} does not exist; {contents}; valid: {VALID}{from_hub if is_id else ''}")
    raise InputError(f"{name} is no work directory, folder or file that exists; valid: {VALID}")


def _contents(folder: pathlib.Path, paths: list[str], show: int = 5) -> str:
    """Return the first names that could have been meant, in words."""
    names = [name for name in (pathlib.Path(path).name for path in paths) if not name.startswith(".")]
    if not names:
        return f"{folder} is an empty folder"
    return f"{folder} holds {', '.join(names[:show])}{f' and {len(names) - show} more' if len(names) > show else ''}"


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Write a JSON object."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_safetensors(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Write tensors in one file, marked as PyTorch's layouts, which transformers wants to see."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets the owner alone read it


def _folder(folder: pathlib.Path) -> Files:
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return _read(str(folder), lambda file: regular_file(folder / file))
    if len(weights) == 1:  # by another name
        return _read(
            str(folder), lambda file: regular_file(weights[0]) if file == WEIGHTS else regular_file(folder / file)
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise InputError(f"{folder / pickles[0]}: {_pickle(pickles[0])}")
    if weights:
        raise InputError(f"{folder} holds {len(weights)} *.safetensors files without {INDEX}; valid: one, or the index")
    raise InputError(
        f"{folder} is no work directory and no checkpoint: it holds neither checkpoints/<step> nor *.safetensors; "
        f"valid: {VALID}"
    )


def _pickle(file: str) -> str:
    """Return what is said of a file that only unpickling could read, which could run any code."""
    return (
        "a pickle is not read, since it can run any code; convert it once, where PyTorch is installed: "
        'python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{file}', map_location='cpu', weights_only=True); w = w.get('model', w); "
        f"s.save_file({{k: v.contiguous().clone() for k, v in w.items()}}, '{WEIGHTS}')\""
    )


def _read(name: str, find: Callable[[str], pathlib.Path | None]) -> Files:
    """Read config, weights and preprocessing; `find` gives a file's path, or None if there is none."""
    path = find("config.json")
    if path is None:
        raise InputError(f"{name} has no config.json, which says what model its weights are of")
    config = read_json(path)
    # timm keeps its preprocessing in config.json.
    preprocessor, file = (None, PREPROCESSOR) if "architecture" in config else _preprocessor(find)
    return Files(name, _weights(name, find), config, preprocessor, preprocessor_file=file)


def _preprocessor(find: Callable[[str], pathlib.Path | None]) -> tuple[dict[str, Any] | None, str]:
    """Read what describes the image processor, and tell in which file; the newer one goes first, as in transformers."""
    path = find(PROCESSOR)
    nested = None if path is None else read_json(path).get("image_processor")
    if nested is not None:
        if not isinstance(nested, dict):
            raise InputError(f"{path}: image_processor is {short(nested)}; valid: an object")
        return nested, PROCESSOR
    path = find(PREPROCESSOR)
    return (None if path is None else read_json(path)), PREPROCESSOR


def _weights(name: str, find: Callable[[str], pathlib.Path | None]) -> dict[str, np.ndarray]:
    single = find(WEIGHTS)
    if single is not None:
        return read_safetensors(single)
    index = find(INDEX)
    if index is None:
        raise InputError(f"{name} has neither {WEIGHTS} nor {INDEX}; if it has a .bin file: {_pickle('model.bin')}")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise InputError(f"{index} has no weight_map")
    for shard in places.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            shown = shard if isinstance(shard, str) and shard.isprintable() else short(shard)
            raise InputError(f"{name} has no {shown[:200]}, which {INDEX} names; valid: a *.safetensors file beside it")
    tensors = {}
    for shard in sorted(set(places.values())):
        path = find(shard)
        if path is None:
            raise InputError(f"{name} has no {shard}, which {INDEX} names")
        tensors |= read_safetensors(path)
    lacking = sorted(places.keys() - tensors.keys())
    if lacking:
        raise InputError(f"{name} has no tensor {lacking[0]!r}, which {INDEX} names")
    return tensors
