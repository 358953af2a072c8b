"""TFDS datasets in TFRecord, and what is refused."""

import os
import struct

import pytest
import tensorflow_datasets as tfds
from archive_files import examples, pets

from vit_jax.data.prepare import prepare
from vit_jax.data.sources import tfds as sources
from vit_jax.errors import InputError


def crc32c(data):
    """Bit by bit, most significant first on reflected input: another way than the library's."""
    remainder = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            feedback = (remainder ^ (byte >> bit)) & 1
            remainder = remainder >> 1 ^ 0x82F63B78 * feedback
    return remainder ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def to_tfrecord(folder, data_dir):
    """Rewrites a prepared dataset in TFRecord, as TFDS would have."""
    builder = tfds.builder_from_directory(folder)
    for split in builder.info.splits.values():
        raw = builder.as_data_source(split.name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        records = iter(raw)
        for file, length in zip(split.filepaths, split.shard_lengths, strict=True):
            with open(str(file).replace("array_record", "tfrecord"), "wb") as stream:
                for _ in range(length):
                    data = next(records)
                    head = struct.pack("<Q", len(data))
                    stream.write(head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data)))
            os.unlink(file)
    text = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(text.replace("array_record", "tfrecord"))
    return folder


def test_crc32c_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value


def test_tfrecord_is_converted_by_the_command_that_the_message_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_BYTES", 2000)
    out = tmp_path / "out"
    folder = prepare.prepare("pets", str(pets(tmp_path / "pets")), str(out))
    expected = {split: list(examples("pets", split, out).items()) for split in ("train", "test")}
    to_tfrecord(folder, out)
    with pytest.raises(InputError, match="is in tfrecord, which has no random access") as error:
        sources.open_source("pets", "train", str(out))
    old = folder.with_name("1.0.0.old")
    assert f"'mv {folder} {old} && vit-jax data prepare pets --from {old} --data-dir {out}'" in str(error.value)
    folder.rename(old)
    assert prepare.prepare("pets", str(old), str(out)) == folder
    for split, pairs in expected.items():
        assert list(examples("pets", split, out).items()) == pairs
    assert len([*folder.glob("pets-train*")]) > 1


def test_refused_tfrecord_files(tmp_path):
    out = tmp_path / "out"
    old = to_tfrecord(prepare.prepare("pets", str(pets(tmp_path / "pets")), str(out)), out)
    old = old.rename(old.with_name("old"))
    file = old / "pets-train.tfrecord-00000-of-00001"
    whole = file.read_bytes()

    def refused(match, data=whole, name="pets"):
        file.write_bytes(data)
        with pytest.raises(InputError, match=match):
            prepare.prepare(name, str(old), str(out))
        assert [path.name for path in (out / "pets").iterdir()] == ["old"]

    refused("is the dataset pets/1.0.0, not dogs", name="dogs")
    refused(r"record 15 of .*pets-train.tfrecord-00000-of-00001 is cut off", whole[:-100])
    refused("record 0 of .* is damaged: its length", b"\x01" + whole[1:])
    length = struct.unpack("<Q", whole[:8])[0]
    refused("has 15 records; by dataset_info.json 16", whole[16 + length :])
    refused("record 0 of .* cannot be read", whole[:12] + bytes(length) + whole[12 + length :])
    file.unlink()
    with pytest.raises(InputError, match=r"lacks .*pets-train\.tfrecord-00000-of-00001"):
        prepare.prepare("pets", str(old), str(out))
