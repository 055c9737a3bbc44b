"""Both streams of the camera's side, against a real HTTP server."""

from __future__ import annotations

import asyncio
import io
import logging
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import httpx
import pytest
from PIL import Image

from edge.site import QUESTION, STREAMS, SUMMARY, Looped, Shown, Site, listening
from edge.support import encoded, gradient, square
from secondlook.edge import (
    GLOBAL_JPEG,
    LOCAL_JPEG,
    MOST_DETAILS,
    AsyncEdgeStream,
    Box,
    ClientError,
    ClientSettings,
    ConnectionFailedError,
    Detail,
    EdgeStream,
    FrameHeader,
    FrameReply,
    GeometryError,
    NotAPictureError,
    Region,
    RequestRefusedError,
    RingLimits,
    ServerBusyError,
    SettingsError,
    StreamSummary,
    Wanted,
    Window,
    open_picture,
)

VIEW = square(96)
DETAIL_VIEW = square(64)
REGION = Box(left=100, top=50, right=200, bottom=150)


@cache
def picture(number: int) -> bytes:
    """A JPEG of 400x300 pixels; each number's is another."""
    image = gradient(400, 300)
    image.paste((number * 20 % 256, 0, 0), (10, 10, 60, 60))
    return encoded(image, quality=90)


def global_image(source: Any) -> bytes:
    return open_picture(source).global_image(VIEW, GLOBAL_JPEG).jpeg


def local_image(source: Any, box: Box, view: Any = VIEW) -> bytes:
    region = Region(box.left, box.top, box.right, box.bottom)
    return open_picture(source).local_image(region, view, LOCAL_JPEG).jpeg


def wants(*frames: int, region: Box | None = REGION) -> dict[str, Any]:
    return {"wanted": tuple(Wanted(frame=frame, region=region, view=DETAIL_VIEW) for frame in frames)}


def frames_of(details: tuple[Detail, ...]) -> list[int]:
    return [detail.frame for detail in details]


@pytest.fixture
def site() -> Iterator[Site]:
    with listening(Site()) as one:
        yield one


Opened = Callable[..., EdgeStream | Looped]


@pytest.fixture(params=STREAMS)
def opened(request: pytest.FixtureRequest, site: Site) -> Iterator[Opened]:
    """A stream of either kind to the site: `opened(deadline=…, ring=…)`."""
    made = []

    def make(question: str = QUESTION, **named: Any) -> EdgeStream | Looped:
        address = named.pop("address", site.address)
        made.append(STREAMS[request.param](address, question, **named))
        return made[-1]

    yield make
    for stream in made:
        stream.close()


# --- what is sent -----------------------------------------------------------------------------------------


def test_frames_are_numbered_and_shown_as_the_card_says(opened: Opened, site: Site) -> None:
    window = Window(left=0, top=0, right=4, bottom=3)
    with opened(deadline=0.25) as stream:
        assert stream.card is None
        first = stream.show(picture(0), captured=7.5)
        second = stream.show(gradient(320, 240), captured=7.75, window=window)
        assert stream.card is not None
        assert stream.card.id == "0"
        assert stream.latest == second
    assert (first.frame, second.frame) == (0, 1)
    assert (first.answer, first.status) == ("75", "answered")
    assert site.options == [{"question": QUESTION, "deadline": 0.25}]
    assert [shown.header for shown in site.shown] == [
        FrameHeader(frame=0, captured=7.5, width=400, height=300),
        FrameHeader(frame=1, captured=7.75, width=320, height=240, window=window),
    ]
    assert [shown.images for shown in site.shown] == [
        {"image": global_image(picture(0))},
        {"image": global_image(gradient(320, 240))},
    ]
    assert stream.summary == StreamSummary(**{**SUMMARY, "frames": 2})
    assert site.asked[0] == "POST /v1/streams"
    assert site.asked[1:] == ["POST /v1/streams/0/frames"] * 2 + ["DELETE /v1/streams/0"]


def test_the_times_of_capture_are_the_clocks_by_default(opened: Opened, site: Site) -> None:
    with opened() as stream:
        stream.show(picture(0))
        stream.show(picture(1))
    before, after = (shown.header.captured for shown in site.shown)
    assert before < after
    assert site.options == [{"question": QUESTION}]


