"""Which files are images, by their endings and for Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.images.decoding import decode
from vit_jax.data.images.formats import formats, is_decoded, is_image
from vit_jax.errors import InputError

ENDINGS = [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".mpo", ".jp2"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_read_counts(ending, tmp_path):
    file = tmp_path / f"a{ending.upper()}"
    Image.new("L", (8, 8)).save(file, Image.registered_extensions()[ending])
    assert decode(file, 3).size == (8, 8) and is_image(file) and is_image(str(file).lower())


def test_all_that_pillow_writes_and_reads_counts():
    for ending, name in Image.registered_extensions().items():
        assert is_image(f"a.b{ending}") == is_decoded(name)
    assert not any(is_image(name) for name in ("a.txt", "a", ".jpg", "jpg", "a.jpg.txt", "a.pdf", "a.h5", "a.mpg"))
    assert {"JPEG", "PNG", "TIFF"} <= set(formats()) and not {"HDF5", "MPEG", "EPS"} & set(formats())


@pytest.mark.parametrize("kind", ["EPS", "HDF5"])
def test_what_pillow_leaves_to_others_is_one_line(kind):
    file = io.BytesIO(b"\x89HDF\r\n\x1a\n" + bytes(100))
    if kind == "EPS":
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "EPS")
    with pytest.raises(InputError, match=f"the image is of the format {kind}, which is not decoded"):
        decode(file.getvalue(), 3)
