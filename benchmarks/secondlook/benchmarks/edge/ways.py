"""Two ways to make the pictures of a question: this project's edge, and the plain one.

Imports the edge alone, for memory is measured in processes that run this module: its main reads a `Task` as
JSON, makes the pictures once and ends.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from PIL import Image
from pydantic import TypeAdapter

import secondlook.edge.cli  # noqa: F401  (as in an edge's process: both ways carry its imports)
from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.imaging import GLOBAL_JPEG, LOCAL_JPEG, JpegSettings, open_picture
from secondlook.edge.validation import from_json
from secondlook.edge.wire import View

Sent = Literal["global", "local", "both"]
SENT: Final[tuple[Sent, ...]] = ("global", "local", "both")
Way = Literal["edge", "plain"]
WAYS: Final[tuple[Way, ...]] = ("edge", "plain")
Source: TypeAlias = bytes | Image.Image
"""A JPEG, or a raw frame as an RGB image."""


@dataclass(frozen=True)
class Wanted:
    """What a server asks for: global and local images so, and one region."""

    view: View
    region: Region


@dataclass(frozen=True)
class Task:
    """What one process does.

    Attributes:
        file: a JPEG, or a raw frame's RGB bytes.
        size: of a raw frame; None for a JPEG.
    """

    way: Way
    sent: Sent
    file: str
    size: tuple[int, int] | None
    wanted: Wanted

    def to_json(self) -> str:
        return TypeAdapter(Task).dump_json(self).decode()

    def source(self) -> Source:
        data = Path(self.file).read_bytes()
        return data if self.size is None else Image.frombytes("RGB", self.size, data)


def make(way: Way, sent: Sent, source: Source, wanted: Wanted) -> list[bytes]:
    """The JPEGs that would travel."""
    return (_edge if way == "edge" else _plain)(sent, source, wanted)


def _edge(sent: Sent, source: Source, wanted: Wanted) -> list[bytes]:
    picture, made = open_picture(source), []
    if sent != "local":
        made.append(picture.global_image(wanted.view).jpeg)
    if sent != "global":
        made.append(picture.local_image(wanted.region, wanted.view).jpeg)
    return made


def _plain(sent: Sent, source: Source, wanted: Wanted) -> list[bytes]:
    """Decode the whole, once; resize by the edge's filter; encode with the edge's quality and chroma."""
    whole = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source))
    made = []
    if sent != "local":
        made.append(_encoded(whole, wanted.view, GLOBAL_JPEG))
    if sent != "global":
        made.append(_encoded(whole.crop(wanted.region.as_tuple()), wanted.view, LOCAL_JPEG))
    return made


def _encoded(image: Image.Image, view: View, settings: JpegSettings) -> bytes:
    size, buffer = sent_size(view, Size(*image.size)), io.BytesIO()
    image = image.resize((size.width, size.height), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=settings.quality, subsampling=settings.subsampling)
    return buffer.getvalue()


def main() -> None:
    task = from_json(Task, sys.argv[1])
    make(task.way, task.sent, task.source(), task.wanted)


if __name__ == "__main__":
    main()
