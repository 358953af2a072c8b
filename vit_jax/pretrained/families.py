"""Which families of models other libraries' checkpoints hold, and what reads and writes each."""

import dataclasses
import fnmatch
import types
from collections.abc import Callable, Iterable
from typing import Any

from flax import linen as nn

from vit_jax.errors import InputError
from vit_jax.models import deit, hybrid, pvt, swin, vit
from vit_jax.models import t2t as t2t_model
from vit_jax.pretrained.description import Description
from vit_jax.pretrained.files import Files
from vit_jax.pretrained.hybrid import google as google_hybrid
from vit_jax.pretrained.pvt import huggingface as huggingface_pvt
from vit_jax.pretrained.pvt import timm as timm_pvt
from vit_jax.pretrained.pvt import to_huggingface as to_huggingface_pvt
from vit_jax.pretrained.pvt import to_timm as to_timm_pvt
from vit_jax.pretrained.swin import huggingface as huggingface_swin
from vit_jax.pretrained.swin import timm as timm_swin
from vit_jax.pretrained.swin import to_huggingface as to_huggingface_swin
from vit_jax.pretrained.swin import to_timm as to_timm_swin
from vit_jax.pretrained.t2t import t2t, to_t2t
from vit_jax.pretrained.vit import google, huggingface, timm, to_google, to_huggingface, to_timm


@dataclasses.dataclass(frozen=True)
class Holding:
    """One family in one library's format.

    format: what the format is called where a model is saved, `huggingface`.
    family: the family's file in `vit_jax/models`.
    kinds: what the library calls models of this kind, with `*` and `?`: values of `model_type` (huggingface) or
        `architecture` (timm and others) in config.json, or of `npz_kind`.
    describe: files -> `Description`; for an `.npz` also with `num_heads` and `image_size`, as `load` has them.
    writer: a module with `unheld(model)` and `write(model, destination)`; see `formats`.
    """

    format: str
    family: types.ModuleType
    kinds: tuple[str, ...]
    describe: Callable[..., Description]
    writer: Any

    @property
    def family_name(self) -> str:
        """As `config.model.name` has it."""
        return self.family.__name__.rpartition(".")[2]


HOLDINGS = (
    Holding("huggingface", vit, ("vit", "deit"), huggingface.describe, to_huggingface),
    Holding("timm", vit, ("vit_*", "deit*"), timm.describe, to_timm),
    Holding("huggingface", swin, ("swin", "swinv2"), huggingface_swin.describe, to_huggingface_swin),
    Holding("timm", swin, ("swin_*", "swinv2_*"), timm_swin.describe, to_timm_swin),
    Holding("t2t", t2t_model, ("t2t_vit_*",), t2t.describe, to_t2t),
    Holding("huggingface", pvt, ("pvt", "pvt_v2"), huggingface_pvt.describe, to_huggingface_pvt),
    Holding("timm", pvt, ("pvt_v2_*",), timm_pvt.describe, to_timm_pvt),
    Holding("google", vit, ("plain",), google.describe, to_google),
    Holding("google", hybrid, ("hybrid",), google_hybrid.describe, to_google),
    # Only written: what is read of DeiT is a ViT with its options.
    Holding("huggingface", deit, (), huggingface.describe, to_huggingface),
    Holding("timm", deit, (), timm.describe, to_timm),
    Holding("google", deit, (), google.describe, to_google),
)
FORMATS = tuple(dict.fromkeys(row.format for row in HOLDINGS))
_BY_MODEL_TYPE, _NPZ = ("huggingface",), ("google",)


def describe(files: Files, *, num_heads: int | None, image_size: tuple[int, int] | None) -> Description:
    """Finds out what a checkpoint holds; the arguments are those of `load`.

    Raises:
        InputError: a kind of model that no family is, or what the family's reader refuses.
    """
    config = files.config
    if config is None:
        row = _find(_NPZ, npz_kind(files), f"{files.name}: the kind of .npz")
        return row.describe(files, num_heads=num_heads, image_size=image_size)
    if num_heads is not None:
        raise InputError(f"num_heads is for a Google .npz; {files.name} says it itself")
    if "architecture" in config:
        others = tuple(name for name in FORMATS if name not in _BY_MODEL_TYPE + _NPZ)
        architecture = str(config["architecture"]).partition(".")[0]
        return _read(_find(others, architecture, f"{files.name}: architecture"), files)
    if "model_type" in config or "architectures" in config:
        return _read(_find(_BY_MODEL_TYPE, config.get("model_type"), f"{files.name}: model_type"), files)
    raise InputError(
        f"{files.name}: its config.json has neither model_type (Hugging Face transformers) nor architecture (timm and "
        "T2T-ViT)"
    )


def _read(row: Holding, files: Files) -> Description:
    try:
        return row.describe(files)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another form than the reader knows
        raise InputError(
            f"{files.name}: a value in its config.json is not of the kind that {row.format} writes "
            f"({type(error).__name__}: {error})"
        ) from error


def npz_kind(files: Files) -> str:
    """`hybrid` for an `.npz` of a ViT on a ResNet, else `plain`."""
    return "hybrid" if any(name.startswith("conv_root") for name in files.tensors) else "plain"


def create_encoder(name: str, variant: str, options: dict[str, Any]) -> nn.Module:
    """Makes an encoder that a `Description` speaks of."""
    family = next(row.family for row in HOLDINGS if row.family_name == name)
    return family.create(variant, **options)


def writers(family_name: str) -> dict[str, Any]:
    """Format -> what writes models of a family."""
    return {row.format: row.writer for row in HOLDINGS if row.family_name == family_name}


def _find(formats: Iterable[str], kind: Any, what: str) -> Holding:
    rows = [row for row in HOLDINGS if row.format in formats]
    for row in rows:
        if any(fnmatch.fnmatchcase(str(kind), pattern) for pattern in row.kinds):
            return row
    valid = ", ".join(pattern for row in rows for pattern in row.kinds)
    raise InputError(f"{what} {kind!r} is not supported; valid: {valid}")
