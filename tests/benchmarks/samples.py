"""Hand-made signs, scenes and records, and quick ways to drawn ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from secondlook.benchmarks.run_log import LoggedLook, Record
from secondlook.benchmarks.signs.scene import Scene, Sign, Split, sample_scene, scene_generator
from secondlook.edge.geometry import Size
from secondlook.engine.method.uncertainty import TokenStatistics


def a_sign(
    colour: str = "red", number: int = 42, x: float = 500.0, y: float = 400.0, digit_height: float = 60.0
) -> Sign:
    return Sign(colour, number, x, y, digit_height, angle=0.0, tint=(1.0, 1.0, 1.0))


def a_scene(*signs: Sign, width: int = 1200, height: int = 900) -> Scene:
    return Scene(Size(width, height), signs, background=7)


def drawn_scene(split: Split, seed: int, index: int) -> Scene:
    return sample_scene(scene_generator(split, seed, index))


def smallest(split: Split, seed: int, indices: Sequence[int], count: int) -> list[int]:
    """The `count` of the indices whose pictures have the fewest pixels: the quickest to draw."""
    return sorted(indices, key=lambda index: drawn_scene(split, seed, index).size.pixels)[:count]


def a_look(
    score: float = 1.0, doubts: Sequence[float] = (0.25, 0.5), pixels: int = 100, sent: int = 50
) -> LoggedLook:
    """A look whose tokens have the given min-entropies; the other measures order them otherwise."""
    last = len(doubts) - 1
    tokens = tuple(
        TokenStatistics(doubt, abs(1.5 - doubt), (7 * doubt) % 1.0, is_eos=place == last)
        for place, doubt in enumerate(doubts)
    )
    return LoggedLook("42" if score else "24", score, tokens, pixels, sent, visual_tokens=144)


def a_record(
    index: int = 0,
    first: LoggedLook | None = None,
    second: LoggedLook | None = None,
    kind: str = "read",
) -> Record:
    """A record; without a second look there was no detail to gain."""
    return Record(
        index=index,
        type=kind,
        question="What number is on the red sign?",
        truth="42",
        first=a_look() if first is None else first,
        second=second,
        region=None if second is None else (10, 20, 110, 120),
        region_hit=None if second is None else True,
        original_pixels=1_000_000,
        original_bytes=300_000,
    )


class KillsItsReader:
    """A picture that whoever reads it is killed by, as for want of memory."""

    def read(self) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed by now")

    def __str__(self) -> str:
        return "a picture that is too much"
