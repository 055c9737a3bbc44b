"""Videos by PyAV: written here, read as sources. And a camera's clock."""

from __future__ import annotations

import math
import sys
import wave
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from secondlook.edge import (
    Frame,
    PictureLimits,
    PictureTooLargeError,
    SettingsError,
    Size,
    Source,
    SourceError,
    open_source,
)
from secondlook.edge.video import StreamClock

COUNT = 12


def write_video(path: Path, turn: int = 0, count: int = COUNT, fps: int = 10) -> Path:
    """Frames of 320x240 that are blue in the left upper quarter, else of a grey that tells their number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps, options={"qscale": "1"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        if turn:
            stream.set_display_rotation(turn)
        for number in range(count):
            image = Image.new("RGB", (320, 240), 3 * (20 * number,))
            image.paste("blue", (0, 0, 160, 120))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "street.mp4")


def frames(source: Source) -> list[Frame]:
    with source:
        return list(iter(source.newest, None))


def told_number(frame: Frame) -> int:
    """The number that a frame's picture tells."""
    pixel = frame.picture.original().getpixel((frame.picture.size.width - 9, frame.picture.size.height - 9))
    assert isinstance(pixel, tuple)
    return round(pixel[0] / 20)


def test_every_frame_of_a_video_is_read(video: Path) -> None:
    found = frames(open_source(video, paced=False))
    assert [frame.number for frame in found] == list(range(COUNT))
    assert [told_number(frame) for frame in found] == list(range(COUNT))
    assert [frame.captured for frame in found] == pytest.approx([number / 10 for number in range(COUNT)])
    assert {frame.picture.size for frame in found} == {Size(320, 240)}
    blue = found[0].picture.original().getpixel((20, 20))
    assert blue == pytest.approx((0, 0, 255), abs=12)


