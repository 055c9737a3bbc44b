"""The map between grid cells and pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.errors import GeometryError
from secondlook.edge.geometry import Size, place
from secondlook.engine.method.grid import GridMap

lengths = st.integers(1, 20_000)
sizes = st.builds(Size, lengths, lengths)
small = st.integers(1, 1024)
targets = st.builds(Size, small, small)
modes = st.sampled_from(["squash", "pad"])
grids = st.builds(GridMap, sizes, targets, modes, st.integers(1, 64), st.integers(1, 64))
coordinates = st.one_of(
    st.integers(-30_000, 30_000),
    st.fractions(-30_000, 30_000),
    st.floats(-30_000, 30_000, allow_nan=False),
)


def cell(grid: GridMap, row: int, column: int) -> tuple[Fraction, ...]:
    """Left, top, right and bottom of a cell in original pixels."""
    return (*grid.to_pixels(column, row), *grid.to_pixels(column + 1, row + 1))


@given(grids, coordinates, coordinates)
def test_pixels_to_grid_and_back_is_exact(grid: GridMap, x: Any, y: Any) -> None:
    assert grid.to_pixels(*grid.to_grid(x, y)) == (Fraction(x), Fraction(y))


@given(grids, coordinates, coordinates)
def test_grid_to_pixels_and_back_is_exact(grid: GridMap, column: Any, row: Any) -> None:
    assert grid.to_grid(*grid.to_pixels(column, row)) == (Fraction(column), Fraction(row))


@given(grids, st.data())
def test_a_cell_holds_exactly_the_pixels_that_map_into_it(grid: GridMap, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, grid.image.width - 1)) + Fraction(1, 2)
    y = data.draw(st.integers(0, grid.image.height - 1)) + Fraction(1, 2)
    column, row = grid.to_grid(x, y)
    assert 0 <= column < grid.columns
    assert 0 <= row < grid.rows
    left, top, right, bottom = cell(grid, int(row), int(column))
    assert left <= x < right
    assert top <= y < bottom


@given(sizes, targets, modes)
def test_the_placement_is_where_the_grid_says_the_picture_is(size: Size, fitted: Size, mode: Any) -> None:
    grid = GridMap(size, fitted, mode, rows=fitted.height, columns=fitted.width)
    left, top, width, height = grid.placement
    assert grid.to_grid(0, 0) == (left, top)
    assert grid.to_grid(size.width, size.height) == (left + width, top + height)


@given(sizes, targets)
def test_squash_fills_the_target_and_its_cells_tile_the_picture(size: Size, fitted: Size) -> None:
    assert place(size, fitted, "squash") == (0, 0, fitted.width, fitted.height)
    grid = GridMap(size, fitted, "squash", rows=3, columns=5)
    assert cell(grid, 0, 0)[:2] == (0, 0)
    assert cell(grid, 2, 4)[2:] == (size.width, size.height)
    assert cell(grid, 1, 1)[2] == cell(grid, 1, 2)[0]


def test_pad_cells_beside_the_picture_lie_outside_it() -> None:
    grid = GridMap(Size(400, 200), Size(100, 100), fit="pad", rows=4, columns=4)
    assert grid.placement == (0, 25, 100, 50)
    assert cell(grid, 0, 0) == (0, -100, 100, 0)
    assert cell(grid, 1, 3) == (300, 0, 400, 100)
    assert cell(grid, 3, 0) == (0, 200, 100, 300)


def test_impossible_grids_are_refused() -> None:
    size = Size(10, 10)
    with pytest.raises(GeometryError, match=r"rows should be greater than 0, not 0"):
        GridMap(size, size, "pad", rows=0, columns=1)
    with pytest.raises(GeometryError, match=r"fit should be 'squash' or 'pad', not 'crop'"):
        GridMap(size, size, "crop", rows=1, columns=1)  # type: ignore[arg-type]
