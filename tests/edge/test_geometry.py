from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge import GeometryError, GridMap, Region, Size, place
from secondlook.edge.geometry import shrunk

lengths = st.integers(1, 20_000)
sizes = st.builds(Size, lengths, lengths)
modes = st.sampled_from(["squash", "pad"])
grids = st.builds(GridMap, sizes, st.integers(1, 1024), modes, st.integers(1, 64), st.integers(1, 64))
coordinates = st.one_of(
    st.integers(-30_000, 30_000),
    st.fractions(-30_000, 30_000),
    st.floats(-30_000, 30_000, allow_nan=False),
)


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
    cell = grid.cell_rectangle(int(row), int(column))
    slack = 1e-6 * grid.image.longer
    assert cell.left - slack <= x <= cell.right + slack
    assert cell.top - slack <= y <= cell.bottom + slack


@given(sizes, st.integers(1, 1024), modes)
def test_the_placement_is_where_the_grid_says_the_picture_is(size: Size, side: int, mode: Any) -> None:
    grid = GridMap(size, side, mode, rows=side, columns=side)
    left, top, width, height = grid.placement
    assert grid.to_grid(0, 0) == (left, top)
    assert grid.to_grid(size.width, size.height) == (left + width, top + height)


@given(sizes, st.integers(1, 1024))
def test_squash_fills_the_square_and_its_cells_tile_the_picture(size: Size, side: int) -> None:
    assert place(size, side, "squash") == (0, 0, side, side)
    grid = GridMap(size, side, "squash", rows=3, columns=5)
    assert grid.cell_rectangle(0, 0)[:2] == (0, 0)
    assert grid.cell_rectangle(2, 4)[2:] == (size.width, size.height)
    assert grid.cell_rectangle(1, 1).right == grid.cell_rectangle(1, 2).left


@given(sizes, st.integers(1, 1024))
def test_pad_centres_the_picture_and_keeps_its_aspect(size: Size, side: int) -> None:
    left, top, width, height = place(size, side, "pad")
    assert max(width, height) == side
    assert min(width, height) >= 1
    assert 0 <= side - width - 2 * left <= 1
    assert 0 <= side - height - 2 * top <= 1
    for got, length in ((width, size.width), (height, size.height)):
        assert got == 1 or abs(got - Fraction(length * side, size.longer)) <= Fraction(1, 2)


def test_pad_cells_beside_the_picture_lie_outside_it() -> None:
    grid = GridMap(Size(400, 200), side=100, mode="pad", rows=4, columns=4)
    assert grid.placement == (0, 25, 100, 50)
    assert grid.cell_rectangle(0, 0) == (0, -100, 100, 0)
    assert grid.cell_rectangle(1, 3) == (300, 0, 400, 100)
    assert grid.cell_rectangle(3, 0) == (0, 200, 100, 300)


@given(sizes, st.integers(1, 1024))
def test_shrunk_never_enlarges(size: Size, side: int) -> None:
    small = shrunk(size, side)
    assert small.width <= size.width
    assert small.height <= size.height
    assert small.longer == min(side, size.longer)


def test_region_measures() -> None:
    region = Region(10, 20, 40, 60)
    assert (region.width, region.height) == (30, 40)
    assert region.size == Size(30, 40)
    assert region.centre == (25.0, 40.0)
    assert region.contains(10, 20)
    assert not region.contains(40, 20)
    assert not region.contains(10, 60)
    assert region.within(Size(40, 60))
    assert not region.within(Size(39, 60))
    assert not region.covers(Size(40, 60))
    assert Region(0, 0, 40, 60).covers(Size(40, 60))
    assert not Region(0, 0, 40, 60).covers(Size(41, 60))


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 1), (0, 0, 1, 0), (-1, 0, 1, 1), (0, -1, 1, 1), (5, 0, 4, 1), (0, 0, 1.5, 1)]
)
def test_impossible_regions_are_refused_by_value(box: tuple[Any, Any, Any, Any]) -> None:
    with pytest.raises(GeometryError, match=str(box[2])):
        Region(*box)


@pytest.mark.parametrize("size", [(0, 1), (1, -3), (2.0, 1), (True, 1), ("3", 1)])
def test_impossible_sizes_are_refused(size: tuple[Any, Any]) -> None:
    with pytest.raises(GeometryError, match=r"width|height"):
        Size(*size)


def test_impossible_grids_are_refused() -> None:
    size = Size(10, 10)
    with pytest.raises(GeometryError, match=r"rows must be at least 1, not 0"):
        GridMap(size, 10, "pad", rows=0, columns=1)
    with pytest.raises(GeometryError, match=r"squash, pad, not 'crop'"):
        GridMap(size, 10, "crop", rows=1, columns=1)  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match=r"cell \(0, 3\) is outside a grid of 2x3"):
        GridMap(size, 10, "pad", rows=2, columns=3).cell_rectangle(0, 3)
