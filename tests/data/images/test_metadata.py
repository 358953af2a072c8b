"""Metadata turn a picture if they can be read; nothing else in them changes or refuses its pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vit_jax.data.images.decoding import Picture, decode, decode_numbers

_Y, _X = np.mgrid[:24, :40]
PICTURE = Image.fromarray(np.stack([_X * 6, _Y * 10, (_X + _Y) * 3], -1).astype(np.uint8))
BOMB = zlib.compress(bytes(70 * 2**20))
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(kind, image=PICTURE, **options):
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return file.getvalue()


def entry(tag, kind, count, value):
    return struct.pack("<HHI", tag, kind, count) + value


def directory(*entries, following=0):
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)


def place(number):
    return struct.pack("<I", number)


TURN = entry(0x0112, 3, 1, b"\6\0\0\0")
EXIF = {
    "good": (directory(TURN), 6),
    "no TIFF": (b"garbage-garbage-", 1),
    "zeros": (bytes(100), 1),
    "cut off": (b"II*\0", 1),
    "no directory": (b"II*\0\xff\xff\xff\xff" + bytes(20), 1),
    "fewer entries than it says": (b"II*\0\x08\0\0\0" + struct.pack("<H", 500) + TURN, 6),
    "a directory that follows itself": (directory(TURN, following=8), 6),
    "a directory within itself": (directory(TURN, entry(0x8769, 4, 1, place(8))), 6),
    "a directory beyond the end": (directory(TURN, entry(0x8769, 4, 1, place(0xFFFFFFF0))), 6),
    "a text for a place": (directory(TURN, entry(0x8769, 2, 4, b"abc\0")), 6),
    "a text for a number": (directory(TURN, entry(0x011A, 2, 4, b"abc\0")), 6),
    "a number for a text": (directory(TURN, entry(0x0131, 5, 1, place(8))), 6),
    "4 GB of text": (directory(TURN, entry(0x010F, 2, 0xFFFFFFFF, place(8))), 6),
    "an orientation of 32 bits": (directory(entry(0x0112, 4, 1, b"\6\0\0\0")), 6),
    "an orientation that is a text": (directory(entry(0x0112, 2, 2, b"6\0\0\0")), 1),
    "an orientation of an unknown type": (directory(entry(0x0112, 99, 1, b"\6\0\0\0")), 1),
    "orientation 9": (directory(entry(0x0112, 3, 1, b"\x09\0\0\0")), 1),
    "orientation 0": (directory(entry(0x0112, 3, 1, bytes(4))), 1),
}


def segment(number, body):
    return b"\xff" + bytes([number]) + struct.pack(">H", len(body) + 2) + body


def jpeg(*segments):
    data = encoded("JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def chunk(kind, body, *, wrong=0):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def png(*before, after=()):
    data = encoded("PNG")
    first, last = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:first] + b"".join(before) + data[first:last] + b"".join(after) + data[last:]


def check(data, orientation, pixels=PICTURE):
    """Pixels are those of the file without metadata, turned by a quarter for orientation 6."""
    expected = np.rot90(np.asarray(pixels), -1) if orientation == 6 else np.asarray(pixels)
    np.testing.assert_array_equal(np.asarray(decode(data, 3)), expected)
    assert (Picture(data, 3).height, Picture(data, 3).width) == expected.shape[:2]


@pytest.fixture(scope="module")
def lossy():
    return Image.open(io.BytesIO(encoded("JPEG")))


@pytest.mark.filterwarnings("ignore")  # Pillow's
@pytest.mark.parametrize("name", EXIF)
def test_exif_data_are_read_where_they_can_be(name, lossy):
    exif, orientation = EXIF[name]
    check(jpeg(segment(0xE1, b"Exif\0\0" + exif)), orientation, lossy)
    check(png(chunk(b"eXIf", exif)), orientation)
    check(png(after=[chunk(b"eXIf", exif)]), orientation)
    check(encoded("WEBP", lossless=True, exif=b"Exif\0\0" + exif), orientation)
    raw = zlib.compress(b"\nexif\n" + f"{len(exif):8}\n{exif.hex()}".encode())
    check(png(chunk(b"zTXt", b"Raw profile type exif\0\0" + raw)), orientation)


def test_all_orientations():
    for orientation in range(1, 9):
        # A resolution that is a text can be read by Pillow, but not written.
        exif = directory(entry(0x0112, 3, 1, place(orientation)), entry(0x011A, 2, 2, b"a\0\0\0"))
        pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
        data = encoded("PNG", Image.fromarray(pixels), exif=exif)
        turned = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}
        turned |= {5: pixels.T, 6: pixels.T[:, ::-1], 7: pixels.T[::-1, ::-1], 8: pixels.T[::-1]}
        np.testing.assert_array_equal(np.asarray(decode(data, 1)), turned[orientation])


@pytest.mark.parametrize(
    "damaged",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\1\5abc"),
        segment(0xE2, b"MPF\0garbage"),
        segment(0xE2, b"MPF\0" + directory(entry(0xB001, 4, 1, b"\2\0\0\0"))),
        segment(0xEE, b"Adobe"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"\xff" * 100),
    ],
    ids=lambda data: data[4:16].decode("latin-1"),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_segments_of_a_jpeg_change_nothing(damaged, lossy):
    turn = segment(0xE1, b"Exif\0\0" + directory(TURN))
    check(jpeg(damaged), 1, lossy)
    check(jpeg(turn, damaged), 6, lossy)
    check(jpeg(damaged, turn), 6, lossy)


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"iCCP", b"profile\0\0" + BOMB),
        chunk(b"iCCP", b"profile\0\7" + BOMB[:50]),
        chunk(b"iCCP", b"profile"),
        chunk(b"zTXt", b"key\0\0" + BOMB),
        chunk(b"zTXt", b"key\0\0no zlib"),
        chunk(b"iTXt", b"key\0\1\0\0\0" + BOMB),
        chunk(b"iTXt", b""),
        chunk(b"tEXt", b"key\0value", wrong=5),
        chunk(b"pHYs", b"a"),
        chunk(b"cHRM", b"a"),
        chunk(b"acTL", b""),
        chunk(b"fcTL", b""),
    ],
    ids=lambda data: data[4:20].decode("latin-1"),
)
def test_damaged_chunks_of_a_png_change_nothing(damaged):
    turn = chunk(b"eXIf", directory(TURN))
    check(png(damaged), 1)
    check(png(after=[damaged]), 1)
    check(png(turn, damaged), 6)
    check(png(turn, after=[damaged]), 6)
    check(png(damaged, after=[turn]), 6)
    check(png(damaged, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), 6)
    check(png(damaged, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))), 6)
    mask = encoded("PNG", Image.fromarray(np.full((2, 3), 7, np.uint8)))
    assert decode_numbers(mask[:33] + damaged + mask[33:]).tolist() == [[7] * 3] * 2


def test_xmp_counts_where_exif_data_cannot_be_read(lossy):
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    check(jpeg(segment(0xE1, b"Exif\0\0garbage-"), xmp), 6, lossy)
    check(jpeg(xmp), 6, lossy)


def replaced(data, tag, new):
    """A TIFF file with another entry for a tag."""
    start = int.from_bytes(data[4:8], "little")
    for at in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
        if int.from_bytes(data[at : at + 2], "little") == tag:
            return data[:at] + new + data[at + 12 :]
    raise KeyError(tag)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.filterwarnings("ignore")
def test_tiff(compression, orientation):
    tags = ImageFileDirectory_v2()
    tags[274] = orientation
    for tag, kind, value in [(34665, 4, 8), (282, 5, 72.0), (305, 2, "a program"), (700, 7, b"no XML")]:
        tags.tagtype[tag], tags[tag] = kind, value
    data = encoded("TIFF", compression=compression, tiffinfo=tags)
    check(data, orientation)
    check(replaced(data, 34665, entry(34665, 4, 1, data[4:8])), orientation)
    check(replaced(data, 34665, entry(34665, 4, 1, b"\xff\xff\xff\x7f")), orientation)
    check(replaced(data, 282, entry(282, 2, 4, b"abc\0")), orientation)
    check(replaced(data, 305, entry(305, 2, 0xFFFFFF, b"\xff\xff\xff\x7f")), orientation)
    check(replaced(data, 700, entry(700, 3, 1, b"\1\0\0\0")), orientation)
    check(replaced(data, 274, entry(274, 2, 2, b"6\0\0\0")), 1)
    if compression == "raw":
        check(encoded("TIFF", big_tiff=True, tiffinfo={274: orientation}), orientation)
    opened = Image.open(io.BytesIO(encoded("TIFF", compression=compression, tiffinfo={274: orientation})))
    assert decode(opened, 3).width == (24 if orientation == 6 else 40)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    options = {"quality": 100, "subsampling": "4:4:4"}
    pixels = Image.open(io.BytesIO(encoded("AVIF", **options)))
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "a program"
    data = encoded("AVIF", exif=exif, **options)
    check(data, 6, pixels)
    start = max(data.find(b"II*\0"), data.find(b"MM\0*"))
    check(data[:start] + b"none" + data[start + 4 :], 6, pixels)  # AVIF itself has the orientation as well


def test_pictures_of_several_images_are_their_first(lossy):
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        check(
            encoded("MPO", quality=95, save_all=True, append_images=[PICTURE.rotate(180)], exif=exif),
            orientation,
            lossy,
        )
