"""Folders, patterns and a program's own pictures as sources; that the newest is given; and what is none."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edge.support import encoded, gradient
from secondlook.edge import (
    Frame,
    PictureLimits,
    PictureTooLargeError,
    SettingsError,
    Source,
    SourceError,
    open_picture,
    open_source,
)
from secondlook.edge.frames import Take, Takes, played, reconnecting


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of 10, 20 … 120 pixels' width, in the order of their names' numbers; and other files."""
    shots = tmp_path / "shots"
    shots.mkdir()
    for number in range(1, 13):
        gradient(10 * number, 40).save(shots / f"shot{number}.{'png' if number % 2 else 'jpg'}")
    (shots / "notes.txt").write_text("not a picture")
    (shots / ".hidden.png").write_text("not a picture")
    (shots / "folder.png").mkdir()
    return shots


def frames(source: Source) -> list[Frame]:
    with source:
        return list(iter(source.newest, None))


def widths(found: list[Frame]) -> list[int]:
    return [frame.picture.size.width for frame in found]


def test_a_folder_is_read_in_the_order_of_its_names_numbers(folder: Path) -> None:
    found = frames(open_source(folder, fps=4, paced=False))
    assert widths(found) == [10 * number for number in range(1, 13)]
    assert [frame.number for frame in found] == list(range(12))
    assert [frame.captured for frame in found] == [number / 4 for number in range(12)]
    assert found[2].picture.original().tobytes() == gradient(30, 40).tobytes()


@pytest.mark.parametrize(
    ("pattern", "expected"), [("shot[12].*", [10, 20]), ("**/shot*2.jpg", [20, 120]), ("shot7.png", [70])]
)
def test_patterns_and_single_pictures(folder: Path, pattern: str, expected: list[int]) -> None:
    assert widths(frames(open_source(str(folder / pattern), paced=False))) == expected


def test_a_paced_folder_ends_with_its_last_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.edge.frames._LATEST_SECONDS", math.inf)
    found = frames(open_source(folder, fps=200))
    assert widths(found)[-1] == 120
    assert [frame.captured for frame in found] == sorted({frame.captured for frame in found})
    start = found[0].captured - found[0].number / 200
    assert [frame.captured - start for frame in found] == pytest.approx([one.number / 200 for one in found])


def test_what_is_read_too_slowly_is_played_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    picture = open_picture(gradient(10, 10))

    class Passing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            now[0] += timeout or 0.0
            return False

    def takes() -> Takes:
        for seconds, reading in ((0.0, 0.0), (1.0, 0.5), (2.0, 1.7), (3.0, 5.0), (4.0, 0.0)):
            now[0] += reading
            yield Take(seconds, lambda: picture)

    monkeypatch.setattr("secondlook.edge.frames.time.monotonic", lambda: now[0])
    captured = [take.captured for take in played(takes(), Passing())]
    assert captured == pytest.approx([100, 101, 102, 107.7, 108.7])


@pytest.mark.parametrize(
    ("lasting", "growing", "levels"),
    [(0.5, [0.25, 0.5, 1, 2, 4, 8, 8], ["WARNING", "INFO"]), (60, [0.25] * 7, ["WARNING", "WARNING"])],
)
def test_a_camera_that_is_lost_again_and_again_is_given_time(
    lasting: float,
    growing: list[float],
    levels: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, waits = [100.0], list[float]()
    picture = open_picture(gradient(10, 10))

    class Passing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    def connect() -> Takes:
        yield Take(now[0], lambda: picture)
        now[0] += lasting
        yield Take(now[0], lambda: picture)

    monkeypatch.setattr("secondlook.edge.frames.time.monotonic", lambda: now[0])
    monkeypatch.setattr("secondlook.edge.frames.random.random", lambda: 0.0)
    with caplog.at_level(logging.INFO):
        takes = reconnecting("camera", connect, Passing())
        for _ in range(16):
            next(takes)
        takes.close()
    assert waits == growing
    lost = [record.levelname for record in caplog.records if "closed the connection" in record.message]
    assert lost[:2] == levels


def test_a_folder_that_is_looped_begins_anew(folder: Path) -> None:
    with open_source(folder / "shot[12].*", fps=100, loop=True, paced=False) as source:
        found = [source.newest() for _ in range(5)]
    assert [frame and (frame.number, frame.captured) for frame in found] == [
        (number, number / 100) for number in range(5)
    ]


def test_a_damaged_picture_is_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "shot1.png").write_bytes(b"")
    (folder / "shot3.png").write_bytes(b"nothing")
    with caplog.at_level(logging.INFO):
        found = frames(open_source(folder / "shot[1-4].*", paced=False))
    assert [frame.number for frame in found] == [1, 3]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "frame 0 of" in caplog.text
    assert "shot1.png is empty (0 bytes)" in caplog.text
    with pytest.raises(SourceError, match=r"no frame that can be decoded: .*shot3\.png is not a picture"):
        frames(open_source(folder / "shot[13].*", paced=False))


