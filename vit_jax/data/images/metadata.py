"""What a file says of its pixels: which way up they are; and the file without all that its pixels do not need."""

import contextlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

_ORIENTATION = 0x0112
_XMP = ("XML:com.adobe.xmp", "xmp")
"""Pillow's names of XMP data in `Image.info`."""
_TELLING = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Keywords of texts in a PNG file that may tell the orientation."""
_MOST_TEXT = 2**20  # bytes
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations whose stored rows are columns of the upright image."""
FROM_THE_RIGHT, FROM_THE_BOTTOM = (2, 3, 6, 7), (3, 4, 7, 8)
"""Orientations whose stored rows or columns run from the right to the left of the upright image, or upwards."""


class Bare(NamedTuple):
    """A file without its metadata.

    data: the encoded image, pixels and what they need.
    orientation: what the metadata said, 1 to 8.
    """

    data: bytes
    orientation: int


def orientation(image: Image.Image) -> int:
    """Return which way up an image is stored, 1 to 8 as EXIF numbers them; 1 where nothing readable says so."""
    with contextlib.suppress(Exception):  # whatever damaged EXIF data lead Pillow to
        found = image.getexif().get(_ORIENTATION)
        if found is not None:
            return _valid(found)
    for xmp in (image.info.get(name) for name in _XMP):
        text = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
        found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', text) if isinstance(text, bytes) else None
        if found:
            return int(found[1])
    return 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image upright that is stored in an orientation."""
    # `ImageOps.exif_transpose` writes the EXIF data again, which fails for values of a wrong type.
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def without(data: bytes) -> Bare | None:
    """Take what its pixels do not need out of a file: EXIF data, texts, colour profiles, thumbnails.

    Returns:
        None if there is nothing to take out, or for a format in which that is not known.
    """
    if data.startswith(b"\xff\xd8"):
        bare = _without_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        bare = _without_png(data)
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        bare = _without_tiff(data)
    elif data[4:8] == b"ftyp":
        # AVIF and its like: an item called otherwise is not looked for (ISO/IEC 14496-12, 8.11.6).
        bare = Bare(re.sub(rb"(infe.{8,10}?)Exif", rb"\1skip", data, flags=re.DOTALL), 1)
    else:
        return None
    return None if bare is None or bare.data == data else bare


def _bearer(info: Mapping[Any, Any]) -> Image.Image:
    """Return an image for which Pillow reads these metadata."""
    image = Image.new("1", (1, 1))
    image.info.update(info)
    return image


def _valid(value: Any) -> int:
    return int(value) if value in range(1, 9) else 1


def _without_jpeg(data: bytes) -> Bare | None:
    """Leave out application segments and comments, but for those of JFIF and Adobe that tell the colours.

    Source: ITU-T T.81, B.1.1; the least lengths are those that libjpeg asks for.
    """
    kept, info, place = [data[:2]], {}, 2
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker == 0xFF:
            place += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # without a length
            place += 2
        elif marker == 0xDA:
            return Bare(b"".join([*kept, data[place:]]), orientation(_bearer(info)))
        else:
            end = place + 2 + max(int.from_bytes(data[place + 2 : place + 4]), 2)
            segment, body = data[place:end], data[place + 4 : end]
            colours = (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14) or (
                marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
            )
            if colours or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                kept.append(segment)
            elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
                info["exif"] = info["exif"] + body[6:] if "exif" in info else body
            elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                info["xmp"] = body
            place = end
    return None


def _without_png(data: bytes) -> Bare:
    """Leave out every chunk that is not critical; of an animation the default image is left.

    Source: PNG (third edition), 5.4: the chunks whose names begin with a small letter.
    """
    kept, info, place = [data[:8]], {}, 8
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : end - 4]
        if not kind[0] & 0x20:
            kept.append(data[place:end])
        elif kind == b"eXIf":
            info["exif"] = body
        elif kind in (b"iTXt", b"zTXt") and body.startswith(_TELLING):
            name, text = _text(kind, body)
            info[name] = text
        place = end
    return Bare(b"".join(kept), orientation(_bearer(info)))


def _text(kind: bytes, body: bytes) -> tuple[str, str]:
    """Read keyword and text of a chunk `iTXt` or `zTXt`, or as much of it as is of use; see PNG, 11.3.3."""
    keyword, _, rest = body.partition(b"\0")
    packed = kind == b"zTXt" or rest.startswith(b"\1")
    text = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    if packed:
        try:
            text = zlib.decompressobj().decompress(text, _MOST_TEXT)
        except zlib.error:
            text = b""
    return keyword.decode("latin-1"), text.decode("latin-1")


_NEEDED = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332),
    *(338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 50674),
}
"""Tags of a TIFF file without which its pixels cannot be read."""


def _without_tiff(data: bytes) -> Bare | None:
    """Leave one directory of the file, with the tags that the pixels need and no orientation.

    Source: TIFF 6.0, section 2, and the BigTIFF design of libtiff.
    """
    order = "little" if data.startswith(b"II") else "big"
    big = 43 in data[2:4]
    # Sizes in bytes of a number of entries and of an entry; a place in the file takes `word` bytes.
    count_size, entry_size, word, header = (8, 20, 8, 8) if big else (2, 12, 4, 4)
    start = int.from_bytes(data[header : header + word], order)
    count = int.from_bytes(data[start : start + count_size], order)
    first, after = start + count_size, start + count_size + count * entry_size
    if not 0 < start <= after <= len(data):
        return None
    entries = [data[place : place + entry_size] for place in range(first, after, entry_size)]
    tags = [int.from_bytes(entry[:2], order) for entry in entries]
    kept = [entry for tag, entry in zip(tags, entries, strict=True) if tag in _NEEDED]
    found = 1
    if _ORIENTATION in tags:
        entry = entries[tags.index(_ORIENTATION)]
        size = {1: 1, 3: 2, 4: 4}.get(int.from_bytes(entry[2:4], order), 0)
        found = _valid(int.from_bytes(entry[-word : len(entry) - word + size], order))
    directory = len(kept).to_bytes(count_size, order) + b"".join(kept)
    directory += bytes(after + word - start - len(directory))  # no directory follows
    return Bare(data[:start] + directory + data[after + word :], found)
