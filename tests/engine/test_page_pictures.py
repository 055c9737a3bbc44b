"""What the page's modules compute: sizes as Python's for every view, and pixels as Pillow resamples them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.browsing import encoded, quarters
from properties import examples
from secondlook.benchmarks.browser import PageEdge, headless
from secondlook.edge.errors import GeometryError
from secondlook.edge.formats import TRANSPOSITIONS
from secondlook.edge.geometry import Region, Size, place, sent_size, target
from secondlook.edge.imaging import GLOBAL_JPEG, LOCAL_JPEG, decode_jpeg, open_picture
from secondlook.edge.wire import Budget, Filter, Fixed, Tiles, View

pytestmark = pytest.mark.needs_chromium

SIZES = """async (cases) => {
    const { TooSlender, place, sentSize, target } = await import("/page/view.js");
    return cases.map(([view, original]) => {
        try {
            const into = target(view, original);
            return [into, place(original, into, view.fit), sentSize(view, original)];
        } catch (error) {
            if (!(error instanceof TooSlender)) throw error;
            return null;
        }
    });
}"""

RESAMPLE = """async ([box, size, filter]) => {
    const { resized } = await import("/page/resample.js");
    return Array.from(resized(self.picture.bitmap, box, size, filter).data);
}"""

FILTERS: dict[Filter, Image.Resampling] = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

cells = st.integers(1, 64)


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    multiple = draw(cells)
    least = draw(st.integers(1, 4_000_000))
    most = draw(st.integers(max(least, multiple**2), 16_000_000))
    return Budget(multiple=multiple, least_pixels=least, most_pixels=most)


tiles = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=12)
rules = st.one_of(
    st.builds(Fixed, width=st.integers(1, 3000), height=st.integers(1, 3000)),
    budgets(),
    st.builds(Tiles, sheets=tiles.map(tuple)),
    st.just(Budget(multiple=28, least_pixels=56 * 56, most_pixels=28 * 28 * 1280)),
)
views = st.builds(View, size=rules, fit=st.sampled_from(["squash", "pad"]))
lengths = st.integers(1, 20_000)
# Multiples and halves of them are where roundings part.
near = st.builds(
    lambda cell, times, half: max(1, cell * times + half * cell // 2), cells, cells, st.integers(0, 1)
)
sizes = st.builds(Size, st.one_of(lengths, near), st.one_of(lengths, near))


@pytest.fixture(scope="module")
def edge() -> Iterator[PageEdge]:
    with headless() as browser:
        yield PageEdge(browser.new_page())


def by_python(view: View, original: Size) -> list[dict[str, int]] | None:
    try:
        into = target(view, original)
    except GeometryError:
        return None
    placed = place(original, into, view.fit)
    sent = sent_size(view, original)
    sides = [{"width": size.width, "height": size.height} for size in (into, sent)]
    return [sides[0], placed._asdict(), sides[1]]


@settings(max_examples=examples(100), deadline=None)
@given(cases=st.lists(st.tuples(views, sizes), min_size=40, max_size=80))
def test_sizes_are_those_of_python(edge: PageEdge, cases: list[tuple[View, Size]]) -> None:
    told = [[view.model_dump(), {"width": size.width, "height": size.height}] for view, size in cases]
    assert edge.page.evaluate(SIZES, told) == [by_python(*case) for case in cases]


def by_pillow(image: Image.Image, size: tuple[int, int], kind: Filter) -> Image.Image:
    """As `resize` with a reducing gap of 3, rows first; Pillow 13 takes columns first for some sizes."""
    factors = [int(length / wanted / 3) or 1 for length, wanted in zip(image.size, size, strict=True)]
    across, down = (length / factor for length, factor in zip(image.size, factors, strict=True))
    reduced = image.reduce((factors[0], factors[1]))
    rows = reduced.resize((size[0], reduced.height), FILTERS[kind], box=(0, 0, across, reduced.height))
    return rows.resize(size, FILTERS[kind], box=(0, 0, size[0], down))


def in_browser(edge: PageEdge, box: Region, size: tuple[int, int], kind: Filter) -> Any:
    left, top, _, _ = box.as_tuple()
    told = {"left": left, "top": top, "width": box.width, "height": box.height}
    pixels = edge.page.evaluate(RESAMPLE, [told, {"width": size[0], "height": size[1]}, kind])
    return np.reshape(pixels, (size[1], size[0], 4))


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_pixels_are_those_of_pillow(edge: PageEdge, data: st.DataObject) -> None:
    """Bit for bit, also where the picture is read in several strips and blocks at its edges are not whole."""
    width, height = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 700))
    size = data.draw(st.integers(1, min(width, 120))), data.draw(st.integers(1, min(height, 120)))
    kind = data.draw(st.sampled_from(list(FILTERS)))
    noise = np.random.default_rng(data.draw(st.integers(0, 1000))).integers(
        0, 256, (height, width, 3), np.uint8
    )
    image = Image.fromarray(noise)
    edge.open(encoded(image, "PNG"))
    found = in_browser(edge, Region(0, 0, width, height), size, kind)
    assert (found[..., :3] == np.asarray(by_pillow(image, size, kind))).all()
    assert (found[..., 3] == 255).all()


def test_a_region_is_cut_before_it_is_resampled(edge: PageEdge) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (600, 500, 3), np.uint8))
    edge.open(encoded(image, "PNG"))
    box = Region(37, 101, 437, 590)
    found = in_browser(edge, box, (50, 61), "lanczos")[..., :3]
    assert (found == np.asarray(by_pillow(image.crop(box.as_tuple()), (50, 61), "lanczos"))).all()


def test_what_is_transparent_lies_over_white(edge: PageEdge) -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((250, 0, 0, 255), (0, 0, 20, 40))
    edge.open(encoded(image, "PNG"))
    found = in_browser(edge, Region(0, 0, 40, 40), (40, 40), "lanczos")
    assert found[0, 0].tolist() == [250, 0, 0, 255]
    assert found[0, 39].tolist() == [255, 255, 255, 255]


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_as_the_edge_turns_them(edge: PageEdge, turn: int) -> None:
    upright = quarters(600, 400)
    undone = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright if turn == 1 else upright.transpose(undone.get(turn, TRANSPOSITIONS.get(turn)))
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(stored, quality=95, exif=exif)
    ours, theirs = open_picture(data), edge.open(data)
    assert theirs.size == ours.size == Size(600, 400)
    view = View(size=Fixed(width=168, height=168))
    region = Region(250, 150, 450, 390)
    for made, other in (
        (ours.global_image(view), theirs.global_image(view, GLOBAL_JPEG)),
        (ours.local_image(region, view), theirs.local_image(region, view, LOCAL_JPEG)),
    ):
        assert made.size == other.size
        one, two = (np.asarray(decode_jpeg(each.jpeg), np.float64) for each in (made, other))
        assert np.abs(one - two).mean() < 3


def test_a_jpeg_of_the_page_is_one_that_the_edge_could_have_made(edge: PageEdge) -> None:
    """Its tables are those of the edge's quality; its chroma is halved both ways, as browsers have it."""
    image = quarters(300, 200)
    made = edge.open(encoded(image, "PNG")).global_image(View(size=Fixed(width=64, height=64)), GLOBAL_JPEG)
    ours = open_picture(image).global_image(View(size=Fixed(width=64, height=64)))
    one, two = (Image.open(io.BytesIO(each.jpeg)) for each in (made, ours))
    assert one.size == two.size == (64, 64)
    assert one.quantization == two.quantization  # type: ignore[attr-defined]  # of JPEG pictures
