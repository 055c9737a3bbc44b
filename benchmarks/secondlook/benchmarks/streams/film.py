"""A stream as a film: each frame with what held for it, the boxes, and how it went so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from secondlook.edge.errors import WriteError
from secondlook.edge.files import check_writable, write_files
from secondlook.edge.geometry import Rectangle, Size
from secondlook.edge.wire_stream import FrameReply

__all__ = ["PICTURE", "Film", "Shot", "film", "rests", "told"]

PICTURE: Final = Size(800, 600)
"""Of a frame in the film, in its pixels."""

_BAND: Final = 152
_MARGIN: Final = 14
_PAPER: Final = (250, 250, 247)
_INK: Final = (28, 28, 30)
_FAINT: Final = (120, 120, 124)
_WRONG: Final = (206, 40, 40)
_SOURCES: Final[dict[str, tuple[str, tuple[int, int, int]]]] = {
    "picture": ("read in this frame", (30, 132, 73)),
    "own": ("read by the small model", (36, 98, 190)),
    "cloud": ("told by the cloud", (217, 119, 6)),
    "nothing": ("no answer yet", (150, 150, 150)),
}
"""What an answer rests on: in words, and its colour."""


@dataclass(frozen=True)
class Shot:
    """One frame of the film.

    Attributes:
        picture: the camera's, of size PICTURE; None where it is not drawn.
        truth: the right answer at that moment.
        focus: what was sent as a picture of its own, in shares of the frame's width and height.
        told: where the cloud's last answer was read, the same, brought to this frame.
        events: what came from the cloud since the frame before, in a few words.
    """

    picture: Image.Image | None
    question: str
    truth: str
    reply: FrameReply
    focus: Rectangle | None = None
    told: Rectangle | None = None
    events: str = ""

    @property
    def right(self) -> bool:
        return self.reply.answer == self.truth

    @property
    def source(self) -> str:
        """A key of the sources: whose answer it is, and whether of this frame."""
        entry = self.reply.history
        return entry.by if entry is not None else self.reply.source


def rests(shot: Shot) -> str:
    """What a frame's answer rests on, in words."""
    words, age = _SOURCES[shot.source][0], shot.reply.age
    return f"{words} {age:.1f} s ago" if age else words


def told(shot: Shot) -> str:
    """The same, and how doubtful the frame itself is."""
    doubt = shot.reply.uncertainty
    return rests(shot) if doubt is None else f"{rests(shot)}; doubt of the frame alone {doubt:.2f}"


class Film:
    """Frames drawn and encoded one by one; made by `film`."""

    def __init__(self, stream: Any, container: Any, frames: int) -> None:
        self._stream = stream
        self._container = container
        self._frames = frames
        self._line: list[tuple[str, bool]] = []
        self._fonts = {size: ImageFont.load_default(size) for size in (15, 18, 40)}

    def add(self, shot: Shot) -> Image.Image:
        """Draw and append one frame; as it was drawn."""
        self._line.append((shot.source, shot.right))
        drawn = self._drawn(shot)
        self._append(av.VideoFrame.from_ndarray(np.asarray(drawn), format="rgb24"))
        return drawn

    def end(self) -> None:
        """Append what the encoder has kept back."""
        self._append(None)

    def _append(self, frame: av.VideoFrame | None) -> None:
        self._container.mux(self._stream.encode(frame))

    def _drawn(self, shot: Shot) -> Image.Image:
        sheet = Image.new("RGB", (PICTURE.width, PICTURE.height + _BAND), _PAPER)
        if shot.picture is not None:
            sheet.paste(shot.picture, (0, 0))
        draw = ImageDraw.Draw(sheet)
        for share, source in ((shot.told, "cloud"), (shot.focus, "picture")):
            if share is not None:
                self._box(draw, share, _SOURCES[source][1])
        top = PICTURE.height + 10
        colour = _SOURCES[shot.source][1]
        answer = shot.reply.answer or "..."
        draw.text((_MARGIN, top), shot.question, fill=_INK, font=self._fonts[18])
        draw.text((_MARGIN, top + 26), answer, fill=colour, font=self._fonts[40])
        left = _MARGIN + 30 + draw.textlength(answer, self._fonts[40])
        draw.text((left, top + 32), told(shot), fill=_INK, font=self._fonts[15])
        verdict = "right" if shot.right else f"wrong: it is {shot.truth}"
        draw.text((left, top + 54), verdict, fill=_FAINT if shot.right else _WRONG, font=self._fonts[15])
        if shot.events:
            width = draw.textlength(shot.events, self._fonts[15])
            place = (PICTURE.width - _MARGIN - width, top + 3)
            draw.text(place, shot.events, fill=_SOURCES["cloud"][1], font=self._fonts[15])
        self._timeline(draw, top + 90)
        return sheet

    def _timeline(self, draw: ImageDraw.ImageDraw, top: int) -> None:
        """A bar a frame: its colour says what the answer rested on; below, in red, where it was wrong."""
        width = (PICTURE.width - 2 * _MARGIN) / self._frames
        for place, (source, right) in enumerate(self._line):
            left = _MARGIN + place * width
            draw.rectangle((left, top, left + width - 0.2, top + 16), fill=_SOURCES[source][1])
            if not right:
                draw.rectangle((left, top + 18, left + width - 0.2, top + 22), fill=_WRONG)
        left = float(_MARGIN)
        for words, colour in _SOURCES.values():
            draw.rectangle((left, top + 31, left + 9, top + 40), fill=colour)
            draw.text((left + 14, top + 27), words, fill=_FAINT, font=self._fonts[15])
            left += 34 + draw.textlength(words, self._fonts[15])

    @staticmethod
    def _box(draw: ImageDraw.ImageDraw, share: Rectangle, colour: tuple[int, int, int]) -> None:
        box = (
            share.left * PICTURE.width,
            share.top * PICTURE.height,
            share.right * PICTURE.width,
            share.bottom * PICTURE.height,
        )
        draw.rectangle(box, outline=colour, width=4)


@contextmanager
def film(path: Path, fps: int, frames: int) -> Iterator[Film]:
    """An MP4 (H.264) of so many frames, drawn while the block runs; it is there once that has ended well.

    Raises:
        WriteError: it cannot be written there.
    """
    check_writable(path)
    with TemporaryDirectory(prefix=".secondlook-", dir=path.parent) as folder:
        file = Path(folder) / "film.mp4"
        try:
            with av.open(str(file), "w", options={"movflags": "faststart"}) as container:
                stream: Any = container.add_stream("libx264", rate=Fraction(fps))
                stream.width, stream.height = PICTURE.width, PICTURE.height + _BAND
                stream.pix_fmt = "yuv420p"
                drawn = Film(stream, container, frames)
                yield drawn
                drawn.end()
        except av.FFmpegError as error:
            raise WriteError(f"cannot write {path}: {error.strerror}") from error
        write_files({path: file.read_bytes()})
