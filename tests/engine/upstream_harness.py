"""What the tests of upstreams share: a server of ours before a scripted one, and a picture to ask about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from engine.scripted_upstream import (
    SECONDS,
    Upstream,
    running,
)
from engine.serving_harness import listening
from secondlook.edge import AnswerOptions, ClientSettings, EdgeClient
from secondlook.engine.method.budget import BudgetedThreshold
from secondlook.engine.serve.app import create_loading_app
from secondlook.engine.upstream.engine import UpstreamEngine
from secondlook.engine.upstream.settings import UpstreamSettings

KEY = "sk-secret-of-the-test"
QUESTION = "What number is on the red sign?"
ONCE = ClientSettings(wait_budget=0, retries=0)


def picture(width: int = 1600, height: int = 1200) -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def settings(url: str, **fields: Any) -> UpstreamSettings:
    client = {"retries": 2, "wait_budget": 5.0, "first_wait": 0.01, "api_key": KEY, "timeout": SECONDS}
    client |= fields.pop("client", {})
    return UpstreamSettings(url, client=ClientSettings(**client), **fields)


@contextmanager
def serving(upstream: Upstream, budget: BudgetedThreshold | None = None, **fields: Any) -> Iterator[str]:
    """A server of ours on the upstream, and its address."""
    with running(upstream) as behind:
        app = create_loading_app(lambda: UpstreamEngine(settings(behind, **fields), budget=budget))
        with listening(app) as address:
            app.state.service.loaded.result(SECONDS)
            upstream.asked.clear()
            upstream.headers.clear()
            while upstream.begun.acquire(blocking=False):
                pass
            yield address


@contextmanager
def serving_gated(upstream: Upstream) -> Iterator[str]:
    """As `serving`, but the gate is open while the upstream is tried."""
    upstream.gate.set()
    with serving(upstream) as address:
        upstream.gate.clear()
        yield address


def asked_once(address: str, **options: Any) -> Any:
    with EdgeClient(address, settings=ONCE) as edge:
        return edge.ask(picture(640, 480), QUESTION, AnswerOptions(**options))
