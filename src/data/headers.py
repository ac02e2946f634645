"""What an image's first bytes say: its format, size, transparency and depth, before any pixel is decoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt


class Header(NamedTuple):
    """What a file says of its image.

    Attributes:
        kind: the format's name.
        height, width: as stored, before a rotation that EXIF asks for.
        alpha: whether pixels may be transparent.
        deep: whether a value has 16 bits.
        orientation: EXIF's, 1 to 8, where decoding with alpha leaves it to us.
        premultiplied: whether decoding gives colours that are multiplied with alpha already.
        top: the value that stands for white, where it is not 255 or 65535.
        key: the value of a grey PNG that is transparent.
        refused: why pixels of this kind would be misread, or "".
    """

    kind: str
    height: int
    width: int
    alpha: bool = False
    deep: bool = False
    orientation: int = 1
    premultiplied: bool = False
    top: int | None = None
    key: int | None = None
    refused: str = ""


def read_header(data: bytes) -> Header | None:
    """The header of an image in memory; None where it is cut off, or of no format that is read."""
    for magic, parse in PARSERS:
        if re.match(magic, data, re.DOTALL):
            try:
                header = parse(data)
            except (struct.error, IndexError, OverflowError):  # cut off, or an offset beyond all files
                return None
            return header if header and header.height > 0 and header.width > 0 else None
    return None


STEPS = 1_000_000
"""Markers or chunks of a file that are looked at, at most: one made of nothing else takes a second, not minutes."""


def jpeg(data: bytes) -> Header | None:
    """A JPEG's frame header; OpenCV turns the image by its EXIF."""
    i = 2
    for _ in range(STEPS):
        if (i := data.find(b"\xff", i)) < 0:
            break
        marker = data[i + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack_from(">HH", data, i + 5)
            return Header("JPEG", height, width)
        if marker == 0xDA:  # pixels without a frame
            return None
        alone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8  # no length follows
        i += 1 if marker == 0xFF else 2 if alone else 2 + struct.unpack_from(">H", data, i + 2)[0]
    return None


def png(data: bytes) -> Header | None:
    """A PNG's header chunk, its transparency and its EXIF."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    key, alpha, orientation, i = None, colour in (4, 6), 1, 8
    for _ in range(STEPS):
        if i + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, i)
        if name == b"IEND" or not name.isalpha():
            break
        if name == b"tRNS":
            alpha = True
            if colour == 0 and length >= 2:
                key = struct.unpack_from(">H", data, i + 8)[0] * (1 if depth >= 8 else 255 // (2**depth - 1))
        elif name == b"eXIf":
            orientation = exif_orientation(data[i + 8 : i + 8 + length])
        i += 12 + length
    return Header("PNG", height, width, alpha, depth == 16, orientation, key=key)


def webp(data: bytes) -> Header | None:
    """The first chunk of a WebP: lossy, lossless or extended."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        orientation, i = 1, 12
        for _ in range(STEPS):
            if i + 8 > len(data):
                break
            name, length = struct.unpack_from("<4sI", data, i)
            if name == b"EXIF":
                orientation = exif_orientation(data[i + 8 : i + 8 + length])
            i += 8 + length + length % 2
        return Header("WebP", height, width, bool(data[20] & 0x10), orientation=orientation)
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Header("WebP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, bool(bits >> 28 & 1))
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("WebP", height & 0x3FFF, width & 0x3FFF)


def bmp(data: bytes) -> Header | None:
    """A BMP's header; only its later versions know transparency."""
    size = struct.unpack_from("<I", data, 14)[0]
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Header("BMP", height, width)
    width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
    alpha = size >= 56 and bits == 32 and struct.unpack_from("<I", data, 66)[0] != 0
    return Header("BMP", abs(height), width, alpha)


def gif(data: bytes) -> Header | None:
    """A GIF's screen, of which the first frame is decoded."""
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", height, width, alpha=True)


def pnm(data: bytes) -> Header | None:
    """A PBM, PGM or PPM, in binary or in text."""
    space, start = rb"(?:\s|#[^\n]*\n)+", data[: 1 << 16]
    found = re.match(rb"P([1-6])" + space + rb"(\d{1,9})" + space + rb"(\d{1,9})" + space + rb"(\d{1,5})?", start)
    if not found:
        return None
    kind, width, height = int(found[1]), int(found[2]), int(found[3])
    top = 255 if kind in (1, 4) else int(found[4] or 255)
    if not 0 < top < 65536:
        return None
    scaled = top <= 255 and kind in (1, 2, 3, 4)  # OpenCV scales what is written in text
    return Header("PNM", height, width, deep=top > 255, top=None if scaled else top)


def tiff(data: bytes) -> Header | None:
    """The first page of a TIFF."""
    found = list(tiff_tags(data))
    # Of a palette that is cut off libtiff would take what is there, and colours from nowhere for the rest.
    if any(end > len(data) for tag, _, end in found if tag in TABLES):
        return None
    tags = {tag: value for tag, value, _ in found}
    height, width = tags.get(257, 0), tags.get(256, 0)
    bits, photometric, samples, form = tags.get(258, 1), tags.get(262, 1), tags.get(277, 1), tags.get(339, 1)
    extra = samples - {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)
    refused = ""
    if form != 1 or bits not in (1, 2, 4, 8, 16):
        refused = f"stores its values as {bits}-bit {'numbers that are not pixels' if form != 1 else 'numbers'}"
    elif bits == 16 and photometric not in (1, 2):
        refused = "is a 16-bit TIFF of other colours than grey and RGB"
    elif extra > 0 and photometric != 2:
        refused = "is a TIFF with more channels than its colours need"
    elif extra > 1:
        refused = f"is a TIFF of {samples} channels"
    # libtiff multiplies 8-bit colours with an alpha that is not (tag 338: 2), and 16-bit ones are left alone.
    premultiplied = tags.get(338, 0) == 1 or (tags.get(338, 0) == 2 and bits == 8)
    return Header("TIFF", height, width, extra == 1, bits == 16, 1, premultiplied, refused=refused)


def isobmff(data: bytes) -> Header | None:
    """AVIF, which OpenCV may read, and HEIC, which it does not."""
    if b"avif" not in data[8:64] and b"avis" not in data[8:64]:
        return Header("HEIC", 1, 1, refused="is a HEIC image or a video, whatever its name")
    sizes = [struct.unpack_from(">II", data, found.end() + 4) for found in re.finditer(b"ispe", data[: 1 << 16])]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return Header("AVIF", height, width)


def jpeg2000(data: bytes) -> Header | None:
    """A JPEG 2000's image header box."""
    height, width = struct.unpack_from(">II", data, data.index(b"ihdr") + 4) if b"ihdr" in data else (0, 0)
    return Header("JPEG 2000", height, width)


PARSERS: tuple[tuple[bytes, Callable[[bytes], Header | None]], ...] = (
    (rb"\xff\xd8\xff", jpeg),
    (rb"\x89PNG\r\n\x1a\n", png),
    (rb"RIFF....WEBPVP8[ LX]", webp),
    (rb"BM", bmp),
    (rb"GIF8[79]a", gif),
    (rb"II[*+]\0|MM\0[*+]", tiff),
    (rb"P[1-6]\s", pnm),
    (rb"....ftyp", isobmff),
    (rb"\0\0\0\x0cjP  ", jpeg2000),
)
STRONG_MAGIC = b"|".join(magic for magic, parse in PARSERS if parse not in (bmp, pnm))
"""Of files that are images, whatever their names; two letters prove nothing."""
TABLES = (258, 273, 279, 320, 324, 325)  # of a TIFF's bits, strips, tiles and colours
SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of a TIFF's types of numbers


def tiff_tags(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Tags of a TIFF's first directory that are whole numbers: each with its first value, and where its last ends."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
    start += 8 if big else 2
    for i in range(start, start + min(count, 4096) * (20 if big else 12), 20 if big else 12):
        tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, i)
        if kind in SIZES and values:
            place, room = i + (12 if big else 8), 8 if big else 4
            needed = struct.calcsize(SIZES[kind]) * values
            if needed > room:
                place = struct.unpack_from(order + ("Q" if big else "I"), data, place)[0]
            yield tag, struct.unpack_from(order + SIZES[kind], data, place)[0], place + needed


def exif_orientation(data: bytes) -> int:
    """EXIF's orientation, 1 where there is none."""
    try:
        tags = {tag: value for tag, value, _ in tiff_tags(data.removeprefix(b"Exif\0\0"))}
    except (struct.error, IndexError, OverflowError):  # cut off, or an offset beyond all files
        return 1
    found = tags.get(274, 1)
    return found if 1 <= found <= 8 else 1


Value = TypeVar("Value", bound=np.generic)


def turned(image: npt.NDArray[Value], orientation: int) -> npt.NDArray[Value]:
    """The image as EXIF's orientation means it."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