def test_a_picture_above_a_limit_is_told(folder: Path) -> None:
    with open_source(folder, paced=False, limits=PictureLimits(max_pixels=500)) as source:
        assert source.newest() is not None
        with pytest.raises(PictureTooLargeError, match="20x40 = 800 pixels; the limit is 500"):
            source.newest()


# --- a program's own pictures -----------------------------------------------------------------------------


def test_the_newest_picture_is_given_and_the_others_are_passed_over() -> None:
    reached, go_on = threading.Event(), threading.Event()

    def pictures() -> Iterator[Image.Image]:
        for width in (10, 20, 30, 40):
            yield gradient(width, 10)
        reached.set()
        go_on.wait()
        yield gradient(50, 10)

    with open_source(pictures()) as source:
        reached.wait()
        frame = source.newest()
        assert frame is not None
        assert (frame.number, frame.picture.size.width) == (3, 40)
        go_on.set()
        frame = source.newest()
        assert frame is not None
        assert (frame.number, frame.picture.size.width) == (4, 50)
        assert source.newest() is None


def test_pictures_may_be_whatever_is_one(folder: Path) -> None:
    pictures: list[Any] = [
        folder / "shot1.png",
        str(folder / "shot2.jpg"),
        encoded(gradient(30, 10)),
        gradient(40, 10),
        open_picture(gradient(50, 10)),
        b"none",
        gradient(60, 10),
    ]
    found = frames(open_source(pictures, paced=False, fps=10))
    assert widths(found) == [10, 20, 30, 40, 50, 60]
    assert [frame.captured for frame in found] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.6]
    assert widths(frames(open_source(pictures, fps=1000)))[-1] == 60


def test_a_picture_that_is_drawn_over_was_copied() -> None:
    image = Image.new("RGB", (10, 10), "red")

    def pictures() -> Iterator[Image.Image]:
        yield image
        image.paste("blue", (0, 0, 10, 10))

    (frame,) = frames(open_source(pictures()))
    assert frame.picture.original().getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("paced", [True, False])
def test_what_a_program_raises_is_raised_where_frames_are_asked_for(paced: bool) -> None:
    def pictures() -> Iterator[Image.Image]:
        yield gradient(10, 10)
        raise ZeroDivisionError("of the program")

    with pytest.raises(ZeroDivisionError, match="of the program"):
        frames(open_source(pictures(), paced=paced))


@pytest.mark.parametrize("paced", [True, False])
def test_a_closed_source_has_ended(folder: Path, paced: bool) -> None:
    source = open_source(folder, fps=0.001, paced=paced)
    assert source.newest() is not None
    source.close()
    source.close()
    assert source.newest() is None


def test_closing_wakes_whoever_waits() -> None:
    asking, gate = threading.Event(), threading.Event()
    found: list[object] = []

    def pictures() -> Iterator[Image.Image]:
        asking.set()
        gate.wait()
        yield gradient(10, 10)

    source = open_source(pictures())
    thread = threading.Thread(target=lambda: found.append(source.newest()))
    thread.start()
    asking.wait()
    source.close()
    thread.join()
    assert found == [None]
    gate.set()


# --- what is no source ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{tmp}/gone", r"there is no .*/gone; a source is rtsp://… or http://… \(MJPEG or snapshots\), a"),
        ("{tmp}/*.gone", r"there is no file like .*/\*\.gone$"),
        ("{tmp}/empty", r"the folder .*/empty holds no pictures \(\.avif, \.bmp"),
        ("{tmp}/null.jpg", r"/null\.jpg is no file, and no folder of pictures"),
        ("", "no source is named; one is rtsp"),
        ("a\0b", "there is no a"),
        ("x" * 5000, "cannot open 'xxx.*name too long"),
        ("192.168.0.7:8554/camera", "there is no 192.168.0.7:8554/camera; a source is rtsp"),
        ("ftp://camera/x", r"there are no sources of ftp://; known are rtsp://"),
        ("rtsp://", "the camera's address is malformed; it must look like rtsp://host:port/path"),
        ("http://camera:99999/", "the camera's address is malformed"),
        ("http://[::1/", "the camera's address is malformed"),
        ("http://127.0.0.1:9/", r"cannot connect to http://127\.0\.0\.1:9/: "),
    ],
)
def test_what_is_no_source_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(text.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read everything
    with pytest.raises(SourceError, match=r"cannot read the folder .*: Permission denied"):
        open_source(folder)


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (".", {"fps": 0}, "fps must be above 0 and at most 1000, not 0"),
        (".", {"fps": float("nan")}, "not nan"),
        (".", {"fps": 1e9}, "not 1000000000.0"),
        ("rtsp://camera/x", {"fps": 5}, "a camera of the network has its own"),
        (
            "http://camera/x",
            {"loop": True},
            "can neither be looped nor be read at another pace: http://camera",
        ),
        ("http://camera/x", {"paced": False}, "can neither be looped"),
        ("/dev/video0?size=1x1", {}, "unknown option size of /dev/video0; known are framerate, input_format"),
        ([], {"loop": True}, "a program's own pictures cannot be looped"),
    ],
)
def test_settings_that_mean_nothing_are_refused(source: Any, settings: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_source(source, **settings)
