"""A JPEG's headers, read before anything is decoded: what it would cost, which way is up, where rows are.

Segments and markers are those of ITU-T T.81, annex B.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass

from PIL.JpegImagePlugin import JpegImageFile

from .errors import NotAPictureError, PictureTooLargeError
from .geometry import Size
from .limits import PictureLimits
from .tiff import exif_orientation

__all__ = ["Jpeg", "read_jpeg"]

START = b"\xff\xd8\xff"
"""How every JPEG begins."""

_END, _SCAN = 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_READABLE_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # baseline, sequential, progressive; all with Huffman codes
_TABLES = frozenset((0xC4, 0xDB, 0xDD))  # Huffman codes, quantisation, restart interval
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE  # which may tell how colours are stored; EXIF and XMP; Adobe's

# A marker that begins a segment: no escaped or fill byte, and none that stands alone in coded data.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
_MARKER_OR_FILL = re.compile(rb"\xff[^\x00\x01\xd0-\xd8]")
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")

# Cameras write up to some hundred segments, encoders up to some twenty scans.
_MOST_SEGMENTS = 1000
_MOST_SCANS = 100
_MOST_TABLE_BYTES = 2 + 8 * (17 + 256)  # all eight tables of Huffman codes, as long as they can be

# Noise of the best quality takes some 5 bytes a pixel; the pixels themselves have 3.
_MOST_BYTES_A_PIXEL = 8
_FEW_BYTES = 65536

# Chroma at half the height is interpolated from its neighbours, so the last rows wanted need some below them.
_MARGIN = 16


@dataclass(frozen=True)
class Jpeg:
    """A JPEG without its metadata, whose headers were read.

    Attributes:
        data: the file, without what no decoder needs.
        size: in pixels, as stored.
        orientation: EXIF's, 1 to 8: how it is turned to be upright.
    """

    data: bytes
    size: Size
    orientation: int
    _height_at: int

    @property
    def upright_size(self) -> Size:
        """After the orientation."""
        sideways = self.orientation > 4
        return Size(self.size.height, self.size.width) if sideways else self.size

    def open(self) -> JpegImageFile:
        """The picture for Pillow, not decoded yet."""
        return JpegImageFile(io.BytesIO(self.data), "")

    def upper_rows(self, rows: int) -> JpegImageFile:
        """The same picture, ended soon below its first `rows` rows; not decoded yet.

        Rows are coded from the top to the bottom, so a decoder makes the same pixels of them, and neither
        reads nor keeps memory for those below.
        """
        if rows + _MARGIN >= self.size.height:
            return self.open()
        file = io.BytesIO(self.data)
        file.seek(self._height_at)
        file.write(struct.pack(">H", rows + _MARGIN))
        file.seek(0)
        return JpegImageFile(file, "")


def read_jpeg(data: bytes, limits: PictureLimits, name: str) -> Jpeg:
    """Read all headers of a JPEG and check what decoding it would cost; nothing is decoded.

    The cost grows with the blocks that a decoder visits, once in every scan that they are in, and with the
    segments; a few bytes can ask for millions of either. Metadata, fill bytes, and what follows the picture
    (the further pictures of a phone) are left out, so that they cost a decoder nothing.

    Raises:
        NotAPictureError: no JPEG, damaged, or of a kind that is not read.
        PictureTooLargeError: above a limit.
    """
    if not data.startswith(START):
        raise NotAPictureError(f"{name} is not a picture in a known format: it does not begin as a JPEG does")
    try:
        return _Reader(data, limits, name).read()
    except (struct.error, IndexError) as error:
        raise NotAPictureError(f"{name} is damaged or truncated: a header is incomplete") from error


@dataclass(frozen=True)
class _Component:
    """One colour of a frame, and how many samples it has across and down for the most of any colour's."""

    name: int
    across: int
    down: int


