"""Answers of the last seconds, by the frame that they are about.

What holds for a frame depends on which answers have come, and not on when, in what order or how often: ages
are differences of the camera's times of capture.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from typing import Final

from secondlook.edge.geometry import Region
from secondlook.edge.wire_stream import By

__all__ = ["MOST_ANSWERS", "MOST_FRAMES", "Entry", "History"]

MOST_FRAMES: Final = 4096
"""Of one stream that are known at once, however close their times of capture are."""

MOST_ANSWERS: Final = 256
"""The same of answers, which are weighed at every frame: more than ten seconds of 25 frames each."""


@dataclass(frozen=True)
class Entry:
    """One answer.

    Attributes:
        frame, captured: what it was asked of, and its time in seconds on the camera's clock.
        uncertainty: of the answer, in nats.
        by: the small model's own, from the picture alone, or the cloud's.
        region: where in that frame the answer was read, in original pixels; None: not known.
    """

    frame: int
    captured: float
    text: str
    uncertainty: float
    by: By
    region: Region | None = None

    @property
    def rank(self) -> tuple[int, bool, float, str]:
        """Newer frames first, of one frame the cloud's answer, of several of these the surest."""
        return self.frame, self.by == "cloud", -self.uncertainty, self.text


class History:
    """One stream's answers, none older than a limit; bounded by the frames of that time, and in number.

    Args:
        seconds: how long an answer is of use.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._entries: list[Entry] = []  # by rank: a frame's own answer before the cloud's, the newest last
        self._latest = float("-inf")

    def put(self, entry: Entry) -> None:
        """Take an answer in; the same one again, or one less sure by the same of the same frame, changes
        nothing."""
        place = bisect(self._entries, entry.rank, key=lambda known: known.rank)
        for known in self._entries[max(0, place - 1) : place + 1]:
            if (known.frame, known.by) == (entry.frame, entry.by):
                if known.rank < entry.rank:
                    self._entries[self._entries.index(known)] = entry
                break
        else:
            self._entries.insert(place, entry)
        del self._entries[:-MOST_ANSWERS]
        self.reach(entry.captured)

    def reach(self, captured: float) -> None:
        """A frame of this time is known: what is too old for it, and so for all later ones, is given up."""
        self._latest = max(self._latest, captured)
        old = 0
        while old < len(self._entries) and self._latest - self._entries[old].captured > self.seconds:
            old += 1
        del self._entries[:old]

    def before(self, frame: int, captured: float) -> list[Entry]:
        """The answers to frames before `frame`, not too old at `captured`, in the order of the frames."""
        return [
            entry
            for entry in self._entries
            if entry.frame < frame and captured - entry.captured <= self.seconds
        ]

    def place(self, frame: int, captured: float, doubt: float) -> Entry | None:
        """The newest answer to a frame up to `frame` whose region is known; None: there is none.

        Args:
            doubt: that it has at most.
        """
        placed = (
            entry
            for entry in reversed(self.before(frame + 1, captured))
            if entry.region is not None and entry.uncertainty <= doubt
        )
        return next(placed, None)

    def __len__(self) -> int:
        return len(self._entries)
