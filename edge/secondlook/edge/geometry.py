"""Sizes, regions, and the maps between an attention grid and the original picture.

Three frames occur. *Original pixels*: x to the right, y down, (0, 0) the top left corner of the upright
picture. *Encoder pixels*: the encoder's input square, into which the picture was squashed or padded. *Grid
cells*: that square divided into rows and columns. Coordinates are continuous: pixel i covers [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, get_args

from .errors import GeometryError
from .wire import ResizeMode

__all__ = ["GridMap", "Placement", "Rectangle", "Region", "Size", "place", "shrunk"]


def _check_whole(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise GeometryError(f"{name} must be a whole number, not {value!r}")


def _check_positive(**values: int) -> None:
    _check_whole(**values)
    for name, value in values.items():
        if value < 1:
            raise GeometryError(f"{name} must be at least 1, not {value}")


def check_resize_mode(mode: str) -> None:
    """Raise `GeometryError` unless `mode` is one of the `ResizeMode`s."""
    if mode not in get_args(ResizeMode):
        raise GeometryError(f"resize mode must be one of {', '.join(get_args(ResizeMode))}, not {mode!r}")


@dataclass(frozen=True)
class Size:
    """Width and height in pixels, both at least 1; else `GeometryError`."""

    width: int
    height: int

    def __post_init__(self) -> None:
        _check_positive(width=self.width, height=self.height)

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def longer(self) -> int:
        return max(self.width, self.height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Region:
    """A box in original pixels, half open: left and top are inside it, right and bottom just outside.

    0 <= left < right and 0 <= top < bottom, else `GeometryError`.
    """

    left: int
    top: int
    right: int
    bottom: int

    def __post_init__(self) -> None:
        _check_whole(left=self.left, top=self.top, right=self.right, bottom=self.bottom)
        if not (0 <= self.left < self.right and 0 <= self.top < self.bottom):
            raise GeometryError(f"region {self} is empty or begins outside the picture")

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in continuous original pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def within(self, size: Size) -> bool:
        """Whether a picture of this size contains the whole region."""
        return self.right <= size.width and self.bottom <= size.height

    def contains(self, x: float, y: float) -> bool:
        return self.left <= x < self.right and self.top <= y < self.bottom

    def covers(self, size: Size) -> bool:
        """Whether the region contains the whole of a picture of this size."""
        return self.left == 0 and self.top == 0 and self.right >= size.width and self.bottom >= size.height

    def as_tuple(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as Pillow's `crop` takes it."""
        return self.left, self.top, self.right, self.bottom

    def __str__(self) -> str:
        return f"({self.left}, {self.top}, {self.right}, {self.bottom})"


class Placement(NamedTuple):
    """Where the picture lies inside the encoder's square, in encoder pixels."""

    left: int
    top: int
    width: int
    height: int


def place(image: Size, side: int, mode: ResizeMode) -> Placement:
    """Where a picture of this size goes in a square of `side` pixels.

    `squash` fills the square. `pad` keeps the aspect ratio: the longer side fills the square, the shorter one
    is rounded to whole pixels (at least 1) and centred, an odd pixel left over going right or to the bottom.
    """
    _check_positive(side=side)
    check_resize_mode(mode)
    if mode == "squash":
        return Placement(0, 0, side, side)
    width = _scaled(image.width, side, image.longer)
    height = _scaled(image.height, side, image.longer)
    return Placement((side - width) // 2, (side - height) // 2, width, height)


def shrunk(size: Size, side: int) -> Size:
    """`size` with its longer side brought down to `side`, aspect ratio kept; as it is if no larger."""
    _check_positive(side=side)
    if size.longer <= side:
        return size
    return Size(_scaled(size.width, side, size.longer), _scaled(size.height, side, size.longer))


def _scaled(length: int, numerator: int, denominator: int) -> int:
    """length · numerator / denominator, rounded half up, at least 1; exact for any integers."""
    return max(1, (2 * length * numerator + denominator) // (2 * denominator))


class Rectangle(NamedTuple):
    """A rectangle in continuous original pixels; it may reach outside the picture."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class GridMap:
    """The map between grid cells and original pixels for one picture, resize mode and grid.

    It follows the placement that `place` computes in whole encoder pixels, which is where the picture really
    lies in what the encoder sees. Coordinates are computed as fractions, so the two directions are exact
    inverses.

    Attributes:
        image: the original picture's size.
        side: the encoder's input side, in pixels.
        mode: how the picture was fitted to the square.
        rows, columns: the grid over the square.
    """

    image: Size
    side: int
    mode: ResizeMode
    rows: int
    columns: int

    def __post_init__(self) -> None:
        _check_positive(side=self.side, rows=self.rows, columns=self.columns)
        check_resize_mode(self.mode)

    @property
    def placement(self) -> Placement:
        return place(self.image, self.side, self.mode)

    def to_grid(self, x: float | Fraction, y: float | Fraction) -> tuple[Fraction, Fraction]:
        """Original pixels (x, y) → grid (column, row); both continuous, cell i covering [i, i + 1)."""
        left, top, width, height = self.placement
        column = (left + Fraction(x) * width / self.image.width) * self.columns / self.side
        row = (top + Fraction(y) * height / self.image.height) * self.rows / self.side
        return column, row

    def to_pixels(self, column: float | Fraction, row: float | Fraction) -> tuple[Fraction, Fraction]:
        """Grid (column, row) → original pixels (x, y): the exact inverse of `to_grid`."""
        left, top, width, height = self.placement
        x = (Fraction(column) * self.side / self.columns - left) * self.image.width / width
        y = (Fraction(row) * self.side / self.rows - top) * self.image.height / height
        return x, y

    def cell_rectangle(self, row: int, column: int) -> Rectangle:
        """The original pixels behind one cell; with `pad` it may lie partly or wholly outside the picture."""
        _check_whole(row=row, column=column)
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise GeometryError(
                f"cell ({row}, {column}) is outside a grid of {self.rows}x{self.columns} cells"
            )
        left, top = self.to_pixels(column, row)
        right, bottom = self.to_pixels(column + 1, row + 1)
        return Rectangle(float(left), float(top), float(right), float(bottom))