def test_bytes_are_counted_both_ways(opened: Opened, site: Site) -> None:
    with opened() as stream:
        stream.show(picture(0))
        stream.show(picture(1))
        assert (stream.bytes_up, stream.bytes_down) == (site.bytes_in, site.bytes_out)
    assert stream.bytes_up == site.bytes_in > 2 * len(global_image(picture(0)))
    assert stream.bytes_down == site.bytes_out


def test_without_a_frame_nothing_is_opened(opened: Opened, site: Site) -> None:
    with opened() as stream:
        pass
    assert stream.close() is None
    assert site.asked == []


def test_a_stream_is_ended_once(opened: Opened, site: Site) -> None:
    stream = opened()
    stream.show(picture(0))
    summary = stream.close()
    assert summary is not None
    assert summary.frames == 1
    assert stream.close() == stream.summary == summary
    assert sum(asked.startswith("DELETE") for asked in site.asked) == 1


# --- the focus --------------------------------------------------------------------------------------------


def window(left: float, top: float, width: float = 40.0) -> Window:
    return Window(left=left, top=top, right=left + width, bottom=top + width * 3 / 4)


def focus_at(frame: int, region: Box = REGION) -> dict[str, Any]:
    return {"focus": {"frame": frame, "region": region}}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, (100, 50, 200, 150)),
        (window(0, 0), None, (100, 50, 200, 150)),
        (None, window(0, 0), (100, 50, 200, 150)),
        (window(0, 0), window(0, 0), (100, 50, 200, 150)),
        (window(0, 0), window(5, 2), (50, 30, 150, 130)),  # 10 pixels a unit
        (window(0, 0), window(0, 0, width=80), (50, 25, 100, 75)),
        (window(0, 0), window(10, 0, width=20), (0, 100, 200, 300)),
        (
            window(0, 0),
            window(12, 0),
            (0, 50, 100, 150),
        ),  # its centre is inside yet: shifted into the picture
        (window(0, 0), window(16, 0), None),
        (window(0, 0), window(1000, 1000), None),
    ],
)
def test_the_focus_is_brought_to_the_frame(
    before: Window | None,
    after: Window | None,
    expected: tuple[int, int, int, int] | None,
    opened: Opened,
    site: Site,
) -> None:
    site.reply = lambda shown: focus_at(0) if shown.header.frame == 0 else {}
    with opened() as stream:
        stream.show(picture(0), 0.0, before)
        stream.show(picture(1), 0.2, after)
        stream.show(picture(2), 0.4, after)
    asked, after_that = site.shown[1:]
    assert "focus" not in site.shown[0].images
    if expected is None:
        assert asked.header.focus is None
        assert "focus" not in asked.images
    else:
        box = Box(**dict(zip(("left", "top", "right", "bottom"), expected, strict=True)))
        assert asked.header.focus == box
        assert asked.images["focus"] == local_image(picture(1), box)
    assert after_that.header.focus is None  # the last reply had none


def test_a_frame_that_was_not_looked_at_leaves_the_focus_as_it_was(opened: Opened, site: Site) -> None:
    replies: list[dict[str, Any]] = [
        focus_at(0),
        {"status": "held", "source": "history"},
        {"status": "held", "source": "nothing", **focus_at(0, Box(left=0, top=0, right=50, bottom=50))},
        {},
        {},
    ]
    site.reply = lambda shown: replies[shown.header.frame]
    with opened() as stream:
        for number in range(5):
            stream.show(picture(number), number * 0.2)
    sent = [shown.header.focus for shown in site.shown]
    assert sent == [None, REGION, REGION, Box(left=0, top=0, right=50, bottom=50), None]


def test_the_focus_of_an_earlier_frame_is_brought_from_there(opened: Opened, site: Site) -> None:
    site.reply = lambda shown: focus_at(0) if shown.header.frame == 1 else {}
    with opened() as stream:
        for number in range(3):
            stream.show(picture(number), number * 0.2, window(2.0 * number, 0))
    assert site.shown[2].header.focus == Box(left=60, top=50, right=160, bottom=150)


