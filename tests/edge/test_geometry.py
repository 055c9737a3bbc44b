from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from secondlook.edge import GeometryError, Rectangle, Region, Size, place
from secondlook.edge.geometry import inside, most_pixels, moved, sent_size, sheet, target
from secondlook.edge.wire import Budget, Fixed, Tiles, View

lengths = st.integers(1, 20_000)
sizes = st.builds(Size, lengths, lengths)
small = st.integers(1, 1024)
targets = st.builds(Size, small, small)
modes = st.sampled_from(["squash", "pad"])


@given(sizes, targets)
def test_pad_centres_the_picture_and_keeps_its_aspect(size: Size, fitted: Size) -> None:
    left, top, width, height = place(size, fitted, "pad")
    assert width == fitted.width or height == fitted.height
    assert min(width, height) >= 1
    assert 0 <= fitted.width - width - 2 * left <= 1
    assert 0 <= fitted.height - height - 2 * top <= 1
    scale = min(Fraction(fitted.width, size.width), Fraction(fitted.height, size.height))
    for length, got in ((size.width, width), (size.height, height)):
        assert got == 1 or abs(got - length * scale) <= Fraction(1, 2)


@given(sizes, targets, modes)
def test_what_is_sent_is_neither_enlarged_nor_padded(size: Size, fitted: Size, fit: Any) -> None:
    view = View(size=Fixed(width=fitted.width, height=fitted.height), fit=fit)
    sent, placed = sent_size(view, size), place(size, fitted, fit)
    assert target(view, size) == fitted
    assert (sent.width, sent.height) == (min(placed.width, size.width), min(placed.height, size.height))


@given(sizes, st.sampled_from([14, 28, 32]), st.integers(1, 1280), st.integers(1, 1280))
def test_a_budget_gives_the_size_of_the_published_processor(
    size: Size, multiple: int, some: int, others: int
) -> None:
    least, most = (cells * multiple**2 for cells in sorted((some, others)))
    view = View(size=Budget(multiple=multiple, least_pixels=least, most_pixels=most))
    try:
        height, width = smart_resize(size.height, size.width, multiple, least, most)
    except ValueError:
        with pytest.raises(GeometryError, match=f"{size} pixels is too slender"):
            target(view, size)
    else:
        assert target(view, size) == Size(width, height)


PUBLISHED_SHEETS = ((672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336))


@given(sizes, st.lists(st.sampled_from(PUBLISHED_SHEETS), min_size=1) | st.just(list(PUBLISHED_SHEETS)))
def test_tiles_are_those_of_the_published_processor(size: Size, sheets: list[tuple[int, int]]) -> None:
    rule, shape = Tiles(sheets=tuple(sheets)), (size.height, size.width)
    height, width = select_best_resolution(shape, [(height, width) for width, height in sheets])
    assert sheet(rule, size) == Size(width, height)
    image = np.broadcast_to(np.uint8(0), (3, *shape))
    height, width = get_patch_output_size(image, (height, width), ChannelDimension.FIRST)
    assert target(View(size=rule), size) == Size(width, height)
    assert width * height <= most_pixels(View(size=rule))


@st.composite
def slender(draw: st.DrawFn) -> Size:
    """Any size that has one under a budget; many at the edge of that."""
    short = draw(st.integers(1, 60) | st.integers(1, 3000))
    long = draw(st.integers(short, 200 * short) | st.just(200 * short))
    return Size(*draw(st.permutations([short, long])))


@given(slender(), st.sampled_from([2, 14, 28]), st.integers(1, 4_000), st.integers(1, 1_000_000))
def test_no_target_has_more_pixels_than_the_most(size: Size, multiple: int, least: int, more: int) -> None:
    most = max(least, multiple**2) + more
    view = View(size=Budget(multiple=multiple, least_pixels=least, most_pixels=most))
    assert target(view, size).pixels <= most_pixels(view)


def test_the_most_is_the_budget_where_that_is_not_small() -> None:
    budget = Budget(multiple=28, least_pixels=4 * 28**2, most_pixels=256 * 28**2)
    assert most_pixels(View(size=budget)) == 256 * 28**2
    small = Budget(multiple=8, least_pixels=6 * 64, most_pixels=24 * 64)
    assert most_pixels(View(size=small)) == target(View(size=small), Size(10, 2000)).pixels == 69 * 64
    assert most_pixels(View(size=Fixed(width=30, height=20))) == 600


def test_a_budget_that_no_picture_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="100 to 783 pixels holds no picture"):
        Budget(multiple=28, least_pixels=100, most_pixels=783)


WINDOWS = st.builds(
    lambda left, top, wide, high: Rectangle(left, top, left + wide, top + high),
    *[st.floats(-100, 100)] * 2,
    *[st.floats(1, 100)] * 2,
)


def test_a_place_moves_against_the_camera_and_grows_as_it_comes_closer() -> None:
    size, before, place = Size(400, 300), Rectangle(0, 0, 40, 30), Rectangle(100, 50, 200, 150)
    assert moved(place, before, Rectangle(5, 2, 45, 32), size) == (50, 30, 150, 130)
    assert moved(place, before, Rectangle(10, 5, 30, 20), size) == (0, 0, 200, 200)
    assert moved(place, before, Rectangle(1000, 0, 1040, 30), size) == (-9900, 50, -9800, 150)


@given(WINDOWS, WINDOWS, WINDOWS, st.integers(1, 4000), st.integers(1, 4000))
def test_a_place_that_is_moved_back_is_where_it_was(
    place: Rectangle, before: Rectangle, after: Rectangle, width: int, height: int
) -> None:
    size = Size(width, height)
    back = moved(moved(place, before, after, size), after, before, size)
    assert back == pytest.approx(place, rel=1e-6, abs=1e-3)


@given(WINDOWS, st.integers(1, 200), st.integers(1, 200))
def test_what_is_put_inside_a_picture_is_inside_and_no_larger(
    place: Rectangle, width: int, height: int
) -> None:
    size = Size(width, height)
    region = inside(place, size)
    x, y = (place.left + place.right) / 2, (place.top + place.bottom) / 2
    assert (region is None) == (not (0 <= x < width and 0 <= y < height))
    if region is not None:
        assert region.within(size)
        assert region.width == max(1, min(round(place.right - place.left), width))
        assert region.height == max(1, min(round(place.bottom - place.top), height))


def test_what_is_inside_stays_where_it_is() -> None:
    assert inside(Rectangle(10, 20, 40, 60), Size(40, 60)) == Region(10, 20, 40, 60)
    assert inside(Rectangle(-10, 20, 20, 70), Size(40, 60)) == Region(0, 10, 30, 60)


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