class _Reader:
    def __init__(self, data: bytes, limits: PictureLimits, name: str) -> None:
        self._data, self._limits, self._name = data, limits, name
        self._kept: list[bytes | memoryview] = [data[:2]]
        self._length = 2  # of what is kept
        self._size: Size | None = None
        self._pixels = 0
        self._height_at = 0
        self._components: list[_Component] = []
        self._scans = self._blocks = 0
        self._exif: int | None = None
        self._xmp: int | None = None

    def read(self) -> Jpeg:
        at = 2
        for _ in range(_MOST_SEGMENTS):
            marker = _MARKER_OR_FILL.search(self._data, at)
            filled = marker is not None and self._data[marker.end() - 1] == 0xFF
            if marker is not None and filled:
                marker = _MARKER.search(self._data, marker.start())
            if self._scans:
                self._keep_coded(at, marker.start() if marker else len(self._data), filled)
            if marker is None or self._data[marker.start() + 1] == _END:
                if self._size is None:
                    raise NotAPictureError(f"{self._name} is damaged or truncated: it ends in its header")
                self._keep(marker[0] if marker else b"")  # no end is made up for what is truncated
                orientation = self._exif or self._xmp or 1
                return Jpeg(b"".join(self._kept), self._size, orientation, self._height_at)
            at = self._segment(marker.start())
        raise PictureTooLargeError(f"{self._name} has more than {_MOST_SEGMENTS} segments; save it anew")

    def _segment(self, at: int) -> int:
        """Take the segment there; where the next one is to be looked for."""
        length = int.from_bytes(self._data[at + 2 : at + 4], "big")
        kind, end = self._data[at + 1], at + 2 + length
        body = self._data[at + 4 : end]
        if length < 2 or end > len(self._data):
            raise NotAPictureError(f"{self._name} is damaged or truncated: a segment reaches beyond its end")
        if kind in _FRAMES:
            self._frame(kind, body)
        elif kind == _SCAN:
            self._scan(body)
        elif kind in _TABLES and length > _MOST_TABLE_BYTES:
            raise NotAPictureError(f"{self._name} is damaged: a table has {length} bytes")
        elif kind == _APP1:
            self._metadata(body)
        tells_colours = (kind == _APP0 and body[:4] == b"JFIF") or (kind == _APP14 and body[:5] == b"Adobe")
        if kind in _FRAMES or kind in _TABLES or kind == _SCAN or tells_colours:
            self._keep(self._data[at:end])
        elif kind < 0xC0:
            raise NotAPictureError(f"{self._name} is damaged: a marker FF{kind:02X}")
        return end

    def _keep(self, part: bytes | memoryview) -> None:
        self._kept.append(part)
        self._length += len(part)

    def _keep_coded(self, start: int, end: int, filled: bool) -> None:
        most = self._pixels * _MOST_BYTES_A_PIXEL + _FEW_BYTES
        if self._length + end - start > most:
            raise PictureTooLargeError(
                f"{self._name} has {self._size} pixels and more than {most} bytes for them; save it anew"
            )
        coded = memoryview(self._data)[start:end]  # not copied: it is most of the file
        self._keep(_without_fill(coded) if filled else coded)

    def _frame(self, kind: int, body: bytes) -> None:
        name = self._name
        if self._size is not None:
            raise NotAPictureError(f"{name} is damaged: it has two frames")
        bits, height, width, count = struct.unpack_from(">BHHB", body)
        if kind not in _READABLE_FRAMES:
            raise NotAPictureError(
                f"{name} is a JPEG of a rare kind (FF{kind:02X}: lossless, hierarchical or with arithmetic "
                "coding), which is not read: save it as an ordinary JPEG"
            )
        if bits != 8:
            raise NotAPictureError(f"{name} is a JPEG of {bits} bits a sample; only 8 are read: save it so")
        if count not in (1, 3, 4) or len(body) != 6 + 3 * count:
            raise NotAPictureError(f"{name} is a JPEG of {count} colours; only 1, 3 or 4 are read")
        if not width or not height:
            raise NotAPictureError(f"{name} is damaged: it says that it has {width}x{height} pixels")
        self._limits.check_pixels(width, height, name)
        self._size, self._pixels, self._height_at = Size(width, height), width * height, self._length + 5
        for one in range(6, len(body), 3):
            self._components.append(_Component(body[one], body[one + 1] >> 4, body[one + 1] & 15))
        if not all(1 <= side <= 4 for one in self._components for side in (one.across, one.down)):
            raise NotAPictureError(f"{name} is damaged: its colours have impossible sizes")

    def _scan(self, body: bytes) -> None:
        """Count the blocks of a scan: of several colours with the padding to whole units."""
        if self._size is None:
            raise NotAPictureError(f"{self._name} is damaged: it has a scan before its frame")
        self._scans += 1
        if self._scans > _MOST_SCANS:
            raise PictureTooLargeError(f"{self._name} has more than {_MOST_SCANS} scans; save it anew")
        names = body[1 : 1 + 2 * body[0] : 2]
        scanned = [one for one in self._components if one.name in names]
        across = max(one.across for one in self._components)
        down = max(one.down for one in self._components)
        if len(scanned) == 1:
            (one,) = scanned
            columns = -(-self._size.width * one.across // (8 * across))
            self._blocks += columns * -(-self._size.height * one.down // (8 * down))
        else:
            units = -(-self._size.width // (8 * across)) * -(-self._size.height // (8 * down))
            self._blocks += units * sum(one.across * one.down for one in scanned)
        self._limits.check_blocks(self._blocks, self._name)

    def _metadata(self, body: bytes) -> None:
        if body.startswith(b"Exif\0\0") and self._exif is None:
            value = exif_orientation(body[6:])
            self._exif = value if value in range(1, 9) else None
        elif body.startswith(b"http://ns.adobe.com/xap/1.0/\0") and self._xmp is None:
            found = _XMP_ORIENTATION.search(body)
            self._xmp = int(found[1]) if found else None


def _without_fill(coded: memoryview) -> bytes:
    """One FF for each row of them. A regular expression takes ten times as long for millions of rows."""
    left = bytes(coded)
    while b"\xff\xff" in left:
        left = left.replace(b"\xff\xff", b"\xff")
    return left
