"""Observers of looks: what one of them does is nobody else's business."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from engine.fake_engine import FakeEngine
from engine.serving_harness import SECONDS, first_look, second_look, serving, session
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.observing import Observation


class Broken:
    def fail(self, *_: Any) -> None:
        raise RuntimeError("no more room on the disk")

    began = ended = failed = fail


class Counting:
    def __init__(self) -> None:
        self.told: list[str] = []

    def began(self, _: Observation) -> None:
        self.told.append("began")

    def ended(self, *_: Any) -> None:
        self.told.append("ended")

    def failed(self, *_: Any) -> None:
        self.told.append("failed")


def test_one_that_fails_stops_neither_answers_nor_others_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counting = Counting()

    async def scenario() -> None:
        app = create_app(FakeEngine())
        for observer in (Broken(), counting):
            app.state.service.observe(observer)
        async with serving(app) as client:
            await asked(client)

    async def asked(client: httpx.AsyncClient) -> None:
        assert (await first_look(client, "sure")).json()["status"] == "final"
        assert (await second_look(client, await session(client))).json()["decision"] == "took_second"
        assert (await first_look(client, "broken")).status_code == 500

    asyncio.run(asyncio.wait_for(scenario(), SECONDS))
    assert counting.told == ["began", "ended"] * 3 + ["began", "failed"]
    told = [record for record in caplog.records if "Broken fails on looks" in record.message]
    assert len(told) == 1
    assert told[0].exc_info is not None
    assert "Task exception" not in caplog.text
