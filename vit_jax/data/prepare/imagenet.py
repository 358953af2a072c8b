"""ImageNet's training and validation archives (ILSVRC2012), read in place: neither is ever unpacked."""

import io
import os
import pathlib
import posixpath
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from vit_jax.data.prepare.archives import Contents, Split, member_name, members, open_tar
from vit_jax.data.prepare.image_archives import Images
from vit_jax.data.prepare.tar_members import TarArchive, files_in
from vit_jax.errors import InputError
from vit_jax.system.progress import progress_bar

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
LABELS = "ILSVRC2012_validation_ground_truth.txt"


def read_imagenet(path: pathlib.Path, class_names: Sequence[str]) -> Contents | None:
    """List the images of the training and the validation archive: of both, or of the one that is there.

    The validation labels come from the development kit, packed or not, if it lies there; or from its file of labels
    alone; or else from the list that TFDS carries.

    Args:
        path: a folder that holds the archives.
        class_names: the synsets, `n01440764`, in the order of the labels.

    Returns:
        None if neither archive is there.

    Raises:
        InputError: an archive that is damaged or holds what it should not; labels that do not fit.
    """
    splits = {}
    numbers = {name: label for label, name in enumerate(class_names)}
    if (path / TRAIN).is_file():
        splits["train"] = _train_split(path / TRAIN, numbers)
    if (path / VALIDATION).is_file():
        splits["validation"] = _validation_split(path / VALIDATION, numbers)
    return Contents(tuple(class_names), splits) if splits else None


def _train_split(archive: pathlib.Path, numbers: dict[str, int]) -> Split:
    """Return an archive of archives, one a class: `n01440764.tar` holds `n01440764_10026.JPEG`."""
    listed, labels = [], []
    with (
        open(archive, "rb") as file,
        open_tar(archive) as outer,
        progress_bar(f"listing {archive.name}", os.path.getsize(archive), "B") as bar,
    ):
        for member in outer:
            name = posixpath.basename(member_name(member.name, archive))
            if member.isdir():
                continue
            label = numbers.get(name.removesuffix(".tar"))
            if label is None or not name.endswith(".tar") or not member.isfile():
                raise InputError(f"{archive} holds {member.name!r}; valid: one archive a class, such as n01440764.tar")
            images = [*files_in(file, f"{archive}: {name}", member.offset_data, member.size)]
            if not images:
                raise InputError(f"{archive} is damaged: {name} in it holds no images")
            listed += images
            labels += [label] * len(images)
            bar.update(member.offset_data + member.size - bar.n)
    return Images(TarArchive(str(archive), str(archive)), listed, np.array(labels, np.int64)).split()


def _validation_split(archive: pathlib.Path, numbers: dict[str, int]) -> Split:
    """Return an archive of images, whose labels are listed in the order of their names."""
    with open(archive, "rb") as file:
        images = sorted(files_in(file, str(archive), 0, os.path.getsize(archive)), key=lambda image: image.path)
    synsets = _validation_synsets(archive.parent)
    if len(images) != len(synsets):
        raise InputError(f"{archive} holds {len(images):,} images, but there are labels for {len(synsets):,}")
    for line, synset in enumerate(synsets, 1):
        if synset not in numbers:
            raise InputError(f"the label of validation image {line}, {synset!r}, is not one of the classes")
    labels = np.array([numbers[synset] for synset in synsets], np.int64)
    return Images(TarArchive(str(archive), str(archive)), images, labels).split()


def _validation_synsets(folder: pathlib.Path) -> list[str]:
    """Return the synset of each validation image, in the order of their names.

    Raises:
        InputError: numbers whose synsets are not known.
    """
    listed = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    found = members(folder, (LABELS, "meta.mat"))
    if LABELS not in found and (folder / DEVKIT).is_file():
        found = members(folder / DEVKIT, (LABELS, "meta.mat"))
    if LABELS not in found:
        return listed
    lines = found[LABELS].decode(errors="replace").split()
    if not all(line.isdigit() for line in lines):
        return lines
    if "meta.mat" in found:
        synsets = _numbered_synsets(found["meta.mat"])
    else:  # the list that TFDS carries says which number is which synset
        synsets = dict(zip(lines, listed, strict=False))
        if [synsets[line] for line in lines] != listed:
            raise InputError(f"{folder}: {LABELS} holds numbers, which only meta.mat beside it explains; valid: both")
    unknown = [line for line in lines if line not in synsets]
    if unknown:
        raise InputError(f"{folder}: {LABELS} has the label {unknown[0]}, which is not in meta.mat")
    return [synsets[line] for line in lines]


def _numbered_synsets(meta: bytes) -> dict[str, str]:
    """ILSVRC2012_ID -> synset, of the development kit's meta.mat."""
    from scipy.io import loadmat

    try:
        rows = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        return {str(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    except Exception as error:  # whatever damaged bytes lead the reader to
        raise InputError(f"meta.mat is damaged: {error}") from None
