"""A site's cloud: what is taken of its answers, whatever it says, and what it is shown."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import math
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engine.fake_engine import REGION, SIDE, FakeEngine, jpeg
from engine.serving_harness import listening
from engine.streaming import ScriptedCloud, run, until
from secondlook.edge.answer import EdgeAnswer, StageSeconds
from secondlook.edge.client import AsyncEdgeClient
from secondlook.edge.errors import SettingsError, UnexpectedReplyError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import JpegSettings
from secondlook.edge.wire import Answer, Fixed, ModelCard, Relevance, View
from secondlook.edge.wire_stream import Wanted
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings, SessionLimits
from secondlook.engine.stream.cloud import MOST_TEXT, CloudAnswer, HttpCloud, KeyFrame, looked_at
from secondlook.engine.stream.local import LateCloud

JPEG = JpegSettings()


def answer(relevance: Relevance | None, region: Region | None) -> EdgeAnswer:
    said = Answer(text="75", uncertainty=0.0, tokens=2, visual_tokens=4)
    return EdgeAnswer(
        *("75", 0.0, False, False, None, "sure", said, None, region, Size(1200, 600)),
        *((1,), (1,), (1,), (4,), StageSeconds(), ()),
        relevance=relevance,
    )


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_where_a_sure_cloud_looked_is_found_in_its_map(fit: Any) -> None:
    cells = np.zeros((12, 12), np.uint8)
    cells[6, 9] = 255
    relevance = Relevance(width=12, height=12, data=base64.b64encode(cells.tobytes()).decode())
    view = View(size=Fixed(width=SIDE, height=SIDE), fit=fit)
    card = ModelCard(name="cloud", global_view=view, local_view=view, crop_size=200, threshold=0.5)
    found = looked_at(answer(relevance, None), card)
    assert found is not None
    y = 650 - 300 if fit == "pad" else 325
    assert found.contains(950, y)
    assert found.within(Size(1200, 600))
    assert found.width < 500
    place = Region(1, 2, 3, 4)
    assert looked_at(answer(relevance, place), card) == place
    assert looked_at(answer(None, None), card) is None
    assert looked_at(answer(relevance, None), None) is None


def test_a_clouds_address_is_checked() -> None:
    with pytest.raises(SettingsError, match="ftp"):
        HttpCloud("ftp://cloud", 10.0)
    cloud = HttpCloud("http://user:secret@cloud:80/eyes", 3.0)
    assert cloud.url == "http://cloud/eyes"
    settings = cloud._client.settings
    assert (settings.timeout, settings.connect_timeout) == (3.0, 3.0)
    assert (settings.retries, settings.wait_budget) == (0, 0.0)
    asyncio.run(cloud.aclose())


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ({"text": "7", "uncertainty": math.nan}, "is this a secondlook server"),
        ({"text": "7", "uncertainty": -math.inf}, "is this a secondlook server"),
        ({"text": "lorem\n" * 1_000_000, "uncertainty": 0.0}, ""),
    ],
)
def test_what_a_cloud_says_is_a_finite_doubt_and_a_bounded_text(said: dict[str, Any], failure: str) -> None:
    """Else all frames that rest on it would have replies that no camera can read."""
    view = View(size=Fixed(width=SIDE, height=SIDE))
    card = ModelCard(name="cloud", global_view=view, local_view=view, crop_size=200, threshold=0.5)
    spoken = {"tokens": 2, "visual_tokens": 4, **said}
    reply = json.dumps({"status": "final", "decision": "sure", "answer": spoken, "first": spoken})

    def replied(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=card.model_dump_json() if request.method == "GET" else reply)

    async def ask() -> CloudAnswer:
        cloud = HttpCloud("http://cloud", 10.0, transport=httpx.MockTransport(replied))
        try:
            return await cloud.ask(KeyFrame(0, Size(400, 300), view, jpeg(), unasked), "what?")
        finally:
            await cloud.aclose()

    if failure:
        with pytest.raises(UnexpectedReplyError, match=failure):
            asyncio.run(ask())
    else:
        assert asyncio.run(ask()).text == said["text"][:MOST_TEXT]


def test_a_cloud_that_lost_a_key_frame_is_asked_again() -> None:
    """As one of several would: the camera is asked for the region again, and not for the whole frame."""
    settings = ServerSettings(sessions=SessionLimits(max_waiting=1, max_remembered=0))
    wanted: list[Wanted] = []

    async def scenario(url: str) -> CloudAnswer:
        async with AsyncEdgeClient(url) as other:

            async def want(detail: Wanted) -> bytes:
                wanted.append(detail)
                if len(wanted) == 1:  # one session waits at a time, and this opens another
                    await other.ask(Image.new("RGB", (400, 300)), "unsure")
                return jpeg(32, 21)

            view = View(size=Fixed(width=SIDE, height=SIDE))
            cloud = HttpCloud(url, 60.0)
            try:
                return await cloud.ask(KeyFrame(0, Size(400, 300), view, jpeg(), want), "unsure")
            finally:
                await cloud.aclose()

    with listening(create_app(FakeEngine(), settings)) as url:
        answer = asyncio.run(scenario(url))
    assert answer.text == "second to unsure"
    assert [detail.region is not None for detail in wanted] == [True, True]
    assert answer.bytes_up > 2 * (len(jpeg()) + len(jpeg(32, 21)))


def test_the_time_of_a_late_cloud_is_all_of_it() -> None:
    async def scenario() -> None:
        cloud = ScriptedCloud()
        view = View(size=Fixed(width=SIDE, height=SIDE))
        frame = KeyFrame(0, Size(400, 300), view, jpeg(), unasked)
        asking = asyncio.create_task(LateCloud(cloud, 0.6).ask(frame, "what?"))
        await until(lambda: 0 in cloud.asked)
        cloud.answer(0, "seven")  # in 0.5 s, it says
        assert (await asking).seconds > 0.55

    run(scenario)


def test_a_picture_that_nobody_waits_for_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    view = View(size=Fixed(width=SIDE, height=SIDE))
    frame = KeyFrame(0, Size(400, 300), view, jpeg(), unasked)
    frame.global_image(view, JPEG)
    frame.local_image(REGION, view, JPEG)
    gc.collect()
    assert not list(recwarn)


async def unasked(_wanted: Wanted) -> bytes:
    raise AssertionError("nothing more is wanted")
