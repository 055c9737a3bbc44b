"""Both streams of the camera's side: what they send at the site's wish, and keep for it."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from PIL import Image

from edge.site import (
    DETAIL_VIEW,
    REGION,
    VIEW,
    Opened,
    Site,
    focus_at,
    frames_of,
    local_image,
    picture,
    wants,
)
from edge.support import gradient
from secondlook.edge import (
    GLOBAL_JPEG,
    MOST_DETAILS,
    Box,
    ClientError,
    Detail,
    RingLimits,
    Wanted,
    Window,
    open_picture,
)

# --- the focus --------------------------------------------------------------------------------------------


def window(left: float, top: float, width: float = 40.0) -> Window:
    return Window(left=left, top=top, right=left + width, bottom=top + width * 3 / 4)


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


def test_a_detail_that_cannot_be_made_is_refused_and_said(
    opened: Opened, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    outside, empty = Box(left=0, top=0, right=500, bottom=10), Box(left=9, top=9, right=9, bottom=9)
    wrong = {
        "wanted": wants(1, region=outside)["wanted"] + wants(1, region=empty)["wanted"] + wants(0)["wanted"]
    }
    site.reply = lambda shown: wrong if shown.header.frame == 1 else {}
    with opened() as stream, caplog.at_level(logging.WARNING, "secondlook.edge"):
        for number in range(5):
            stream.show(picture(number))
    assert site.shown[2].header.details == (Detail(frame=0, region=REGION),)
    assert [shown.header.refused for shown in site.shown] == [
        *((), (), ()),
        (Detail(frame=1, region=outside), Detail(frame=1, region=empty)),
        (),
    ]
    assert site.shown[2].images["detail0"] == local_image(picture(0), REGION, DETAIL_VIEW)
    assert len([text for text in caplog.messages if "detail of frame 1 cannot be sent" in text]) == 1


@pytest.mark.parametrize("status", [413, 422, 500, None])
def test_what_a_lost_frame_carried_goes_with_the_next(status: int | None, opened: Opened, site: Site) -> None:
    def reply(shown: Any) -> dict[str, Any] | int | None:
        return wants(0, 9) if shown.header.frame == 1 else status if shown.header.frame == 2 else {}

    site.reply = reply
    with opened() as stream:
        stream.show(picture(0))
        stream.show(picture(1))
        with pytest.raises(ClientError):
            stream.show(picture(2))
        stream.show(picture(3))
    for shown in site.shown[2:]:
        assert frames_of(shown.header.details) == [0]
        assert frames_of(shown.header.refused) == [9]


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
    assert sorted(frames_of(site.shown[3].header.refused)) == sorted({0, 1, 2} - {*kept})


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
