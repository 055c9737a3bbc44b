"""Both streams of the camera's side, against a real HTTP server: what is sent, and what fails."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from edge.site import (
    QUESTION,
    SUMMARY,
    Opened,
    Shown,
    Site,
    focus_at,
    frames_of,
    global_image,
    picture,
    wants,
)
from edge.support import encoded, gradient
from secondlook.edge import (
    ClientError,
    ClientSettings,
    ConnectionFailedError,
    FrameHeader,
    GeometryError,
    NotAPictureError,
    RequestRefusedError,
    RingLimits,
    ServerBusyError,
    SettingsError,
    StreamSummary,
    Window,
)

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
    assert frames_of(site.shown[2].header.details) == [0]  # with the next frame, for it may not be there


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
    site.reply = lambda shown: wants(0) if shown.header.frame == 0 else {}
    with opened() as stream:
        stream.show(picture(0))
        for wrong in (b"no picture", encoded(gradient(400, 300))[:2000]):
            with pytest.raises(NotAPictureError):
                stream.show(wrong)
        assert stream.show(picture(3)).frame == 3
    assert [shown.header.frame for shown in site.shown] == [0, 3]
    assert frames_of(site.shown[1].header.details) == [0]


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
