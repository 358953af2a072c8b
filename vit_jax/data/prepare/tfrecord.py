"""TFRecord files without TensorFlow: TFDS keeps the same serialized examples in them as in array_record."""

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vit_jax.data.images.decoding import MAX_IMAGE_PIXELS, decode
from vit_jax.data.sources.tfds import first_line
from vit_jax.errors import InputError


class Tfrecords:
    """The examples of a split in TFRecord, serialized; one file at a time is held in memory."""

    def __init__(
        self, files: Sequence[str], lengths: Sequence[int], features: Any, max_pixels: int = MAX_IMAGE_PIXELS
    ) -> None:
        """Take the files, how many records each has by TFDS's metadata, the dataset's features, an image's limit."""
        self._max_pixels = max_pixels
        self._files, self._features = files, features
        self._ends = np.cumsum(lengths)
        self._lock = threading.Lock()
        self._file, self._records = -1, []

    def shards(self) -> list[np.ndarray]:
        """For each file the numbers of its records."""
        return np.split(np.arange(self._ends[-1]), self._ends[:-1])

    def load(self, record: int) -> bytes:
        """Return a serialized example, parsed, and its image decoded, once to see that they can be.

        Raises:
            InputError: it cannot; or its file has another number of records than it should.
        """
        file = int(np.searchsorted(self._ends, record, side="right"))
        place = record - int(self._ends[file - 1] if file else 0)
        with self._lock:
            if self._file != file:
                self._records = self._read(file)
                self._file = file
            data = self._records[place]
        try:
            example = self._features.deserialize_example_np(data, decoders={"image": tfds.decode.SkipDecoding()})
            decode(example["image"], 3, max_pixels=self._max_pixels)
        except Exception as error:  # protobuf and TFDS have many kinds for damaged bytes
            raise InputError(f"record {place} of {self._files[file]} cannot be read: {first_line(error)}") from None
        return data

    def _read(self, file: int) -> list[bytes]:
        records = [*read_tfrecord(self._files[file])]
        expected = int(self._ends[file] - (self._ends[file - 1] if file else 0))
        if len(records) != expected:
            raise InputError(f"{self._files[file]} has {len(records)} records; by dataset_info.json {expected}")
        return records


def read_tfrecord(file: str | os.PathLike) -> Iterator[bytes]:
    """Return the records of a file that is not compressed.

    Raises:
        InputError: a file that is cut off or is none of these, with the number of the record where that shows.

    Source: https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details": length (uint64), its
    checksum (uint32), the bytes, their checksum (uint32). The bytes' checksum is not looked at here.
    """
    with open(file, "rb") as stream:
        for record in range(2**63):
            head = stream.read(12)
            if not head:
                return
            length, checksum = struct.unpack("<QI", head) if len(head) == 12 else (0, 0)
            if len(head) < 12 or checksum != _masked_crc32c(head[:8]):
                raise InputError(f"record {record} of {file} is damaged: its length does not fit its checksum")
            data = stream.read(length)
            if len(data) < length or len(stream.read(4)) < 4:
                raise InputError(f"record {record} of {file} is cut off")
            yield data


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720, appendix B.4), then rotated right by 15 bits and moved by a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
