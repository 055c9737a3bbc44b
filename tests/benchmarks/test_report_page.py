"""A report's page in headless Chromium: a quiet console, everything drawn, readable everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.logs import header, random_records, write_run
from engine.browsing import luminance
from secondlook.benchmarks.analysis.runs import read_family
from secondlook.benchmarks.browser import headless
from secondlook.benchmarks.report.content import describe, write_document
from secondlook.benchmarks.run_log import Record

pytestmark = pytest.mark.needs_chromium

WIDTHS = (360, 1280)
ColorScheme = Literal["light", "dark"]
SCHEMES: tuple[ColorScheme, ...] = ("light", "dark")

DRAWN = """() =>
    [...document.querySelectorAll("svg")].map(one => {
        const box = one.getBoundingClientRect();
        const count = name => one.querySelectorAll(name).length;
        return [box.width, box.height, count("text"), count("path")];
    })"""
INKS = """() => {
    const of = one => getComputedStyle(one);
    return [of(document.body).color, of(document.body).backgroundColor,
            ...[...document.querySelectorAll("svg text")].map(one => of(one).fill)];
}"""
FETCHED = """() =>
    performance.getEntriesByType("resource").map(one => one.name).filter(one => !one.startsWith("data:"))"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    logs = [
        write_run(folder / f"{quality}.jsonl", records(quality), header(quality=quality))
        for quality in (90, 95)
    ]
    return write_document(describe(read_family(logs), resamples=50), folder / "out")


def records(quality: int) -> list[Record]:
    return [replace(record, relevance=None) for record in random_records(20, seed=quality, quality=quality)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless() as opened:
        yield opened


@contextmanager
def shown(browser: Browser, file: Path, width: int, scheme: ColorScheme) -> Iterator[Page]:
    """A file in a tab of its own, whose console stays quiet."""
    said = list[str]()
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as tab:
        page = tab.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(file.resolve().as_uri())
        yield page
    assert said == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_whole_quiet_and_readable(
    document: Path, browser: Browser, width: int, scheme: ColorScheme
) -> None:
    with shown(browser, document, width, scheme) as page:
        assert page.evaluate(FETCHED) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        plots = page.evaluate(DRAWN)
        assert len(plots) == 11
        for across, down, texts, paths in plots:
            assert 300 <= across <= min(width, 520)
            assert down > 100
            assert texts > 5
            assert paths > 5
        ink, paper, *labels = page.evaluate(INKS)
    assert (luminance(paper) > 0.5) is (scheme == "light")
    for colour in {ink, *labels}:
        light, dark = sorted([luminance(colour), luminance(paper)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 7


def test_the_plots_alone_follow_the_scheme(document: Path, browser: Browser) -> None:
    inks = []
    for scheme in SCHEMES:
        with shown(browser, document.parent / "plots" / "computation.svg", 800, scheme) as page:
            inks.append(page.evaluate("getComputedStyle(document.querySelector('text')).fill"))
    assert luminance(inks[0]) < 0.1 < 0.5 < luminance(inks[1])
