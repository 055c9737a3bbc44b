"""A report's page in headless Chromium: a quiet console, everything drawn, readable everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.browser import MISSING, Browser, browser
from benchmarks.logs import header, random_records, write_run
from secondlook.benchmarks.analysis.runs import read_family
from secondlook.benchmarks.report.content import describe, write_document
from secondlook.benchmarks.run_log import Record

pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")

WIDTHS = (360, 1280)
SCHEMES = ("light", "dark")

DRAWN = """
return [...document.querySelectorAll("svg")].map(one => {
    const box = one.getBoundingClientRect();
    return [box.width, box.height, one.querySelectorAll("text").length, one.querySelectorAll("path").length];
});
"""
INKS = """
const of = one => getComputedStyle(one);
return [of(document.body).color, of(document.body).backgroundColor,
        ...[...document.querySelectorAll("svg text")].map(one => of(one).fill)];
"""
FETCHED = """
return performance.getEntriesByType("resource").map(one => one.name).filter(one => !one.startsWith("data:"));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    logs = [
        write_run(folder / f"{quality}.jsonl", records(quality), header(quality=quality))
        for quality in (90, 95)
    ]
    return write_document(describe(read_family(logs), resamples=50), folder / "out")


def records(quality: int) -> list[Record]:
    return [replace(record, relevance=None) for record in random_records(20, seed=quality, quality=quality)]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as session:
        yield session


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_whole_quiet_and_readable(page: Path, chromium: Browser, width: int, scheme: str) -> None:
    chromium.open(page, width, scheme)
    assert chromium.logged() == []
    assert chromium.run(FETCHED) == []
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    plots = chromium.run(DRAWN)
    assert len(plots) == 11
    for across, down, texts, paths in plots:
        assert 300 <= across <= min(width, 520)
        assert down > 100
        assert texts > 5
        assert paths > 5
    ink, paper, *labels = chromium.run(INKS)
    assert (luminance(paper) > 0.5) is (scheme == "light")
    for colour in {ink, *labels}:
        light, dark = sorted([luminance(colour), luminance(paper)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 7


def test_the_plots_alone_follow_the_scheme(page: Path, chromium: Browser) -> None:
    inks = []
    for scheme in SCHEMES:
        chromium.open(page.parent / "plots" / "computation.svg", 800, scheme)
        assert chromium.logged() == []
        inks.append(chromium.run("return getComputedStyle(document.querySelector('text')).fill"))
    assert luminance(inks[0]) < 0.1 < 0.5 < luminance(inks[1])
