"""What the models say about drawn streams, recorded once: replays need no model for what is here.

A recording has for every frame the small model's look at the whole and the large one's answer after both its
looks. What else a method asks the small model (the same frame with a focus, or with history behind the
question) depends on the method, the network and the key frames, so it is asked when a replay first needs it,
and kept. A file is JSON lines, compressed: a header, then a line for each stream.
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from secondlook.benchmarks.run_log import LogError
from secondlook.benchmarks.streams.scenes import DrawnStream, sample_stream
from secondlook.edge.files import write_files
from secondlook.edge.geometry import Region

_FORMAT: Final = 1
_DIGITS: Final = 6
"""Of doubts, behind the point."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class OwnLook:
    """The small model's look at a whole frame.

    Attributes:
        uncertainty: in nats, as all doubts here.
        cells: relevance, [rows][columns] from 0 to 255.
        bytes: of the JPEG that the camera sent.
    """

    text: str
    uncertainty: float
    cells: tuple[bytes, ...]
    bytes: int


@dataclass(frozen=True)
class CloudAnswer:
    """The large model's answer about a frame.

    Attributes:
        region: where it looked closer or, where it did not, would have.
        bytes: of the JPEGs sent for it: the whole, and the region, 0 where that was not asked for.
    """

    text: str
    uncertainty: float
    region: Region
    bytes: tuple[int, int]


@dataclass(frozen=True)
class CloserLook:
    """The small model's look at a frame and a region of it.

    Attributes:
        bytes: of the region's JPEG.
    """

    text: str
    uncertainty: float
    bytes: int


@dataclass(frozen=True)
class ContextLook:
    """The small model's look at a frame, with history behind the question."""

    text: str
    uncertainty: float


@dataclass(frozen=True)
class CloserKey:
    frame: int
    region: Box


@dataclass(frozen=True)
class ContextKey:
    frame: int
    question: str


Key = CloserKey | ContextKey


@dataclass
class Looks:
    """What is recorded of one stream: a look and an answer for each frame, and what else was asked."""

    own: list[OwnLook]
    cloud: list[CloudAnswer]
    closer: dict[CloserKey, CloserLook] = field(default_factory=dict)
    context: dict[ContextKey, ContextLook] = field(default_factory=dict)

    def has(self, key: Key) -> bool:
        return key in (self.closer if isinstance(key, CloserKey) else self.context)

    def keep(self, key: Key, look: CloserLook | ContextLook) -> None:
        if isinstance(key, CloserKey):
            assert isinstance(look, CloserLook)
            self.closer[key] = look
        else:
            assert isinstance(look, ContextLook)
            self.context[key] = look


class Recording:
    """Looks at the streams of one split and seed.

    Args:
        settings: all that the looks depend on: `split`, `seed`, `seconds`, `small`, `large`, as they were
            asked for, and `models`: views, dtypes and digests of weights.
        made: what they were made on: stated, but no part of what they depend on.
        partition: what the split of the large model took, see `measure_partition`.

    Attributes:
        looks: by the stream's index.
    """

    def __init__(self, settings: dict[str, Any], made: dict[str, Any], partition: dict[str, Any]) -> None:
        self.settings = settings
        self.made = made
        self.partition = partition
        self.looks: dict[int, Looks] = {}

    def stream(self, index: int) -> DrawnStream:
        of = self.settings
        return sample_stream(of["split"], of["seed"], index, of["seconds"])

    def save(self, path: Path) -> None:
        """Write all of it, in place of what is there."""
        header = {
            "format": _FORMAT,
            "settings": self.settings,
            "made": self.made,
            "partition": self.partition,
        }
        lines = [header, *(_line(index, looks) for index, looks in sorted(self.looks.items()))]
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        write_files({path: gzip.compress(text.encode(), mtime=0)})


def read_recording(path: Path) -> Recording:
    """
    Raises:
        LogError: it cannot be read, or is none.
    """
    try:
        header, *lines = gzip.decompress(path.read_bytes()).splitlines()
        head = json.loads(header)
        if head["format"] != _FORMAT:
            raise ValueError(f"its format is {head['format']}, not {_FORMAT}")
        recording = Recording(head["settings"], head["made"], head["partition"])
        for line in lines:
            read = json.loads(line)
            recording.looks[int(read["stream"])] = _looks(read)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise LogError(f"cannot read the recording {path}: {why}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LogError(f"{path} is no recording of streams ({error}); choose another file") from error
    return recording


def _line(index: int, looks: Looks) -> dict[str, Any]:
    """By columns, which compresses better than by frames."""
    own, cloud = looks.own, looks.cloud
    closer = sorted(looks.closer.items(), key=lambda pair: (pair[0].frame, pair[0].region))
    context = sorted(looks.context.items(), key=lambda pair: (pair[0].frame, pair[0].question))
    return {
        "stream": index,
        "own": {
            "text": [look.text for look in own],
            "uncertainty": _rounded(own),
            "cells": [[len(look.cells), b64encode(b"".join(look.cells)).decode()] for look in own],
            "bytes": [look.bytes for look in own],
        },
        "cloud": {
            "text": [answer.text for answer in cloud],
            "uncertainty": _rounded(cloud),
            "region": [answer.region.as_tuple() for answer in cloud],
            "bytes": [answer.bytes for answer in cloud],
        },
        "closer": {
            "frame": [key.frame for key, _ in closer],
            "region": [key.region for key, _ in closer],
            "text": [look.text for _, look in closer],
            "uncertainty": _rounded(look for _, look in closer),
            "bytes": [look.bytes for _, look in closer],
        },
        "context": {
            "frame": [key.frame for key, _ in context],
            "question": [key.question for key, _ in context],
            "text": [look.text for _, look in context],
            "uncertainty": _rounded(look for _, look in context),
        },
    }


def _looks(line: dict[str, Any]) -> Looks:
    def rows(name: str) -> Iterable[tuple[Any, ...]]:
        return zip(*line[name].values(), strict=True)

    own = [OwnLook(text, doubt, _cells(*cells), size) for text, doubt, cells, size in rows("own")]
    cloud = [
        CloudAnswer(text, doubt, Region(*region), (whole, part))
        for text, doubt, region, (whole, part) in rows("cloud")
    ]
    if len(own) != len(cloud):
        raise ValueError(f"stream {line['stream']} has {len(own)} looks and {len(cloud)} answers")
    closer = {
        CloserKey(frame, (left, top, right, bottom)): CloserLook(text, doubt, size)
        for frame, (left, top, right, bottom), text, doubt, size in rows("closer")
    }
    context = {
        ContextKey(frame, question): ContextLook(text, doubt)
        for frame, question, text, doubt in rows("context")
    }
    return Looks(own, cloud, closer, context)


def _cells(rows: int, data: str) -> tuple[bytes, ...]:
    cells = b64decode(data, validate=True)
    columns = len(cells) // rows
    return tuple(cells[row * columns : (row + 1) * columns] for row in range(rows))


def _rounded(looks: Iterable[OwnLook | CloudAnswer | CloserLook | ContextLook]) -> list[float]:
    return [round(look.uncertainty, _DIGITS) for look in looks]
