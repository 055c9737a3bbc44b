"""The region search: golden boxes, an independent brute-force search, and soundness on every map."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from properties import examples
from secondlook import kernels
from secondlook.edge.errors import GeometryError, SettingsError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import Fit
from secondlook.engine.method.region import RegionSettings, find_region, without_sinks
from secondlook.kernels import relative_attention

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = {"region_cases.npz": 80, "region_cases_nonsquare.npz": 60}
CASES = [(file, case) for file, count in FILES.items() for case in range(count)]

Map = NDArray[np.float64]
SQUARE = Size(336, 336)


def search(
    attention: Map, image: Size, choice: RegionSettings, fit: Fit = "squash", seen: Size = SQUARE
) -> Region:
    """The region of a map that is relative attention already."""
    found = torch.from_numpy(attention)
    return find_region(found, torch.ones_like(found), image, choice, seen, fit)


@cache
def golden_file(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as file:
        return {name: file[name] for name in file}


@pytest.mark.parametrize("name", FILES)
def test_the_golden_files_are_whole(name: str) -> None:
    assert len(golden_file(name)["box"]) == FILES[name]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_golden_boxes_are_exact(name: str, case: int) -> None:
    golden = golden_file(name)
    width, height = (int(value) for value in golden["image_size"][case])
    region = search(
        golden[f"map_{case:03}"], Size(width, height), RegionSettings(int(golden["crop_size"][case]))
    )
    assert list(region.as_tuple()) == golden["box"][case].tolist()


def brute_force(attention: Map, width: int, height: int, crop_size: int) -> tuple[int, int, int, int]:
    """The published search, re-summing every window; for whole numbers, and where each window has a cell."""
    rows, columns = attention.shape
    cell = width / columns, height / rows
    found = []
    for ratio in (1, 1.2, 1.4, 1.6, 1.8, 2):
        nx, ny = min(int(crop_size * ratio / cell[0]), columns), min(int(crop_size * ratio / cell[1]), rows)
        if nx == columns and ny == rows:
            if ratio == 1:
                return 0, 0, width, height
            continue
        sums = {
            (x, y): Fraction(float(attention[y : y + ny, x : x + nx].sum()))
            for x in range(columns - nx + 1)
            for y in range(rows - ny + 1)
        }
        x, y = max(sums, key=lambda place: sums[place])  # the first on ties; x runs slowest
        around = [sums[p] for p in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)) if p in sums]
        found.append(((sums[x, y] - sum(around) / len(around)) / (nx * ny), crop_size * ratio, x, y, nx, ny))
    _, side, x, y, nx, ny = max(found, key=lambda window: window[0])
    half = side // 2
    box = []
    for place, cells, size, length in ((x, nx, cell[0], width), (y, ny, cell[1], height)):
        centre = int(place * size + size * cells / 2)
        centre = max(centre, half)
        centre = min(centre, length - half)
        box.append((int(max(0, centre - half)), int(min(length, centre + half))))
    return box[0][0], box[1][0], box[0][1], box[1][1]


# Whole numbers, so that float sums are exact and ties are real ties.
whole_maps = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9),
    elements=st.integers(0, 1000).map(float),
)


@settings(
    max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(whole_maps, st.integers(2, 1200), st.integers(2, 1200), st.integers(4, 400))
def test_equals_a_brute_force_search(
    any_mode: None, attention: Map, width: int, height: int, crop_size: int
) -> None:
    rows, columns = attention.shape
    if int(crop_size / (width / columns)) < 1 or int(crop_size / (height / rows)) < 1:
        crop_size = math.ceil(max(width / columns, height / rows)) + 1
    expected = brute_force(attention, width, height, crop_size)
    for mode in ("auto", "reference"):
        kernels.set_mode(mode)
        region = search(attention, Size(width, height), RegionSettings(crop_size))
        assert region.as_tuple() == expected, mode


every_map = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(allow_nan=False, allow_infinity=False, min_value=0),
)
sizes = st.builds(Size, st.integers(1, 30_000), st.integers(1, 30_000))


@settings(max_examples=examples(200), deadline=None)
@given(every_map, sizes, st.integers(1, 2000), st.integers(1, 4))
def test_every_map_and_size_has_a_region_inside_the_picture(
    attention: Map, image: Size, crop_size: int, min_cells: int
) -> None:
    choice = RegionSettings(crop_size, min_cells=min_cells)
    assert search(attention, image, choice).within(image)
    assert search(attention, image, choice, "pad").within(image)


@settings(max_examples=examples(100), deadline=None)
@given(whole_maps, sizes, st.integers(-900, 900))
def test_the_maps_scale_does_not_matter(attention: Map, image: Size, exponent: int) -> None:
    choice = RegionSettings(336)
    assert search(np.ldexp(attention, exponent), image, choice) == search(attention, image, choice)


@pytest.mark.parametrize("value", [0.0, 1 / 576, 0.1, 5e-324, 1e308, 1 / 3])
def test_a_constant_map_ties_exactly_and_the_first_window_wins(value: float) -> None:
    region = search(np.full((24, 24), value), Size(1200, 1000), RegionSettings(336))
    assert region == Region(0, 0, 336, 336)


def test_the_peak_is_inside() -> None:
    attention = np.ones((24, 24))
    attention[5, 17] = 50
    region = search(attention, Size(2400, 1200), RegionSettings(336))
    assert region.contains(17.5 * 100, 5.5 * 50)


def test_windows_are_at_least_one_cell_on_huge_originals() -> None:
    # One cell is 500 pixels: the published search divides by zero here.
    attention = np.ones((24, 24))
    attention[20, 3] = 9
    region = search(attention, Size(12_000, 12_000), RegionSettings(336))
    assert (region.width, region.height) == (500, 500)
    assert region == Region(1500, 10_000, 2000, 10_500)


def test_min_cells_grows_the_crop() -> None:
    attention = np.ones((12, 12))
    attention[4, 4] = 9
    region = search(attention, Size(2400, 1200), RegionSettings(100, ratios=(1,), min_cells=3))
    assert (region.width, region.height) == (600, 600)
    assert region.contains(4.5 * 200, 4.5 * 100)


def test_a_picture_smaller_than_the_crop_is_the_region() -> None:
    assert search(np.ones((4, 4)), Size(300, 200), RegionSettings(336)) == Region(0, 0, 300, 200)


def test_padding_is_taken_out_of_the_region() -> None:
    # 800 x 400 in a square of 800: the picture covers rows 2 to 5 of 8.
    attention = np.ones((8, 8))
    attention[4, 6] = 20
    region = search(attention, Size(800, 400), RegionSettings(100), "pad")
    assert region == Region(600, 200, 700, 300)


@pytest.mark.parametrize(
    ("row", "expected"), [(0, Region(600, 0, 700, 100)), (7, Region(600, 300, 700, 400))]
)
def test_a_region_in_the_padding_becomes_the_nearest_part_of_the_picture(row: int, expected: Region) -> None:
    attention = np.ones((8, 8))
    attention[row, 6] = 20
    assert search(attention, Size(800, 400), RegionSettings(100), "pad") == expected


def test_padded_and_squashed_agree_on_a_square() -> None:
    attention = np.random.default_rng(0).random((12, 12))
    image, choice = Size(900, 900), RegionSettings(144)
    assert search(attention, image, choice, "pad") == search(attention, image, choice)


@pytest.mark.parametrize(
    "attention",
    [
        np.zeros((0, 4)),
        np.zeros(4),
        np.full((2, 2), np.nan),
        np.array([[1.0, np.inf]]),
        np.array([[1.0, -1.0]]),
    ],
)
def test_what_is_no_map_is_refused(attention: Map) -> None:
    with pytest.raises(GeometryError):
        search(attention, Size(100, 100), RegionSettings(10))


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"\[2, 2\] and \[2, 3\]"):
        find_region(torch.ones(2, 2), torch.ones(2, 3), Size(100, 100), RegionSettings(10))


def test_where_the_question_looks_more_than_the_generic_one_is_the_region() -> None:
    question, generic = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    generic[1, 1] = question[1, 1] = 9  # both look there
    question[5, 6] = 4
    region = find_region(question, generic, Size(800, 800), RegionSettings(200))
    assert region.contains(650, 550)
    assert not region.contains(150, 150)


@pytest.mark.parametrize(
    "bad",
    [
        {"crop_size": 0},
        {"crop_size": 9, "min_cells": 0},
        {"crop_size": 9, "ratios": ()},
        {"crop_size": 9, "ratios": (2, 1)},
        {"crop_size": 9, "ratios": (0.5, 1)},
        {"crop_size": 9, "ratios": (1, math.inf)},
        {"crop_size": 9, "ratios": (1, math.nan)},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        RegionSettings(**bad)


attention_values = st.floats(0, allow_nan=False, allow_infinity=False)
pairs = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float64, shape, elements=attention_values),
        hnp.arrays(np.float64, shape, elements=attention_values),
    )
)


@given(pairs)
def test_relative_attention_is_finite_everywhere(maps: tuple[Map, Map]) -> None:
    question, generic = map(torch.from_numpy, maps)
    relative = relative_attention(question, generic)
    assert relative.shape == question.shape
    assert relative.isfinite().all()
    assert (relative >= 0).all()
    whole = find_region(question, generic, Size(1000, 700), RegionSettings(100))
    assert whole == search(relative.numpy(), Size(1000, 700), RegionSettings(100))


def test_relative_attention_is_the_plain_quotient_where_that_is_defined() -> None:
    question, generic = torch.rand(2, 5, 7, dtype=torch.float64) + 0.01
    assert torch.equal(relative_attention(question, generic), question / generic)


def test_zeros_in_the_generic_map_count_as_its_smallest_value() -> None:
    question, generic = torch.tensor([[2.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, 0.5]])
    assert relative_attention(question, generic).tolist() == [[4.0, 0.0, 6.0]]
    assert relative_attention(question, torch.zeros(1, 3)).tolist() == question.tolist()


def test_float32_maps_are_divided_in_float64() -> None:
    question, generic = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    assert float(relative_attention(question, generic)) == 1 / 3


BOX = RegionSettings(crop_size=10, rule="box")


def box_of(cells: dict[tuple[int, int], float], image: Size, settings: RegionSettings = BOX) -> Region:
    """Of a map of 10 x 10 cells, 0 but for some (row, column)."""
    grid = torch.zeros(10, 10, dtype=torch.float64)
    for place, value in cells.items():
        grid[place] = value
    return find_region(grid, torch.ones_like(grid), image, settings)


def test_a_box_is_around_the_smoothed_cells() -> None:
    # Smoothed by [1, 2, 1] / 4 both ways, one cell becomes 4, 2 beside it and 1 at its corners: 0.25 of 4.
    assert box_of({(4, 6): 3.0}, Size(1000, 500)) == Region(500, 150, 800, 300)
    above = RegionSettings(10, rule="box", share=0.3)  # without the corners the box is the same
    assert box_of({(4, 6): 3.0}, Size(1000, 500), above) == Region(500, 150, 800, 300)
    alone = RegionSettings(10, rule="box", share=0.6)
    assert box_of({(4, 6): 3.0}, Size(1000, 500), alone) == Region(600, 200, 700, 250)


def test_a_box_is_no_square_and_leaves_out_what_is_weak() -> None:
    line = {(4, column): 1.0 for column in range(2, 8)}
    assert box_of({**line, (9, 0): 0.1}, Size(1000, 1000)) == Region(100, 300, 900, 600)


def test_at_the_edges_the_kernel_is_what_of_it_is_inside() -> None:
    # In the corner (4 of 9 weights are inside) one cell becomes 4/9, beside it 2/12, and diagonally 1/16.
    assert box_of({(0, 0): 1.0}, Size(1000, 1000)) == Region(0, 0, 200, 200)


@pytest.mark.parametrize(("crop", "cells"), [(600, 1), (10, 6)])
def test_a_box_has_a_smallest_size_and_stays_inside(crop: int, cells: int) -> None:
    settings = RegionSettings(crop, min_cells=cells, rule="box")
    assert box_of({(4, 9): 1.0}, Size(1000, 1000), settings) == Region(400, 150, 1000, 750)
    assert box_of({(4, 9): 1.0}, Size(300, 1000), RegionSettings(600, rule="box")).width == 300


def test_an_even_or_empty_map_is_the_whole_picture() -> None:
    for value in (0.0, 0.25, 1e300):
        grid = torch.full((5, 7), value, dtype=torch.float64)
        assert find_region(grid, torch.ones_like(grid), Size(640, 480), BOX) == Region(0, 0, 640, 480)


def test_a_box_in_padding_is_clipped_to_the_picture() -> None:
    grid = torch.zeros(10, 10, dtype=torch.float64)
    grid[3:7, 4] = 1.0
    found = find_region(grid, torch.ones_like(grid), Size(1000, 400), BOX, Size(50, 50), "pad")
    assert found == Region(300, 0, 600, 400)


def test_a_box_of_what_is_no_map_is_refused() -> None:
    for bad in (math.nan, math.inf, -1.0):
        with pytest.raises(GeometryError, match="finite and not negative"):
            box_of({(1, 1): bad}, Size(100, 100))


def test_sinks_are_left_out_unless_they_are_all() -> None:
    attention, sinks = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.1, 0.2, 0.05]])
    assert without_sinks(attention, sinks, 0.1).tolist() == [[0.0, 0.0, 3.0]]
    assert without_sinks(attention, sinks, 0.05).tolist() == [[1.0, 2.0, 3.0]]
    assert without_sinks(attention, sinks, 1.0).tolist() == [[1.0, 2.0, 3.0]]
