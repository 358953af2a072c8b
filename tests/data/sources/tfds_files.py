"""Small TFDS datasets for tests."""

import io

import numpy as np
from PIL import Image
from tqdm import tqdm

from vit_jax.data.prepare import shards as shards_writer


def write_dataset(folder, features, examples, *, name="small", shards=1):
    """A TFDS dataset of one split, train."""
    folder.mkdir(parents=True)
    records = [features.serialize_example(example) for example in examples]
    numbers = np.array_split(np.arange(len(records)), shards)
    split = shards_writer.write_split(folder, name, "train", numbers, records.__getitem__, tqdm(disable=True))
    shards_writer.write_metadata(folder, features, [split], version="1.0.0", description="", homepage="")


def png(level=255):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()
