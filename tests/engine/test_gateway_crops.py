"""Crops on a camera's grid: what is asked for, and what is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.snapshot_camera import snapshot_camera
from edge.support import gradient
from secondlook.edge.errors import GeometryError, PictureTooLargeError, SourceError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import PictureLimits
from secondlook.edge.snapshots import HttpCamera
from secondlook.engine.gateway.crops import GRID, on_grid, parsed_crop, stored_size, written_crop


@st.composite
def cases(draw: st.DrawFn) -> tuple[Region, Size]:
    width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return Region(left, top, right, bottom), Size(width, height)


@given(cases())
def test_a_region_is_widened_to_the_grid_and_no_further(case: tuple[Region, Size]) -> None:
    region, size = case
    wide = on_grid(region, size)
    assert wide.left % GRID == wide.top % GRID == 0
    assert wide.right % GRID == 0 or wide.right == size.width
    assert wide.bottom % GRID == 0 or wide.bottom == size.height
    assert 0 <= region.left - wide.left < GRID
    assert 0 <= region.top - wide.top < GRID
    assert 0 <= wide.right - region.right < GRID
    assert 0 <= wide.bottom - region.bottom < GRID
    assert wide.within(size)
    # A camera that cuts only the corner outwards shows just that.
    assert parsed_crop(written_crop(wide), size) == wide


@given(cases())
def test_a_crop_that_is_asked_for_begins_on_the_grid(case: tuple[Region, Size]) -> None:
    region, size = case
    shown = parsed_crop(written_crop(region), size)
    assert (shown.right, shown.bottom) == (region.right, region.bottom)
    assert (shown.left, shown.top) == (region.left - region.left % GRID, region.top - region.top % GRID)


def test_the_example_of_the_cameras_own_documentation() -> None:
    shown = parsed_crop("100x100x1280x720", Size(3840, 2160))
    assert written_crop(shown) == "96x96x1284x724"


@pytest.mark.parametrize(
    "text", ["", "1x2x3x4x5", "0x0x0x1", "0x0x101x1", "100x0x1x1", "\u0660x0x1x1", "0x0x1x1\n"]
)
def test_what_is_no_crop_of_the_picture_is_refused(text: str) -> None:
    with pytest.raises(GeometryError, match="must look like XxYxWxH"):
        parsed_crop(text, Size(100, 100))


def test_a_cameras_size_is_read_from_its_pictures_head() -> None:
    with snapshot_camera(lambda number: gradient(161, 120)) as camera:
        asked = HttpCamera(f"http://{camera.address}")
        assert stored_size(asked, PictureLimits()) == Size(161, 120)
        with pytest.raises(PictureTooLargeError):
            stored_size(asked, PictureLimits(max_pixels=100))
        camera.faults = ["is no JPEG"]
        with pytest.raises(SourceError, match="does not say how large its picture is"):
            stored_size(asked, PictureLimits())
        camera.content_type = "text/html"
        with pytest.raises(SourceError, match="answered with no picture, but text/html"):
            stored_size(asked, PictureLimits())
