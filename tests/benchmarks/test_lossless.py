"""Crops on a JPEG's own grid: which region is cut, that the pixels are the camera's, what is told of both."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.edge import lossless
from secondlook.benchmarks.edge.measure import draw
from secondlook.benchmarks.options import LosslessRun
from secondlook.edge import Region, Size, decode_jpeg

SIDE = 168


@given(
    st.integers(SIDE, 4000),
    st.integers(SIDE, 4000),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_region_begins_on_the_grid_inside(width: int, height: int, at: tuple[float, float]) -> None:
    x, y = at[0] * width, at[1] * height
    region = lossless.on_grid((x - 10, y - 5, x + 10, y + 5), Size(width, height), SIDE)
    assert region.within(Size(width, height))
    assert region.size == Size(SIDE, SIDE)
    assert region.left % lossless.GRID == region.top % lossless.GRID == 0


def turbojpeg() -> Any:
    try:
        return lossless.need_turbojpeg().TurboJPEG()
    except MeasurementError as error:
        pytest.skip(str(error))


def test_a_lossless_crop_has_the_cameras_own_pixels() -> None:
    library = turbojpeg()
    jpeg = lossless.camera_jpeg(draw(Size(640, 480), np.random.default_rng(1)), 75)
    region = Region(160, 96, 160 + SIDE, 96 + SIDE)
    whole, cut = (np.asarray(decode_jpeg(each)) for each in (jpeg, lossless.lossless(library, jpeg, region)))
    inner = slice(2, -2)  # at its edges chroma is interpolated without its neighbours
    expected = whole[region.top : region.bottom, region.left : region.right]
    assert (cut[inner, inner] == expected[inner, inner]).all()


def test_both_ways_are_told() -> None:
    turbojpeg()
    report = lossless.bench_lossless(LosslessRun(count=2))
    assert report["due"] <= report["looked_twice"] <= report["count"] == 2
    assert [row["quality"] for row in report["rows"]] == list(lossless.QUALITIES)
    sizes = [row["lossless"]["sent_bytes"] for row in report["rows"]]
    assert sizes == sorted(sizes)
    assert all(row[way]["cpu_ms"] > 0 for row in report["rows"] for way in lossless.WAYS)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "turbojpeg", None)
    with pytest.raises(MeasurementError, match=r"pip install 'PyTurboJPEG<2'.*libturbojpeg0"):
        lossless.need_turbojpeg()
