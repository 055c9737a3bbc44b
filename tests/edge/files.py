"""Files as cameras, scanners and vandals write them, and Pillow does not."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from PIL import Image

from edge.support import encoded

# struct's letters for the field types of TIFF: short and long.
SHORT, LONG = 3, 4
_LETTERS = {SHORT: "H", LONG: "I"}


@dataclass
class Directory:
    """One picture of a TIFF file, uncompressed in one strip: its tags of several values, and its pixels."""

    size: tuple[int, int]
    pixels: bytes
    bits: tuple[int, ...] = (8, 8, 8)
    photometric: int = 2
    tags: dict[int, tuple[int, ...]] = field(default_factory=dict)
    below: list[Directory] = field(default_factory=list)


def of_image(image: Image.Image, **named: object) -> Directory:
    return Directory(image.size, image.tobytes(), **named)  # type: ignore[arg-type]


def tiff(*directories: Directory, order: str = "<") -> bytes:
    """A TIFF file of a chain of directories, each with its own ones below it."""
    body = bytearray({"<": b"II*\0", ">": b"MM\0*"}[order] + b"\0\0\0\0")
    behind = 4  # where the offset of the next directory is to be written
    for directory in directories:
        at = _write(body, directory, order)
        struct.pack_into(order + "I", body, behind, at)
        (entries,) = struct.unpack_from(order + "H", body, at)
        behind = at + 2 + 12 * entries
    return bytes(body)


def _write(body: bytearray, one: Directory, order: str) -> int:
    """Append a directory and what it names; where it is."""
    below = tuple(_write(body, other, order) for other in one.below)
    width, height = one.size
    strip = len(body)
    body += one.pixels
    tags = {
        256: (width,),
        257: (height,),
        258: one.bits,
        259: (1,),
        262: (one.photometric,),
        273: (strip,),
        277: (len(one.bits),),
        278: (height,),
        279: (len(one.pixels),),
        **({330: below} if below else {}),
        **one.tags,
    }
    entries = b""
    for tag, values in sorted(tags.items()):
        kind = LONG if tag in (273, 279, 330) else SHORT
        raw = struct.pack(f"{order}{len(values)}{_LETTERS[kind]}", *values)
        if len(raw) > 4:
            place = len(body)
            body += raw
            raw = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    at = len(body)
    body += struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0"
    return at


def big_tiff(one: Directory, whole: Directory) -> bytes:
    """A BigTIFF file of a picture with another below it, of 8 bits a colour."""
    body = bytearray(b"II+\0\x08\0\0\0" + bytes(8))

    def write(directory: Directory, tags: dict[int, int]) -> int:
        strip = len(body)
        body.extend(directory.pixels)
        width, height = directory.size
        tags = {256: width, 257: height, 259: 1, 262: 2, 273: strip, 277: 3, 278: height, **tags}
        tags[279] = len(directory.pixels)
        at = len(body)
        body.extend(struct.pack("<Q", len(tags) + 1))
        for tag, value in sorted({**tags, 258: 0}.items()):
            if tag == 258:
                body.extend(struct.pack("<HHQ4H", 258, SHORT, 3, 8, 8, 8, 0))
            else:
                body.extend(struct.pack("<HHQQ", tag, LONG if tag != 330 else 16, 1, value))
        body.extend(bytes(8))
        return at

    at_whole = write(whole, {})
    struct.pack_into("<Q", body, 8, write(one, {254: 1, 330: at_whole}))
    return bytes(body)


def png_chunk(kind: bytes, body: bytes, check: int | None = None) -> bytes:
    """A chunk of a PNG file, with its right checksum unless another is given."""
    checksum = zlib.crc32(kind + body) if check is None else check
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG file; `rows` begin with their filter's byte each."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def segment(kind: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body


def with_segments(jpeg: bytes, segments: bytes) -> bytes:
    """The JPEG with more in front of its header."""
    return jpeg[:2] + segments + jpeg[2:]


def with_scans(image: Image.Image, count: int) -> bytes:
    """A progressive JPEG with further scans: a few bytes each, for which a decoder visits all blocks."""
    jpeg = encoded(image, progressive=True, subsampling="4:4:4")
    return jpeg[:-2] + count * segment(0xDA, bytes((1, 1, 0, 1, 63, 0))) + jpeg[-2:]