@pytest.mark.parametrize("frame", ["unknown", "old", "of another size"])
def test_a_focus_whose_place_is_unknown_is_not_sent(frame: str, opened: Opened, site: Site) -> None:
    site.reply = lambda shown: focus_at(17 if frame == "unknown" else shown.header.frame)
    with opened() as stream:
        stream.show(picture(0), 0.0)
        stream.show(
            gradient(300, 400) if frame == "of another size" else picture(1), 10.5 if frame == "old" else 0.2
        )
    assert site.shown[1].header.focus is None
    assert set(site.shown[1].images) == {"image"}


# --- details ----------------------------------------------------------------------------------------------


def test_details_are_made_of_the_original(opened: Opened, site: Site) -> None:
    whole = Wanted(frame=0, view=DETAIL_VIEW)
    part = Wanted(frame=1, region=REGION, view=DETAIL_VIEW)
    site.reply = lambda shown: {"wanted": (whole, part)} if shown.header.frame == 1 else {}
    raw = gradient(500, 400)
    with opened() as stream:
        for source in (picture(0), raw, picture(2), picture(3)):
            stream.show(source)
    _, _, asked, after = site.shown
    assert asked.header.details == (Detail(frame=1, region=REGION), Detail(frame=0))
    assert asked.images["detail0"] == local_image(raw, REGION, DETAIL_VIEW)
    assert asked.images["detail1"] == open_picture(picture(0)).global_image(DETAIL_VIEW, GLOBAL_JPEG).jpeg
    assert after.header.details == ()
    assert set(after.images) == {"image"}


def test_details_are_the_newest_first_and_no_more_than_may_travel(opened: Opened, site: Site) -> None:
    site.reply = lambda shown: wants(*range(6)) if shown.header.frame == 5 else {}
    with opened() as stream:
        for number in range(9):
            stream.show(picture(number))
    sent = [frames_of(shown.header.details) for shown in site.shown[6:]]
    assert sent == [[5, 4, 3, 2], [1, 0], []]
    assert len(sent[0]) == MOST_DETAILS
    assert site.shown[7].images["detail1"] == local_image(picture(0), REGION, DETAIL_VIEW)


def test_a_detail_is_sent_once_however_often_it_is_wanted(opened: Opened, site: Site) -> None:
    site.reply = lambda shown: wants(0)
    with opened() as stream:
        for number in range(4):
            stream.show(picture(number))
    assert [frames_of(shown.header.details) for shown in site.shown] == [[], [0], [], []]


