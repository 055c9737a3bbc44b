"""Cameras that give their picture when it is asked for."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator

import pytest
from PIL import Image

from edge.cameras import PASSWORD, USER
from edge.snapshot_camera import Fault, SnapshotCamera, coded, snapshot_camera
from edge.support import gradient
from secondlook.edge import PictureLimits, PictureTooLargeError, SourceError, open_source
from secondlook.edge.snapshots import HttpCamera
from secondlook.edge.sources import source_name

KEY = "hush"


def picture(number: int) -> Image.Image:
    return gradient(160 + number, 120)


@pytest.fixture
def camera() -> Iterator[SnapshotCamera]:
    with snapshot_camera(picture) as found:
        yield found


def test_each_frame_is_asked_for_when_it_is_wanted(camera: SnapshotCamera) -> None:
    with open_source(f"http://{camera.address}") as source:
        asked = len(camera.asked)
        frames = [source.newest() for _ in range(3)]
        assert len(camera.asked) == asked + 3
    found = [(frame.number, frame.picture.size.width) for frame in frames if frame is not None]
    first = found[0][1]
    assert found == [(0, first), (1, first + 1), (2, first + 2)]
    assert source.newest() is None


def test_a_frame_is_as_old_as_its_request(camera: SnapshotCamera) -> None:
    with open_source(f"http://{camera.address}") as source:
        camera.faults = ["waits"]
        waiter = threading.Timer(0, lambda: camera.waiting.wait() and camera.go_on.set())
        waiter.start()
        one, other = source.newest(), source.newest()
        waiter.join()
    assert one is not None
    assert other is not None
    assert one.captured < other.captured


@pytest.mark.parametrize("fault", ["breaks off", "is no JPEG"])
def test_a_request_that_fails_is_made_again(
    camera: SnapshotCamera, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), open_source(f"http://{camera.address}") as source:
        assert source.newest() is not None
        camera.faults = [fault]
        camera.statuses = [200, 503]
        assert source.newest() is not None
    ours = [record for record in caplog.records if record.name.startswith("secondlook")]
    assert [record.levelname for record in ours] == ["WARNING", "INFO", "INFO"]
    assert "503" in ours[1].getMessage()
    assert ours[2].getMessage().endswith("is back")


def test_within_the_time_given_what_went_wrong_is_told(camera: SnapshotCamera) -> None:
    with open_source(f"http://{camera.address}") as source:
        assert source.newest() is not None
        camera.statuses = [404]
        with pytest.raises(SourceError, match="answered 404"):
            source.newest(timeout=0)
        assert source.newest(timeout=0) is not None


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_credentials_are_given_and_never_shown(
    camera: SnapshotCamera, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    camera.scheme = scheme
    address = f"http://{USER}:{PASSWORD}@{camera.address}?key={KEY}"
    with open_source(address) as source:
        assert source.newest() is not None
        assert source.name == source_name(address) == f"http://{camera.address}?…"
        shown = repr(source)
    with pytest.raises(SourceError, match="401 Unauthorized: a user's name and a password are refused") as no:
        open_source(f"http://{USER}:{PASSWORD}not@{camera.address}?key={KEY}")
    shown += "".join(traceback.format_exception(no.value))
    for secret in (PASSWORD, KEY, USER):
        assert secret not in shown + caplog.text


def test_a_picture_above_a_limit_is_told(camera: SnapshotCamera) -> None:
    limits = PictureLimits(max_bytes=len(coded(picture(0))) - 1)
    with (
        open_source(f"http://{camera.address}", limits=limits) as source,
        pytest.raises(PictureTooLargeError, match=r"the picture of http://.* more than the limit"),
    ):
        source.newest()


def test_a_part_can_be_asked_for(camera: SnapshotCamera) -> None:
    address = f"http://{camera.address}?channel=1"
    body, headers = HttpCamera(address).picture(PictureLimits(), {"crop": "20x16x64x32"})
    assert headers["x-crop-applied"] == "16x16x68x32"
    assert camera.asked[0] == "/image.jpg?channel=1&crop=20x16x64x32"
    assert len(body) < len(coded(picture(0)))


def test_what_is_no_picture_is_an_error(camera: SnapshotCamera) -> None:
    camera.content_type = "text/html"
    with pytest.raises(SourceError, match="answered with no picture, but text/html"):
        HttpCamera(f"http://{camera.address}").picture(PictureLimits())
