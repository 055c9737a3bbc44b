"""What the directories of TIFF files and of EXIF data say: which picture is the whole, which way is up."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from .errors import NotAPictureError
from .geometry import Size

__all__ = ["exif_orientation", "whole_picture"]

# Tags (TIFF 6.0; TIFF/EP for SubIFDs and the two kinds of raw sensor data).
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 254, 256, 257, 258, 262
_COMPRESSION, _ORIENTATION, _COLOURS, _PLANES, _SUB_DIRECTORIES, _SAMPLES = 259, 274, 277, 284, 330, 339
_RAW = (32803, 34892)
# Tags of a few values, or of bytes, which readers take one by one: a million rationals cost seconds.
_FEW_VALUES = frozenset((258, 259, 262, 266, 274, 277, 282, 283, 284, 296, 317, 338, 339, 530, 700, 34675))
_OF_BYTES = (1, 2, 7)
_EXIF_DIRECTORIES = (34665, 34853)  # EXIF's own, and that of places on the earth
# Of the tags SampleFormat, Compression and PlanarConfiguration.
_SIGNED = 2
_UNCOMPRESSED, _APART = 1, 2
# Bits of the tag NewSubfileType.
_REDUCED, _MASK = 1, 4

# The types: how many bytes each takes; of integers, struct's letter.
_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

# Enough for every file seen. A reader takes each value out of the file, though many may be the same bytes.
_MOST_DIRECTORIES = 200
_MOST_ENTRIES = 1000
_MOST_VALUES = 256
_FEW_BYTES = 65536

# A later page with more than this many times the first's pixels may be what the first is a preview of. Pages
# of one document differ less: A2 has four times the pixels of A4, and a few more by rounding.
_PREVIEW = 5

_Tags: TypeAlias = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class _Layout:
    """How a file writes its numbers: byte order, and the letters of an offset and of a count of entries."""

    order: str
    offset: str = "I"
    entries: str = "H"

    @property
    def big(self) -> bool:
        return self.offset == "Q"

    def unpack(self, letters: str, data: bytes, at: int) -> tuple[int, ...]:
        if at > len(data):
            raise struct.error(f"an offset of {at} is beyond the end")
        return struct.unpack_from(self.order + letters, data, at)


@dataclass(frozen=True)
class _Directory:
    """One picture of a file: where it is described, and what is said of it."""

    at: int
    tags: _Tags

    def first(self, tag: int, otherwise: int = 0) -> int:
        values = self.tags.get(tag)
        return values[0] if values else otherwise

    @property
    def size(self) -> Size:
        return Size(self.first(_WIDTH), self.first(_HEIGHT))

    @property
    def pixels(self) -> int:
        return self.first(_WIDTH) * self.first(_HEIGHT)

    @property
    def is_picture(self) -> bool:
        return not self.first(_SUBFILE) & _MASK and self.pixels > 0

    @property
    def is_whole(self) -> bool:
        return self.is_picture and not self.first(_SUBFILE) & _REDUCED

    @property
    def is_deep_in_planes(self) -> bool:
        """Whether each colour of more than 8 bits lies apart: Pillow takes them as lying side by side."""
        bits = self.tags.get(_BITS, ())
        apart = (self.first(_PLANES), self.first(_COMPRESSION, _UNCOMPRESSED)) == (_APART, _UNCOMPRESSED)
        return apart and max(len(bits), self.first(_COLOURS)) > 1 and max(bits, default=1) > 8


def exif_orientation(exif: bytes) -> int | None:
    """The orientation that EXIF data (behind their name) give; None if there is none or they are damaged."""
    try:
        layout, at = _header(exif)
        return _read(exif, at, layout)[0].tags[_ORIENTATION][0]
    except (struct.error, LookupError, OverflowError):
        return None


def whole_picture(data: bytes, name: str) -> tuple[io.BytesIO, int]:
    """A TIFF file whose first picture is the whole one, and the orientation that its first directory gives.

    Cameras and scanners put a preview first, and the whole picture behind it or below it.

    Raises:
        NotAPictureError: it is raw sensor data, or has signed bytes or deep colours in planes, which would be
            taken for others, or the file does not say which of several is the whole.
    """
    file = io.BytesIO(data)
    try:
        layout, at = _header(data)
        first, *others = _directories(data, at, layout)
        _check_exif(data, (first, *others), layout)
    except (struct.error, LookupError, ValueError):
        return file, 1  # damaged: the reader says how
    except OverflowError as error:
        raise NotAPictureError(f"{name} is damaged: {error}") from error
    chosen = _chosen(first, others, name)
    if chosen.first(_PHOTOMETRIC) in _RAW:
        raise NotAPictureError(
            f"{name} has raw sensor data ({chosen.size} pixels), which are no picture yet: "
            "develop it, and save it as JPEG or TIFF"
        )
    if (chosen.first(_SAMPLES), chosen.first(_BITS)) == (_SIGNED, 8):
        raise NotAPictureError(
            f"{name} has signed values: what is black is not clear; save it with unsigned ones"
        )
    if chosen.is_deep_in_planes:
        raise NotAPictureError(
            f"{name} has more than 8 bits a colour, uncompressed, and each colour apart, which is not read: "
            "save it with 8 bits or with its colours side by side (PlanarConfiguration 1)"
        )
    if chosen is not first:
        file.seek(8 if layout.big else 4)
        file.write(struct.pack(layout.order + layout.offset, chosen.at))
        file.seek(0)
    return file, first.first(_ORIENTATION, 1)


def _chosen(first: _Directory, others: list[_Directory], name: str) -> _Directory:
    """The first, unless it is said to be a preview, or looks like one beside a much larger picture."""
    pictures = [directory for directory in (first, *others) if directory.is_picture]
    if not pictures:
        return first
    # Where all are said to be reduced, the largest is the least so.
    wholes = [directory for directory in pictures if directory.is_whole] or pictures
    largest = max(wholes, key=lambda directory: directory.pixels)
    rivals = [directory for directory in wholes if _PREVIEW * directory.pixels >= largest.pixels]
    if first in rivals:
        return first
    if first.is_whole or len(rivals) > 1:
        sizes = ", ".join(str(directory.size) for directory in wholes[:4])
        raise NotAPictureError(
            f"{name} has {len(wholes)} pictures ({sizes}) and does not say which is the whole one: "
            "save the one you mean as a file of its own"
        )
    return largest


def _header(data: bytes) -> tuple[_Layout, int]:
    """The layout, and where the first directory is."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    if 43 in struct.unpack_from(order + "H", data, 2):  # BigTIFF
        layout = _Layout(order, "Q", "Q")
        return layout, layout.unpack("Q", data, 8)[0]
    layout = _Layout(order)
    return layout, layout.unpack("I", data, 4)[0]