def test_a_detail_that_cannot_be_made_is_left_out_and_said(
    opened: Opened, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    outside, empty = Box(left=0, top=0, right=500, bottom=10), Box(left=9, top=9, right=9, bottom=9)
    wrong = {
        "wanted": wants(1, region=outside)["wanted"] + wants(1, region=empty)["wanted"] + wants(0)["wanted"]
    }
    site.reply = lambda shown: wrong if shown.header.frame == 1 else {}
    with opened() as stream, caplog.at_level(logging.WARNING, "secondlook.edge"):
        for number in range(3):
            stream.show(picture(number))
    assert site.shown[2].header.details == (Detail(frame=0, region=REGION),)
    assert site.shown[2].images["detail0"] == local_image(picture(0), REGION, DETAIL_VIEW)
    assert len([text for text in caplog.messages if "detail of frame 1 cannot be sent" in text]) == 2


@pytest.mark.parametrize(
    ("ring", "history", "times", "kept"),
    [
        (RingLimits(seconds=1.0), 10.0, [0.0, 0.5, 1.0, 1.5], [2, 1]),
        (RingLimits(seconds=100.0), 1.0, [0.0, 0.5, 1.0, 1.5], [2, 1]),
        (RingLimits(), 10.0, [0.0, 5.0, 5.1, 10.0], [2, 1, 0]),
        (RingLimits(), 10.0, [0.0, 5.0, 5.1, 20.0], []),
    ],
)
def test_the_ring_is_bounded_in_seconds(
    ring: RingLimits, history: float, times: list[float], kept: list[int], opened: Opened, site: Site
) -> None:
    site.card["history_seconds"] = history
    site.reply = lambda shown: wants(0, 1, 2) if shown.header.frame == 2 else {}
    with opened(ring=ring) as stream:
        for number, captured in enumerate(times):
            stream.show(picture(number), captured)
    assert frames_of(site.shown[3].header.details) == kept


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
@pytest.mark.parametrize("spare", [0, -1])
def test_the_ring_is_bounded_in_bytes(kind: str, spare: int, opened: Opened, site: Site) -> None:
    sources: list[Any] = [picture(number) for number in range(4)]
    sizes = [len(source) for source in sources]
    if kind == "raw":
        sources = [Image.open(io.BytesIO(source)) for source in sources]
        sizes = [400 * 300 * 3] * 4
    site.reply = lambda shown: wants(0, 1, 2) if shown.header.frame == 2 else {}
    with opened(ring=RingLimits(bytes=sum(sizes[1:]) + spare)) as stream:
        for source in sources:
            stream.show(source, 0.0)
    assert frames_of(site.shown[3].header.details) == ([2, 1] if spare == 0 else [2])


def test_a_picture_that_is_kept_stays_as_small_as_it_came(opened: Opened, site: Site) -> None:
    """Though it is decoded for its images, and though its owner decodes it."""
    site.reply = lambda shown: wants(0) if shown.header.frame == 1 else {}
    mine = open_picture(picture(0))
    with opened(ring=RingLimits(bytes=sum(len(picture(number)) for number in range(3)))) as stream:
        stream.show(mine)
        mine.shrunk(VIEW)
        assert mine.held_bytes == 400 * 300 * 3
        stream.show(picture(1))
        stream.show(picture(2))
    assert frames_of(site.shown[2].header.details) == [0]


def test_a_frame_larger_than_the_ring_is_shown_but_not_kept(opened: Opened, site: Site) -> None:
    site.reply = lambda shown: wants(0) if shown.header.frame == 0 else {}
    with opened(ring=RingLimits(bytes=1)) as stream:
        stream.show(picture(0))
        stream.show(picture(1))
    assert [frames_of(shown.header.details) for shown in site.shown] == [[], []]


# --- failures ---------------------------------------------------------------------------------------------


def test_a_stream_that_the_site_has_forgotten_is_opened_anew(opened: Opened, site: Site) -> None:
    site.reply = lambda shown: {**wants(0), **focus_at(0)} if shown.header.frame == 0 else {}
    with opened() as stream:
        stream.show(picture(0))
        site.forgotten.add("0")
        with pytest.raises(RequestRefusedError, match="there is no stream 0") as caught:
            stream.show(picture(1))
        assert caught.value.status == 404
        assert stream.card is None
        assert stream.show(picture(2)).frame == 2
        assert stream.card is not None
    assert [(shown.stream, shown.header.frame) for shown in site.shown] == [("0", 0), ("1", 2)]
    assert set(site.shown[1].images) == {"image"}  # what the old stream wanted is nothing to the new one
    assert site.asked[-1] == "DELETE /v1/streams/1"


@pytest.mark.parametrize("failure", [None, 503, 422])
def test_a_frame_that_fails_is_not_sent_again_and_the_next_one_goes(
    failure: int | None, opened: Opened, site: Site
) -> None:
    def reply(shown: Shown) -> dict[str, Any] | int | None:
        return wants(0) if shown.header.frame == 0 else failure if shown.header.frame == 1 else {}

    site.reply = reply
    kinds = {None: ConnectionFailedError, 503: ServerBusyError, 422: RequestRefusedError}
    with opened() as stream:
        stream.show(picture(0))
        with pytest.raises(kinds[failure]) as caught:
            stream.show(picture(1))
        assert "\n" not in str(caught.value)
        assert stream.show(picture(2)).status == "answered"
    assert [(shown.stream, shown.header.frame) for shown in site.shown] == [("0", 0), ("0", 1), ("0", 2)]
    again = [0] if failure != 422 else []  # what was not taken in is sent with the next frame
    assert frames_of(site.shown[2].header.details) == again


def test_a_frame_is_sent_again_where_the_settings_say_so_within_its_deadline(
    opened: Opened, site: Site
) -> None:
    broken = [None, None]
    site.reply = lambda shown: broken.pop() if broken else {}
    slept: list[float] = []
    settings = ClientSettings(retries=5, first_wait=0.01)
    with opened(settings=settings, sleep=slept.append) as stream:
        assert stream.show(picture(0)).frame == 0
    assert [shown.header.frame for shown in site.shown] == [0, 0, 0]
    assert len(slept) == 2
    broken += [None] * 9
    with (
        opened(settings=ClientSettings(retries=5, first_wait=4.0), sleep=slept.append) as stream,
        pytest.raises(ConnectionFailedError, match="longer than there is time for"),
    ):
        stream.show(picture(0))
    assert len(slept) == 2


def test_opening_waits_for_a_site_that_is_away(opened: Opened, site: Site) -> None:
    slept: list[float] = []
    site.refuse_opening = [503, None]
    with opened(sleep=slept.append) as stream:
        assert stream.show(picture(0)).frame == 0
    assert len(slept) == 2
    assert site.asked.count("POST /v1/streams") == 3


def test_a_site_that_refuses_the_stream(opened: Opened, site: Site) -> None:
    site.refuse_opening = [404]
    with opened() as stream:
        with pytest.raises(RequestRefusedError, match="no stream is opened"):
            stream.show(picture(0))
        assert stream.show(picture(1)).frame == 1


def test_a_picture_that_is_none_costs_its_frame_alone(opened: Opened, site: Site) -> None:
    with opened() as stream:
        for wrong in (b"no picture", encoded(gradient(400, 300))[:2000]):
            with pytest.raises(NotAPictureError):
                stream.show(wrong)
        assert stream.show(picture(0)).frame == 2
    assert [shown.header.frame for shown in site.shown] == [2]


def test_a_frame_too_slender_for_the_model_is_not_sent(opened: Opened, site: Site) -> None:
    budget = {"size": {"kind": "budget", "multiple": 28, "least_pixels": 784, "most_pixels": 78400}}
    model = {"name": "m", "global_view": budget, "local_view": budget, "crop_size": 96, "threshold": 0.5}
    site.card["model"] = model
    with opened() as stream, pytest.raises(GeometryError, match="200"):
        stream.show(gradient(1000, 4))
    assert site.shown == []


def test_a_site_that_cannot_be_told_the_end_is_noted(
    opened: Opened, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "secondlook.edge"), opened() as stream:
        stream.show(picture(0))
        site.forgotten.add("0")
    assert stream.summary is None
    assert any("could not be told that the stream ends" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("named", "kind", "text"),
    [
        ({"deadline": 0.0}, SettingsError, "deadline should be greater than 0, not 0.0"),
        ({"deadline": 61.0}, SettingsError, "deadline should be less than or equal to 60, not 61.0"),
        ({"deadline": math.nan}, SettingsError, "deadline should be a finite number"),
        ({"question": " "}, ClientError, "the question is empty"),
        ({"question": "caf\udce9?"}, ClientError, "not valid Unicode"),
        ({"address": "site:8000"}, SettingsError, "must look like http://host:port"),
    ],
)
def test_what_cannot_be_asked(
    named: dict[str, Any], kind: type[Exception], text: str, opened: Opened, site: Site
) -> None:
    with pytest.raises(kind, match=text) as caught:
        opened(**named)
    assert "\n" not in str(caught.value)
    assert site.asked == []


@pytest.mark.parametrize("captured", [math.nan, math.inf])
def test_times_that_are_none(captured: float, opened: Opened, site: Site) -> None:
    with opened() as stream, pytest.raises(SettingsError, match="finite number"):
        stream.show(picture(0), captured)
    assert site.asked == []


@pytest.mark.parametrize("named", [{"bytes": 0}, {"seconds": 0.0}, {"seconds": math.inf}])
def test_rings_that_are_none(named: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="should be"):
        RingLimits(**named)


# --- several frames at once -------------------------------------------------------------------------------


class Held:
    """Frames whose replies are given later: by hand, over httpx's own transport."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._free: dict[int, asyncio.Event] = {}
        self._came: dict[int, asyncio.Event] = {}
        self.opening = asyncio.Event()
        self.opening.set()

    def _event(self, events: dict[int, asyncio.Event], frame: int) -> asyncio.Event:
        return events.setdefault(frame, asyncio.Event())

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        kind = request.headers.get("content-type", "")
        if request.url.path == "/v1/streams":
            await self.opening.wait()
        before = len(self._site.shown)
        answer = self._site.answer(request.method, request.url.path, kind, content)
        if len(self._site.shown) > before:
            frame = self._site.shown[-1].header.frame
            self._event(self._came, frame).set()
            await self._event(self._free, frame).wait()
        assert answer is not None
        return httpx.Response(answer[0], json=answer[1])

    async def came(self, frame: int) -> None:
        await self._event(self._came, frame).wait()

    def free(self, frame: int) -> None:
        self._event(self._free, frame).set()


def concurrently(scenario: Callable[[AsyncEdgeStream, Held, Site], Any]) -> Site:
    site = Site()

    async def main() -> None:
        held = Held(site)
        transport = httpx.MockTransport(held)
        async with AsyncEdgeStream("http://site", QUESTION, transport=transport) as stream:
            await scenario(stream, held, site)

    asyncio.run(asyncio.wait_for(main(), 60))
    return site


Showing = asyncio.Task[FrameReply]


async def show(stream: AsyncEdgeStream, held: Held, number: int) -> Showing:
    """A frame that the site has, but has not answered."""
    task = asyncio.create_task(stream.show(picture(number), number / 30))
    await held.came(number)
    return task


def test_frames_at_once_have_each_its_reply() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        statuses = ["answered", "superseded", "answered"]
        site.reply = lambda shown: {"status": statuses[shown.header.frame]}
        tasks = [await show(stream, held, number) for number in range(3)]
        for number in (2, 0, 1):
            held.free(number)
            reply = await tasks[number]
            assert (reply.frame, reply.status) == (number, statuses[number])
        assert stream.latest is not None
        assert stream.latest.frame == 2

    site = concurrently(scenario)
    assert site.asked.count("POST /v1/streams") == 1


def test_the_focus_is_of_the_newest_frame_whatever_came_last() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        newer = Box(left=0, top=0, right=80, bottom=80)
        site.reply = lambda shown: focus_at(shown.header.frame, newer if shown.header.frame else REGION)
        tasks = [await show(stream, held, number) for number in range(2)]
        for number in (1, 0):
            held.free(number)
            await tasks[number]
        held.free(2)
        await (await show(stream, held, 2))
        assert site.shown[2].header.focus == newer

    concurrently(scenario)


def test_details_wanted_of_several_replies_are_sent_once() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        site.reply = lambda shown: wants(0, 1) if shown.header.frame == 1 else wants(0)
        tasks = [await show(stream, held, number) for number in range(2)]
        for number in (1, 0):
            held.free(number)
            await tasks[number]
        tasks = [await show(stream, held, number) for number in (2, 3)]
        held.free(2)
        held.free(3)
        await asyncio.gather(*tasks)
        assert [frames_of(shown.header.details) for shown in site.shown] == [[], [], [1, 0], []]

    concurrently(scenario)


def test_frames_at_once_open_one_stream_and_fail_together() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        held.opening.clear()
        site.refuse_opening = [422]
        tasks = [asyncio.create_task(stream.show(picture(number))) for number in range(3)]
        await asyncio.sleep(0)
        held.opening.set()
        failed = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in failed] == [RequestRefusedError] * 3
        assert site.asked == ["POST /v1/streams"]
        tasks = [await show(stream, held, number) for number in (3, 4)]
        for number in (3, 4):
            held.free(number)
        assert [reply.frame for reply in await asyncio.gather(*tasks)] == [3, 4]

    site = concurrently(scenario)
    assert site.asked.count("POST /v1/streams") == 2


def test_a_stream_forgotten_under_several_frames_is_opened_anew_once() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        held.free(0)
        await (await show(stream, held, 0))
        site.forgotten.add("0")
        failed = await asyncio.gather(
            *(stream.show(picture(number)) for number in (1, 2)), return_exceptions=True
        )
        assert all(isinstance(one, RequestRefusedError) and one.status == 404 for one in failed)
        tasks = [asyncio.create_task(stream.show(picture(number))) for number in (3, 4)]
        held.free(3)
        held.free(4)
        assert [reply.frame for reply in await asyncio.gather(*tasks)] == [3, 4]

    site = concurrently(scenario)
    assert site.asked.count("POST /v1/streams") == 2


def test_a_stream_may_be_closed_while_it_is_being_opened() -> None:
    async def scenario(stream: AsyncEdgeStream, held: Held, site: Site) -> None:
        held.opening.clear()
        task = asyncio.create_task(stream.show(picture(0)))
        await asyncio.sleep(0)
        await stream.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert concurrently(scenario).shown == []
