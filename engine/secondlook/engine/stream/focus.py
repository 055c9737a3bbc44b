"""Visual focus: a region of an earlier frame, brought to the present one.

By known motion (`secondlook.edge.geometry.moved`) where the camera tells it, else by the small model's own
attention near the old place. A region left where it was is worse than none once the camera has moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from secondlook.edge.geometry import GridMap, Rectangle, Region, inside

__all__ = ["anchored"]

_REACH: Final = 1.0
"""How far a place may have moved since the frame before, in sizes of its own, beside one cell."""

_EVIDENCE: Final = 96
"""Of 255, the map's own largest: where attention near the old place is less, nothing says where it went."""


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
    half_wide, half_high = place.width / 2, place.height / 2
    moved = Rectangle(float(x) - half_wide, float(y) - half_high, float(x) + half_wide, float(y) + half_high)
    return inside(moved, grid.image) or place


def _range(start: float, stop: float, most: int) -> range:
    """Whole cells from `start` to `stop` of a grid's `most`."""
    return range(max(0, int(start)), max(0, min(most, int(stop + 0.999999))))
