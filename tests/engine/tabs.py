"""Real browsers among many clients: the server's page in tabs of a headless Chromium, used as people do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import BrowserContext, Page, async_playwright

from engine.mixed_clients import Asked, Told
from engine.serving_harness import SECONDS
from secondlook.benchmarks.browser import chromium_path

__all__ = ["Tab", "tabs"]


class Tab:
    """The server's page, which stays open from one question to the next, as people leave it.

    To open it costs a browser several times what a question does. One whose question is not waited for is
    closed amid it.
    """

    def __init__(self, url: str, context: BrowserContext) -> None:
        self._url = url
        self._context = context
        self._page: Page | None = None

    async def browser(self, asked: Asked) -> Told:
        """A question, at the page's own settings but for the second look's."""
        try:
            if self._page is None:
                self._page = await self._context.new_page()
                await self._page.goto(self._url)
                await self._page.locator("details summary").click()
            return await _ask(self._page, asked)
        except asyncio.CancelledError:
            page, self._page = self._page, None
            if page is not None:
                await page.close()
            raise


async def _ask(page: Page, asked: Asked) -> Told:
    await page.get_by_label("Choose picture").set_input_files(
        {"name": "street.jpg", "mimeType": "image/jpeg", "buffer": asked.jpeg}
    )
    await page.get_by_label("Question", exact=True).fill(asked.question)
    await page.get_by_label("Look a second time").select_option(asked.options.second_look)
    await page.get_by_role("button", name="Ask").click()
    await page.locator("#decision:not(:empty)").wait_for()  # the one before is hidden with its answer
    assert not await page.get_by_role("alert").is_visible()
    return Told(await page.locator("#text").inner_text(), await page.locator("#second").is_visible())


@asynccontextmanager
async def tabs(url: str, number: int) -> AsyncIterator[list[Tab]]:
    """So many, of a Chromium that is gone afterwards."""
    async with async_playwright() as playwright:
        # As in `headless`: containers are the sandbox.
        chromium = await playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        try:
            contexts = [await chromium.new_context() for _ in range(number)]
            for context in contexts:
                context.set_default_timeout(1000 * SECONDS)
            yield [Tab(url, context) for context in contexts]
        finally:
            await chromium.close()
