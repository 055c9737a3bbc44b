"""A browser, and a server on an engine without a model, for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from engine.fake_engine import FakeEngine
from engine.serving_harness import listening
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from engine.browsing import SWITCHES
    from secondlook.benchmarks.browser import headless

    with headless(*SWITCHES) as opened:
        yield opened


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def fake_url(fake: FakeEngine) -> Iterator[str]:
    with listening(create_app(fake, ServerSettings(queue_size=1))) as address:
        yield address
