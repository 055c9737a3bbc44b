"""The map between an attention grid and the original picture.

Grid cells are the target pixels of `secondlook.edge.geometry`, divided into rows and columns.
"""

from __future__ import annotations

from fractions import Fraction

from pydantic import PositiveInt

from secondlook.edge.errors import GeometryError
from secondlook.edge.geometry import Placement, Size, place
from secondlook.edge.validation import validated
from secondlook.edge.wire import Fit

__all__ = ["GridMap"]


@validated(frozen=True, raises=GeometryError)
class GridMap:
    """The map between grid cells and original pixels for one picture, target, fit and grid.

    It follows the placement that `place` computes in whole target pixels, which is where the picture really
    lies in what the model sees. Coordinates are computed as fractions, so the two directions are exact
    inverses.

    Attributes:
        image: the original picture's size.
        target: what the model takes.
        fit: how the picture was fitted to it.
        rows, columns: the grid over the target.
    """

    image: Size
    target: Size
    fit: Fit
    rows: PositiveInt
    columns: PositiveInt

    @property
    def placement(self) -> Placement:
        return place(self.image, self.target, self.fit)

    def to_grid(self, x: float | Fraction, y: float | Fraction) -> tuple[Fraction, Fraction]:
        """Original pixels (x, y) → grid (column, row); both continuous, cell i covering [i, i + 1)."""
        left, top, width, height = self.placement
        column = (left + Fraction(x) * width / self.image.width) * self.columns / self.target.width
        row = (top + Fraction(y) * height / self.image.height) * self.rows / self.target.height
        return column, row

    def to_pixels(self, column: float | Fraction, row: float | Fraction) -> tuple[Fraction, Fraction]:
        """Grid (column, row) → original pixels (x, y): the exact inverse of `to_grid`."""
        left, top, width, height = self.placement
        x = (Fraction(column) * self.target.width / self.columns - left) * self.image.width / width
        y = (Fraction(row) * self.target.height / self.rows - top) * self.image.height / height
        return x, y
