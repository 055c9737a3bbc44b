"""`secondlook demo-stream`: camera, site and cloud as one command, in the terminal and as a film."""

from __future__ import annotations

import io
import re
from pathlib import Path

import av
import pytest
from PIL import Image
from rich.console import Console
from rich.live import Live

from limits import files_of_at_most
from secondlook.benchmarks.streams.demo import _Seen, _Terminal, lengths, run_demo_stream
from secondlook.benchmarks.streams.film import PICTURE, Shot, film
from secondlook.benchmarks.streams.scenes import FPS, sample_stream
from secondlook.edge.errors import WriteError
from secondlook.edge.wire_stream import FrameReply, StreamEvent

REPLY = FrameReply(frame=0, status="answered", answer="75", source="picture", uncertainty=0.25, age=0.0)


def shot(number: int) -> Shot:
    return Shot(
        Image.new("RGB", (PICTURE.width, PICTURE.height), (9 * number, 0, 0)),
        "What number is it?",
        "75",
        REPLY,
    )


def count(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_second_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo_stream(tmp_path, 7, 1.0, 0.0, "demo", "demo")
    told = capsys.readouterr().out
    assert re.search(r"^right: \d of 5 frames", told, re.MULTILINE)
    assert [line.split()[0] for line in told.splitlines()[1:6]] == ["0", "1", "2", "3", "4"]
    assert told.endswith(f"film: {tmp_path / 'stream.mp4'}\n")
    assert count(tmp_path / "stream.mp4") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["stream.mp4"]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(60, [20, 20, 20]), (25, [20, 5]), (20, [20]), (1, [1]), (40.05, [20, 20])]
)
def test_the_streams_last_as_long_as_is_asked_for(seconds: float, expected: list[float]) -> None:
    assert lengths(seconds) == expected


@pytest.mark.parametrize(
    ("width", "height", "first"), [(60, 24, 13), (80, 24, 13), (120, 24, 13), (80, 10, 19)]
)
def test_a_frame_is_a_line_of_the_terminal(width: int, height: int, first: int) -> None:
    stream = sample_stream("test", 7, 0, 5.0)
    event = StreamEvent(kind="cloud", frame=0, text="75 and more", counts=False)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    with Live(console=console, auto_refresh=False) as live:
        show = _Terminal(console, live)
        for number in range(round(5 * FPS)):
            show(_Seen(stream, number, REPLY, (event,)))
        console.file = drawn = io.StringIO()
        live.refresh()
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue()).splitlines()
    assert len(lines) <= height
    assert [line.split()[0] for line in lines if re.match(r" *\d+ +75 ", line)] == list(
        map(str, range(first, 25))
    )


# --- the film ---------------------------------------------------------------------------------------------


def test_a_film_has_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "new" / "stream.mp4"
    with film(path, 5, 7) as drawn:
        sheets = [drawn.add(shot(number)) for number in range(7)]
        assert not path.exists()
    assert count(path) == 7
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 5
        assert (container.streams.video[0].width, container.streams.video[0].height) == sheets[0].size


def draw(path: Path, error: type[BaseException] | None = None) -> None:
    with film(path, 5, 9) as drawn:
        for number in range(9):
            drawn.add(shot(number))
        if error is not None:
            raise error


def test_a_film_that_is_broken_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "stream.mp4"
    path.write_bytes(b"the one before")
    with pytest.raises(KeyboardInterrupt):
        draw(path, KeyboardInterrupt)
    assert path.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_film_that_finds_no_room_is_told(tmp_path: Path) -> None:
    with (
        files_of_at_most(1000),
        pytest.raises(WriteError, match=r"cannot write .*/stream\.mp4: File too large"),
    ):
        draw(tmp_path / "stream.mp4")
    assert not list(tmp_path.iterdir())
