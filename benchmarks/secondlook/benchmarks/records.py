"""What one question cost and gave when it was looked at twice: the records every curve is replayed from.

A *full-retransmission run* asks every question with a second look and makes one record of each. Nothing in a
record depends on a threshold, a measure or an arbitration rule. `secondlook.benchmarks.run_log` keeps them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from secondlook.engine.method.uncertainty import TokenStatistics

__all__ = ["LoggedLook", "Record"]


@dataclass(frozen=True)
class LoggedLook:
    """One look's answer, its score (0 to 1), the doubt of each token, and what it cost to send and to see.

    Attributes:
        pixels, bytes: of this look's image, as it was sent.
        visual_tokens: of this look's image.
        prompt_tokens: of the whole prompt, the visual tokens of all its images included; None: not known.
    """

    text: str
    score: float
    tokens: tuple[TokenStatistics, ...]
    pixels: int
    bytes: int
    visual_tokens: int
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Record:
    """One question of a full-retransmission run.

    Attributes:
        index: the picture's place in its data set.
        type: the question's kind, within its data set.
        question: as the model was asked it.
        region: left, top, right, bottom in original pixels; None where there was no detail to gain.
        region_hit: whether the region contains the centre of every box; None where no box is known, or there
            was no detail to gain.
        second: None where there was no detail to gain.
        original_bytes: size of the original as a camera would store it.
        id: the question's own in its data set; empty where it has none.
        boxes: where what is asked for is: left, top, right, bottom in original pixels; empty: not known.
        file: name of the original's file; empty: it has none.
        heat: relative attention as `secondlook.benchmarks.heat` writes it; kept of the first pictures only.
    """

    index: int
    type: str
    question: str
    truth: str
    first: LoggedLook
    second: LoggedLook | None
    region: tuple[int, int, int, int] | None
    region_hit: bool | None
    original_pixels: int
    original_bytes: int
    id: str = ""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    file: str = ""
    heat: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(self, default=vars, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Record:
        return cls.from_values(json.loads(text))

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Record:
        """From what `to_json` wrote, parsed.

        Raises:
            KeyError, TypeError: it is something else.
        """
        read = dict(values)
        for name in ("first", "second"):
            look = values[name]
            if look is not None:
                tokens = tuple(TokenStatistics(**token) for token in look["tokens"])
                read[name] = LoggedLook(**{**look, "tokens": tokens})
        if values["region"] is not None:
            read["region"] = tuple(values["region"])
        read["boxes"] = tuple(tuple(box) for box in values.get("boxes", ()))
        read["heat"] = tuple(values.get("heat", ()))
        return cls(**read)
