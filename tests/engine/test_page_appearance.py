"""How the page looks on a phone and a desk, in light and dark, and to those without sight or a mouse."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from playwright.sync_api import Browser, Page

from engine.browsing import DESKTOP, PHONE, PICTURE, answered, ask, browsing, choose, luminance

pytestmark = pytest.mark.needs_chromium

WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLOURS = """() => [...document.querySelectorAll("body *")].filter((one) => {
    const texts = [...one.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    return texts.length && one.checkVisibility();
}).map((one) => {
    let behind = one;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    return [one.outerHTML, getComputedStyle(one).color, getComputedStyle(behind).backgroundColor];
})"""


@pytest.mark.parametrize("viewport", [{"width": 320, "height": 600}, PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(
    browser: Browser, fake_url: str, viewport: dict[str, int], scheme: str
) -> None:
    def check(page: Page) -> None:
        assert page.evaluate(WIDER) == 0
        for what, ink, paper in page.evaluate(COLOURS):
            dark, light = sorted((luminance(ink), luminance(paper)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, what

    with browsing(browser, fake_url, viewport=viewport, color_scheme=scheme) as page:
        paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (luminance(paper) > 0.5) is (scheme == "light")
        check(page)
        choose(page, PICTURE, f"{'long' * 40}.jpg")
        ask(page, "anything " + "andsoonandon" * 20)
        answered(page)
        page.get_by_text("Settings").click()
        check(page)


def test_the_page_can_be_used_with_a_keyboard(browser: Browser, fake_url: str) -> None:
    with browsing(browser, fake_url) as page:
        order = []
        for _ in range(6):
            page.keyboard.press("Tab")
            order.append(page.evaluate("() => document.activeElement.id || document.activeElement.tagName"))
        assert order == ["file", "camera", "mapped", "question", "ask", "SUMMARY"]
        choose(page, PICTURE)
        page.locator("#question").focus()
        page.keyboard.type("sure")
        page.keyboard.press("Enter")
        assert answered(page) == "first to sure"


def test_every_control_and_picture_has_a_name(browser: Browser, fake_url: str) -> None:
    with browsing(browser, fake_url) as page:
        choose(page, PICTURE)
        ask(page, "anything")
        answered(page)
        page.get_by_text("Settings").click()
        told = page.locator("body").aria_snapshot()
        for line in told.splitlines():
            if found := re.match(r"\s*- (button|textbox|combobox|checkbox|img|meter|link)\b(.*)", line):
                assert '"' in found[2], line
        headings = [int(level) for level in re.findall(r"heading .*\[level=(\d)\]", told)]
        assert headings[0] == 1
        assert all(below <= above + 1 for above, below in pairwise(headings))
