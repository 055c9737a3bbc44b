"""Cameras that send MJPEG: how it is read, and that they may go and come back."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cameras import PASSWORD, USER, Camera, mjpeg_camera
from edge.support import encoded, gradient
from secondlook.edge import NoFrameError, PictureLimits, PictureTooLargeError, Size, SourceError, open_source
from secondlook.edge.mjpeg import parts

SMALL, LARGE = encoded(gradient(40, 30)), encoded(gradient(80, 60))
MOST = 1_000_000
KEY = "hush"


def read(text: bytes, size: int = 7, most: int = MOST) -> list[bytes]:
    """The parts of a body with the boundary `b`, which comes in chunks of this size."""
    chunks = iter([text[at : at + size] for at in range(0, len(text), size)])
    return [body for _, body in parts(chunks, b"b", most, "the camera")]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.integers(1, 400), st.booleans())
def test_parts_are_the_same_however_they_come(bodies: list[bytes], size: int, told: bool) -> None:
    if not told:  # then their ends are found by what follows
        bodies = [body.replace(b"-", b"+") + b"\xff\xd9" for body in bodies]
    text = b"".join(
        b"--b\r\n" + (b"Content-Length: %d\r\n" % len(body) if told else b"") + b"\r\n" + body + b"\r\n"
        for body in bodies
    )
    found = read(text + b"--b--\r\n", size)
    assert found == (bodies if told else [body + b"\r\n" for body in bodies])


@pytest.mark.parametrize(
    "text",
    [
        b"--b\nContent-type: image/jpeg\n\nJPEG--b--",
        b"nothing yet\r\n--b  \r\ncontent-LENGTH:  4  \r\nX-Timestamp: 1.5\r\n\r\nJPEG\r\n\r\n--b\r\n",
        b"--b\r\nContent-Length: 4\r\n\r\nJPEGand more that nobody counted--b\r\n",
        b"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b\r\n\r\nJPEG--b",
        b"--b\r\nContent-Length: 0\r\n\r\n\r\n--b\r\nContent-Length: 4\r\n\r\nJPEG",
    ],
)
def test_parts_are_read_as_cameras_write_them(text: bytes) -> None:
    assert read(text) == [b"JPEG"]


def test_what_is_no_stream_of_parts_is_not_kept() -> None:
    for text in (b"x" * 5000, b"--b\r\n\r\n" + b"x" * 5000, b"--b\r\nContent-Length: 2000\r\n\r\n"):
        with pytest.raises(PictureTooLargeError, match="a picture of more than the limit of 1000 bytes"):
            read(text, most=1000)
    with pytest.raises(SourceError, match="a line of more than 8192 bytes"):
        read(b"--b\r\n" + b"x" * 10_000)
    with pytest.raises(SourceError, match="more than 100 headers"):
        read(b"--b\r\n" + b"x: y\r\n" * 101)
    assert read(b"no boundary at all") == []


# --- over a real connection -------------------------------------------------------------------------------


@pytest.fixture
def camera() -> Iterator[Camera]:
    with mjpeg_camera() as found:
        yield found


def test_a_camera_gives_its_newest_frame(camera: Camera) -> None:
    camera.show(SMALL)
    with open_source(f"http://{camera.address}") as source:
        frame = source.newest()
        assert frame is not None
        assert (frame.number, frame.picture.size) == (0, Size(40, 30))
        with pytest.raises(NoFrameError, match="no new frame in time"):
            source.newest(timeout=0.01)
        for _ in range(5):
            camera.show(SMALL)
        camera.show(LARGE)
        seen = [frame]
        while seen[-1].number < 6:
            found = source.newest()
            assert found is not None
            seen.append(found)
        assert seen[-1].picture.size == Size(80, 60)
        assert [one.captured for one in seen] == sorted(one.captured for one in seen)


def test_a_camera_that_is_lost_is_connected_to_again(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    camera.show(SMALL)
    with caplog.at_level(logging.INFO), open_source(f"http://{camera.address}") as source:
        assert source.newest() is not None
        camera.statuses += [503, 404]
        camera.hang_up()
        camera.show(LARGE)
        frame = source.newest()
    assert frame is not None
    assert (frame.number, frame.picture.size) == (1, Size(80, 60))
    assert len(camera.asked) == 4
    ours = [record for record in caplog.records if record.name.startswith("secondlook")]
    assert [record.levelname for record in ours] == ["WARNING", "INFO", "INFO", "INFO"]
    name = f"http://{camera.address}"
    assert ours[0].getMessage() == f"{name} has closed the connection; connecting again until it is back"
    assert "404 Not Found" in ours[2].getMessage()
    assert ours[3].getMessage() == f"{name} is back"


def test_a_damaged_frame_is_passed_over(camera: Camera, caplog: pytest.LogCaptureFixture) -> None:
    camera.show(b"\xff\xd8\xff\xe0no picture")
    with open_source(f"http://{camera.address}") as source:
        camera.show(SMALL)
        frame = source.newest()
    assert frame is not None
    assert frame.picture.size == Size(40, 30)
    assert all("is passed over" in record.getMessage() for record in caplog.records)


def test_a_camera_that_talks_and_gives_no_frame_is_told(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.edge.frames._FIRST_SECONDS", 0.05)
    camera.send(b"--frame\r\nContent-Type: text/plain\r\n\r\nsoon\r\n--frame\r\n")
    with pytest.raises(SourceError, match=r"/video has given no frame within 0\.05 s"):
        open_source(f"http://{camera.address}")


def test_a_frame_above_a_limit_is_told(camera: Camera) -> None:
    limits = PictureLimits(max_pixels=2000)
    camera.show(LARGE)
    with open_source(f"http://{camera.address}", limits=limits) as source:
        with pytest.raises(PictureTooLargeError, match="80x60 = 4800 pixels; the limit is 2000"):
            source.newest()
        camera.show(SMALL)
        assert source.newest() is not None


@pytest.mark.parametrize("scheme", [None, "basic", "digest"])
def test_credentials_are_given_and_never_shown(
    camera: Camera, scheme: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    camera.scheme = scheme
    camera.show(SMALL)
    with open_source(f"http://{USER}:{PASSWORD}@{camera.address}?key={KEY}") as source:
        assert source.newest() is not None
        assert source.name == f"http://{camera.address}?…"
        shown = repr(source)
        camera.hang_up()
        camera.show(SMALL)
        assert source.newest() is not None
    assert set(camera.asked) == {f"/video?key={KEY}"}
    if scheme is not None:
        with pytest.raises(
            SourceError, match="401 Unauthorized: a user's name and a password are refused"
        ) as no:
            open_source(f"http://{USER}:{PASSWORD}not@{camera.address}?key={KEY}")
        shown += "".join(traceback.format_exception(no.value))
        with pytest.raises(SourceError, match=r"are wanted: write them before the host, as user:password@"):
            open_source(f"http://{camera.address}")
    for secret in (PASSWORD, KEY, USER):
        assert secret not in shown + caplog.text


@pytest.mark.parametrize(
    ("scheme", "challenge"),
    [
        ("basic", 'Basic realm="Digest"'),
        ("digest", 'Basic realm="x", Digest realm="camera", nonce="abc", qop="auth"'),
    ],
)
def test_credentials_are_given_however_they_are_wanted(camera: Camera, scheme: str, challenge: str) -> None:
    camera.scheme, camera.challenge = scheme, challenge
    camera.show(SMALL)
    with open_source(f"http://{USER}:{PASSWORD}@{camera.address}") as source:
        assert source.newest() is not None


@pytest.mark.parametrize("extra", [', algorithm="X9"', ', qop="auth-int"', ", nothing"])
def test_a_digest_of_an_unknown_kind_is_told(camera: Camera, extra: str) -> None:
    camera.scheme, camera.challenge = "digest", f'Digest realm="camera", nonce="abc"{extra}'
    with pytest.raises(SourceError, match="wants a digest of the password of a kind that is not known"):
        open_source(f"http://{USER}:{PASSWORD}@{camera.address}")


@pytest.mark.parametrize("told", ["frame", "--frame", "frame--"])
def test_a_boundary_may_have_dashes_of_its_own(camera: Camera, told: str) -> None:
    camera.content_type = f"multipart/x-mixed-replace; boundary={told}"
    mark = b"--frame--" if told == "frame--" else b"--frame"
    camera.send(mark + b"\r\n\r\n" + SMALL + b"\r\n" + mark + b"\r\n\r\n" + SMALL)
    with open_source(f"http://{camera.address}") as source:
        frame = source.newest()
    assert frame is not None
    assert frame.picture.size == Size(40, 30)


@pytest.mark.parametrize(
    "text",
    [
        "http://{}@127.0.0.1:9/x",
        "rtsp://{}@127.0.0.1:9/pw={}",
        "rtsp://{}@127.0.0.1:9/x?{}",
        "rtsp://{}@x:99999999/{}",
        "gopher://{}@x/{}",
        "{}@x:8554/y",
        "{}@x" + 5000 * "y",
    ],
)
def test_credentials_are_in_no_error(text: str) -> None:
    secret = f"{USER}:{PASSWORD}"
    with pytest.raises(SourceError) as caught:
        open_source(text.replace("{}", secret))
    shown = "".join(traceback.format_exception(caught.value))
    shown += repr(caught.value.__context__)  # which is not shown, but may be recorded
    assert USER not in shown
    assert PASSWORD not in shown


def test_what_is_no_camera_is_told(camera: Camera) -> None:
    address = f"http://{camera.address}"
    camera.hang_up()
    with pytest.raises(SourceError, match="has closed the connection without a frame"):
        open_source(address)
    camera.content_type = "text/html; charset=utf-8"
    with pytest.raises(SourceError, match=r"is no MJPEG stream .*: it answered text/html; charset=utf-8"):
        open_source(address)
    camera.content_type = "multipart/x-mixed-replace"
    with pytest.raises(SourceError, match="with a boundary"):
        open_source(address)
    for status, words in ((404, "answered 404 Not Found"), (302, "answered 302 Found")):
        camera.statuses = [status]
        with pytest.raises(SourceError, match=words):
            open_source(address)