@pytest.mark.parametrize("fps", [None, 50.0])
def test_a_paced_video_gives_its_newest_frames(
    video: Path, fps: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secondlook.edge.frames._LATEST_SECONDS", math.inf)
    found = frames(open_source(video, fps=fps))
    assert [told_number(frame) for frame in found] == [frame.number for frame in found]
    assert found[-1].number == COUNT - 1
    first = found[0].captured - found[0].number / (fps or 10)
    assert [frame.captured - first for frame in found] == pytest.approx(
        [frame.number / (fps or 10) for frame in found]
    )


def test_a_video_that_is_looped_begins_anew(video: Path) -> None:
    with open_source(video, loop=True, paced=False) as source:
        found = [source.newest() for _ in range(2 * COUNT + 3)]
    assert [frame and frame.number for frame in found] == list(range(2 * COUNT + 3))
    assert [frame and told_number(frame) for frame in found] == [
        number % COUNT for number in range(2 * COUNT + 3)
    ]
    assert [frame and frame.captured for frame in found] == pytest.approx(
        [number / 10 for number in range(2 * COUNT + 3)]
    )


@pytest.mark.parametrize(
    ("turn", "size", "blue"),
    [(90, Size(240, 320), (10, 310)), (180, Size(320, 240), (310, 230)), (-90, Size(240, 320), (230, 10))],
)
def test_frames_are_upright(turn: int, size: Size, blue: tuple[int, int], tmp_path: Path) -> None:
    (frame, *_) = frames(open_source(write_video(tmp_path / "turned.mp4", turn), paced=False))
    assert frame.picture.size == size
    assert frame.picture.original().getpixel(blue) == pytest.approx((0, 0, 255), abs=12)


def test_the_rest_of_a_damaged_video_is_read(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    begin = data.index(b"mdat") + 200
    data[begin : begin + 2000] = bytes(2000)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    found = frames(open_source(damaged, paced=False))
    assert found[-1].number == len(found) - 1
    assert 0 < len(found) <= COUNT


@pytest.mark.parametrize("kind", ["noise", "empty", "cut", "sound", "hollow"])
def test_what_is_no_video_is_told(kind: str, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.mp4"
    data = video.read_bytes()
    if kind == "sound":
        path = tmp_path / "sound.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(9000))
    elif kind == "hollow":
        at = data.index(b"mdat") + 4
        end = data.index(b"moov") - 4
        path.write_bytes(data[:at] + bytes(end - at) + data[end:])
    else:
        path.write_bytes({"noise": b"noise" * 999, "empty": b"", "cut": data[: len(data) // 2]}[kind])
    words = {"sound": "has no video", "hollow": "has no frame that can be decoded"}
    with pytest.raises(
        SourceError, match=words.get(kind, r"cannot open .*wrong\.mp4: Invalid data")
    ) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_a_video_that_no_decoder_knows_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "unknown.avi")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZ99"))
    with pytest.raises(SourceError, match=r"unknown\.avi has a video in a format that this FFmpeg cannot"):
        open_source(path)


@pytest.mark.parametrize("name", ["12:30:05.mp4", "concat:street.mp4", "file:street.mp4"])
def test_a_videos_name_is_no_protocol(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("named.mp4"), count=3).rename(name)
    assert len(frames(open_source(name, paced=False))) == 3


def test_a_video_above_a_limit_is_not_decoded(video: Path) -> None:
    limits = PictureLimits(max_pixels=320 * 240 - 1)
    for paced in (True, False):
        with pytest.raises(PictureTooLargeError, match="320x240 = 76800 pixels; the limit is 76799"):
            frames(open_source(video, paced=paced, limits=limits))


def test_a_video_without_times_wants_a_rate(video: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.m4v"  # nothing but the stream
    with av.open(str(video)) as container, bare.open("wb") as file:
        stream = container.streams.video[0]
        file.write(stream.codec_context.extradata or b"")
        for packet in container.demux(stream):
            file.write(bytes(packet))
    found = frames(open_source(bare, fps=5, paced=False))
    assert [frame.captured for frame in found] == [number / 5 for number in range(COUNT)]


def test_a_device_that_is_not_there_is_told() -> None:
    for options in ("", "?video_size=640x480&input_format=mjpeg"):
        with pytest.raises(SourceError, match=r"cannot open /dev/video987: No such file or directory"):
            open_source(f"/dev/video987{options}", fps=5)


def test_without_pyav_it_is_named(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for source in (str(video), "rtsp://eve:hush@camera/x", "/dev/video0"):
        with pytest.raises(
            SourceError, match=r"needs PyAV.*pip install 'secondlook-edge\[video\]'"
        ) as caught:
            open_source(source)
        assert "hush" not in str(caught.value)


def test_what_needs_no_pyav_works_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    assert len(frames(open_source(tmp_path, paced=False))) == 1
    with pytest.raises(SettingsError):
        open_source(tmp_path, fps=-1)


# --- the camera's clock -----------------------------------------------------------------------------------


def test_a_frame_that_was_held_up_is_known_to_be_older() -> None:
    clock = StreamClock()
    assert clock.at(100.0, 7.0) == 100.0
    assert clock.at(103.0, 8.0) == pytest.approx(101.0, abs=0.001)
    assert clock.at(103.1, 10.0) == pytest.approx(103.0, abs=0.001)


def test_the_fastest_frame_tells_the_delay() -> None:
    clock = StreamClock()
    for number in range(10):  # kept back by the camera, then sent at once
        arrived = 100.0 + number / 1000
        assert clock.at(arrived, number / 10) == arrived
    assert clock.at(101.0, 1.9) == pytest.approx(101.0, abs=0.01)


def test_the_clock_follows_one_that_drifts_and_one_that_jumps() -> None:
    clock = StreamClock()
    for number in range(0, 100_000, 10):  # a day's fraction, at 100 ppm too slow
        at = clock.at(number, number * (1 - 1e-4))
        assert number - at < 0.01
    assert clock.at(100_001.0, 5.0) == 100_001.0
    assert clock.at(100_002.0, 6.0) == pytest.approx(100_002.0, abs=0.001)
    assert clock.at(100_003.0, None) == 100_003.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-1e6, 1e6) | st.none()), max_size=30))
def test_times_never_decrease_and_lie_in_the_past(steps: list[tuple[float, float | None]]) -> None:
    clock, arrived, last = StreamClock(), 0.0, float("-inf")
    for later, seconds in steps:
        arrived += later
        captured = clock.at(arrived, seconds)
        assert last - 1e-6 <= captured <= arrived + 1e-6
        last = captured
