"""Where a model points, in words: a box in its answer, as a region of the original."""

from __future__ import annotations

import math
import re
from typing import Final

from secondlook.edge.geometry import Region, Size
from secondlook.engine.upstream.settings import BoxUnits

__all__ = ["pointed"]

_NUMBER: Final = r"([-+]?\d{1,7}(?:\.\d{1,10})?)"
_BOX: Final = re.compile(
    rf"[\[(]\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]?\s*,\s*[\[(]?\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[)\]]"
)
"""[x1, y1, x2, y2] as in JSON, whatever is around it, or (x1,y1),(x2,y2) as of Qwen-VL."""

_SLACK: Final = 0.02
"""How far beyond the picture a box may reach, in parts of its side: models are not exact at the edges."""


def pointed(text: str, units: BoxUnits, sent: Size, original: Size, least: int) -> Region | None:
    """The first box that an answer has, or None where that is no box in the picture.

    Args:
        sent: size of the picture that the model was sent; its pixels, where these are the units.
        least: width and height of the region at least, as far as the picture is so large.
    """
    found = _BOX.search(text)
    if found is None:
        return None
    across, down = {
        "pixels": (sent.width, sent.height),
        "thousandths": (1000, 1000),
        "fractions": (1, 1),
    }[units]
    left, top, right, bottom = map(float, found.groups())
    sides = (left / across, right / across), (top / down, bottom / down)
    if not all(-_SLACK <= start < stop <= 1 + _SLACK for start, stop in sides):
        return None  # of another unit, say: nobody knows what is meant
    x, y = (
        _pixels(*side, least, length)
        for side, length in zip(sides, (original.width, original.height), strict=True)
    )
    return Region(x[0], y[0], x[1], y[1])


def _pixels(start: float, stop: float, least: int, length: int) -> tuple[int, int]:
    """Whole pixels around a part of a side of that length, at least so many."""
    first = min(max(0, math.floor(start * length)), length - 1)
    last = max(first + 1, min(length, math.ceil(stop * length)))
    missing = min(least, length) - (last - first)
    if missing > 0:
        first = min(max(0, first - missing // 2), length - min(least, length))
        last = first + min(least, length)
    return first, last