def _directories(data: bytes, at: int, layout: _Layout) -> Iterator[_Directory]:
    """Those of the chain, and, behind each, those below it."""
    waiting, seen = [at], set[int]()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop()
        if at == 0 or at in seen:
            continue
        seen.add(at)
        directory, following = _read(data, at, layout)
        yield directory
        waiting += [following, *reversed(directory.tags.get(_SUB_DIRECTORIES, ()))]


def _check_exif(data: bytes, directories: Iterable[_Directory], layout: _Layout) -> None:
    """Refuse EXIF data with more values than any picture's; Pillow reads all of them, one by one.

    Raises:
        OverflowError: there are.
    """
    for directory in directories:
        for at in (at for tag in _EXIF_DIRECTORIES for at in directory.tags.get(tag, ())):
            with suppress(struct.error):  # damaged: passed over by Pillow
                _read(data, at, layout, few=True)


def _read(data: bytes, at: int, layout: _Layout, few: bool = False) -> tuple[_Directory, int]:
    """A directory, and where the next of its chain is; 0 if it is the last.

    Args:
        few: whether no tag may have many values, but for bytes.

    Raises:
        OverflowError: it has more entries, or more bytes in them, than any picture's.
    """
    (entries,) = layout.unpack(layout.entries, data, at)
    if entries > _MOST_ENTRIES:
        raise OverflowError(f"a directory of {entries} entries")
    at_entry = at + struct.calcsize("<" + layout.entries)
    head, room = struct.calcsize("<HH" + layout.offset), struct.calcsize("<" + layout.offset)
    tags: _Tags = {}
    total = 0
    for _ in range(entries):
        tag, kind, count = layout.unpack("HH" + layout.offset, data, at_entry)
        letter, width = _INTEGERS.get(kind), _BYTES.get(kind, 1)
        total += count * width
        if total > len(data) + _FEW_BYTES:
            raise OverflowError("its tags claim more bytes than it has")
        if (few or tag in _FEW_VALUES) and kind not in _OF_BYTES and count > _MOST_VALUES:
            raise OverflowError(f"its tag {tag} has {count} values")
        if letter and count <= _MOST_VALUES:
            place = at_entry + head
            if count * width > room:
                (place,) = layout.unpack(layout.offset, data, place)
            if place + count * width <= len(data):
                tags[tag] = layout.unpack(f"{count}{letter}", data, place)
        at_entry += head + room
    try:
        (following,) = layout.unpack(layout.offset, data, at_entry)
    except struct.error:  # EXIF data may end with their only directory
        following = 0
    return _Directory(at, tags), following
