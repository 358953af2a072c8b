"""Writing a trained model for another library, or as a work directory."""

import pathlib
from collections.abc import Sequence

from vit_jax.errors import InputError
from vit_jax.inference.predictor import Predictor
from vit_jax.pretrained import libraries
from vit_jax.pretrained import save as pretrained_save
from vit_jax.pretrained.export import ALLOWED_DIFFERENCES
from vit_jax.system.atomic import writing
from vit_jax.system.paths import expanded
from vit_jax.training.checkpoints import reading

FORMATS = (*libraries.formats(), "workdir")


def save(predictor: Predictor, dest: str | pathlib.Path, *, to: str, allow: Sequence[str] = ()) -> str:
    """Write a model with its class names and preprocessing.

    What the format cannot express is refused, so that the model gives the same answers there.

    Args:
        predictor: from `vit_jax.load`.
        dest: a folder that does not exist or is empty; for `google` a `.npz` file that does not exist. It appears
            under this name only when it is complete.
        to: `huggingface` (transformers' ViT, DeiT, Swin and PVT), `timm`, `google` (AugReg `.npz`), `t2t` (the T2T-ViT
            authors' names), or `workdir`, which holds parameters and description alone: enough to load, not to continue
            training.
        allow: settings that the format need not hold, at the price of other answers there: `gelu`, `activation`,
            `norm_eps`, `embed_norm_eps`, `loss_type`, `resize`, `resize_to`, `crop_offset`, `interpolation`.

    Returns:
        What the model is called in that library, `ViTForImageClassification`.

    Warns:
        UserWarning: something around the model that the format has no place for.

    Raises:
        InputError: dest is taken, or the format cannot express the model.
    """
    unknown = [name for name in allow if name not in ALLOWED_DIFFERENCES]
    if unknown:
        raise InputError(f"allow has {unknown[0]!r}; valid: {', '.join(ALLOWED_DIFFERENCES)}")
    dest = free_destination(dest, to)
    info, params = predictor.info, predictor.params
    if to != "workdir":
        pretrained_save.check_format(info, to)  # first what no other name would mend
    if to == "google" and dest.suffix != ".npz":
        raise InputError(f"{dest} is no name for a Google checkpoint; valid: a file that ends in .npz")
    checked = None if to == "workdir" else pretrained_save.prepare(info, params, to=to, allow=allow)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with writing(dest) as part:
        if to != "google":
            part.mkdir()
        if checked is None:
            reading.write_params(part / "checkpoints", 0, params, info, variables=predictor.variables)
            name = f"{info['model']['name']} {info['model']['variant']}"
        else:
            name = checked.write(part)
    return name


def free_destination(dest: str | pathlib.Path, to: str) -> pathlib.Path:
    """Return the absolute path to write to.

    Raises:
        InputError: an unknown format, or something is there already.
    """
    if to not in FORMATS:
        raise InputError(f"unknown format {to!r}; valid: {', '.join(FORMATS)}")
    if str(dest) == "":
        raise InputError("the name of the destination is empty; valid: a folder, or for google a .npz file")
    path = expanded(dest).absolute()
    if to != "google" and path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        return path
    if path.exists() or path.is_symlink():
        raise InputError(f"{dest} exists already{'' if to == 'google' else ' and is no empty folder'}; choose another")
    return path
