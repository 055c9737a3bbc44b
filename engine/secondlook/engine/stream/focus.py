"""Visual focus: a region of an earlier frame, brought to the present one.

By known motion (`secondlook.edge.geometry.moved`) where the camera tells it, else by the small model's own
attention near the old place. A region left where it was is worse than none once the camera has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from secondlook.edge.geometry import Rectangle, Region, Size, inside
from secondlook.engine.method.grid import GridMap

__all__ = ["anchored", "narrowed", "widened"]

_REACH: Final = 1.0
"""How far a place may have moved since the frame before, in sizes of its own, beside one cell."""

_EVIDENCE: Final = 96
"""Of 255, the map's own largest: where attention near the old place is less, nothing says where it went."""

_AROUND: Final = 2.0
"""Of a place's sides: so much is looked at, for where the place is, is known by cells of a map."""


def anchored(cells: Sequence[Sequence[int]], grid: GridMap, place: Region) -> Region:
    """Where a place of the frame before is by a frame's own attention; as large as it was.

    The strongest cell near the old place, and the centre of gravity of the cells about it.

    Args:
        cells: [rows][columns] from 0 to 255, see `secondlook.edge.wire.Relevance`.
        grid: from those cells to the frame's pixels.
    """
    left, top = grid.to_grid(place.left, place.top)
    right, bottom = grid.to_grid(place.right, place.bottom)
    wide, high = float(right - left), float(bottom - top)
    columns = _range(float(left) - _REACH * wide - 1, float(right) + _REACH * wide + 1, grid.columns)
    rows = _range(float(top) - _REACH * high - 1, float(bottom) + _REACH * high + 1, grid.rows)
    near = [(cells[row][column], row, column) for row in rows for column in columns]
    strength, row, column = max(near, default=(0, 0, 0))
    if strength < _EVIDENCE:
        return place
    about = [
        (cells[y][x], y, x)
        for y in _range(row - 1, row + 2, grid.rows)
        for x in _range(column - 1, column + 2, grid.columns)
    ]
    total = sum(weight for weight, _, _ in about)
    x, y = grid.to_pixels(
        sum(weight * (x + 0.5) for weight, _, x in about) / total,
        sum(weight * (y + 0.5) for weight, y, _ in about) / total,
    )
    return inside(_about(float(x), float(y), place.width, place.height), grid.image) or place


def widened(place: Region, original: Size) -> Region:
    """A place with what is around it, as it is looked at: in each direction at most half of the picture,
    unless the place has more."""
    width = max(place.width, min(_AROUND * place.width, original.width / 2))
    height = max(place.height, min(_AROUND * place.height, original.height / 2))
    return inside(_about(*place.centre, width, height), original) or place


def narrowed(seen: Region) -> Region:
    """The place, where that and what is around it were looked at: about as large as before it was widened."""
    width, height = max(1, round(seen.width / _AROUND)), max(1, round(seen.height / _AROUND))
    left, top = seen.left + (seen.width - width) // 2, seen.top + (seen.height - height) // 2
    return Region(left, top, left + width, top + height)


def _about(x: float, y: float, width: float, height: float) -> Rectangle:
    return Rectangle(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _range(start: float, stop: float, most: int) -> range:
    """Whole cells from `start` to `stop` of a grid's `most`."""
    return range(max(0, int(start)), max(0, min(most, int(stop + 0.999999))))
