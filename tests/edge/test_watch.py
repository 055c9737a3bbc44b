"""`secondlook-edge watch`: which frames are asked about, what is told of them, and how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from edge.cameras import mjpeg_camera
from edge.loopback import Handler
from edge.support import encoded, gradient
from secondlook.edge import ClientSettings, EdgeClient, Frame, Source, SourceError, open_picture, open_source
from secondlook.edge.cli import app

QUESTION = "What number is on the red sign?"
GIVEN = "secondlook.edge.cli_watch.open_source"
"""What the command opens its source with."""


def run(source: object, *options: object) -> Any:
    return CliRunner().invoke(app, ["watch", str(source), QUESTION, *map(str, options)])


def lines(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def every_frame(monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """What the command watches, each in turn, whatever it is given."""
    pictures: list[Image.Image] = []
    monkeypatch.setattr(GIVEN, lambda *_, **__: open_source(pictures, fps=10, paced=False))
    return pictures


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the command wanted to wait between questions; it does not."""
    found: list[float] = []
    monkeypatch.setattr("secondlook.edge.cli_watch.time.sleep", found.append)
    monkeypatch.setattr("secondlook.edge.cli_watch.random.random", lambda: 0.0)
    return found


def test_a_line_of_json_for_each_answer(address: str, handler: type[Handler], tmp_path: Path) -> None:
    for number in range(5):
        gradient(400, 300).save(tmp_path / f"{number}.jpg")
    result = run(tmp_path, "--server", address, "--fps", 100)
    assert (result.exit_code, result.stderr) == (0, "")
    found = lines(result)
    assert [one["frame"] for one in found] == sorted({one["frame"] for one in found})
    assert found[-1]["frame"] == 4
    for one in found:
        assert (one["text"], one["uncertainty"], one["decision"]) == ("71", 0.25, "took_second")
        assert one["region"] == {"left": 100, "top": 50, "right": 300, "bottom": 150}
        assert (one["refined"], one["second_look_failed"], one["deadline_missed"]) == (True, None, False)
        assert len(one["bytes_up"]) == len(one["bytes_down"]) == len(one["pixels"]) == 2
        assert one["age"] >= one["seconds"]["total"]
        assert one["time"].endswith("+00:00")
    assert sum(sum(one["bytes_up"]) for one in found) == sum(map(len, handler.bodies))


def test_the_newest_frame_is_asked_and_the_one_asked_is_kept(
    address: str, handler: type[Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, passed = threading.Event(), threading.Event()

    def pictures() -> Iterator[Image.Image]:
        yield gradient(400, 300)
        asked.wait()
        for colour in ("red", "green", "blue"):
            yield Image.new("RGB", (400, 300), colour)
        passed.set()

    def post(self: Handler) -> None:
        asked.set()
        passed.wait()  # newer frames come while the first look is answered
        answered(self)

    answered = Handler.do_POST
    monkeypatch.setattr(handler, "do_POST", post)
    monkeypatch.setattr(GIVEN, lambda *_, **__: open_source(pictures()))
    result = run("camera", "--server", address)
    assert [one["frame"] for one in lines(result)] == [0, 3]
    crops = [Image.open(io.BytesIO(body[body.index(b"\xff\xd8\xff") :])) for body in handler.bodies[1::2]]
    assert crops[0].getpixel((48, 48)) == pytest.approx(gradient(400, 300).getpixel((200, 100)), abs=6)
    assert crops[1].getpixel((48, 48)) == pytest.approx((0, 0, 255), abs=6)


def test_only_pictures_that_changed_are_asked_about(address: str, every_frame: list[Image.Image]) -> None:
    grey, dot, part = (Image.new("RGB", (640, 360), 3 * (100,)) for _ in range(3))
    dot.paste("white", (300, 100, 303, 103))  # less than a hundredth of a cell's light
    part.paste("white", (300, 100, 340, 140))
    every_frame += [grey, grey, dot, part, part, grey, grey.resize((320, 180)), Image.new("RGB", (90, 90))]
    for fraction, asked in ((0.2, [0, 3, 5, 7]), (1, [0]), (0, [0, 2, 3, 5, 7])):
        result = run("camera", "--server", address, "--on-change", fraction)
        assert [one["frame"] for one in lines(result)] == asked
    assert len(lines(run("camera", "--server", address))) == 8


def test_a_question_that_fails_does_not_end_the_watch(
    address: str, handler: type[Handler], every_frame: list[Image.Image], slept: list[float]
) -> None:
    every_frame += [gradient(400, 300)] * 4 + [Image.new("RGB", (400, 300))]
    handler.drop[:] = ["/v1/answers"] * 2 + ["/v1/answers/abc/local"] * 2  # which is asked again, once
    result = run("camera", "--server", address, "--on-change", 0.1)
    assert (result.exit_code, result.stderr) == (0, "")
    found = lines(result)
    assert [one["frame"] for one in found] == [0, 1, 2, 4]
    assert [one.get("text") for one in found] == [None, None, "17", "71"]
    assert "was lost" in found[0]["error"]
    assert found[0]["error"].endswith("(tried once)")
    assert "was lost" in found[2]["second_look_failed"]
    assert slept[1] == pytest.approx(0.25, abs=0.25)
    assert slept[2] == pytest.approx(0.5, abs=0.5)
    assert len(handler.bodies) == 8


def test_an_error_with_a_name_that_is_no_unicode_is_json_too(address: str, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"shot\xff.jpg")).write_bytes(encoded(gradient(400, 300))[:2000])
    result = run(tmp_path, "--server", address)
    assert result.exit_code == 0
    (found,) = lines(result)
    assert "shot\udcff.jpg is damaged" in found["error"]
    assert "\\udcff" in result.stdout


def test_a_server_that_is_away_is_told_of_every_frame(
    closed_address: str, every_frame: list[Image.Image], slept: list[float]
) -> None:
    every_frame += [gradient(400, 300)] * 3
    result = run("camera", "--server", closed_address)
    assert (result.exit_code, result.stderr) == (0, "")
    assert ["cannot connect to" in one["error"] for one in lines(result)] == [True] * 3


def test_the_least_time_between_questions(
    address: str, every_frame: list[Image.Image], slept: list[float]
) -> None:
    every_frame += [gradient(400, 300)] * 3
    run("camera", "--server", address, "--every", 1000)
    assert slept[0] == 0
    assert all(900 < seconds <= 1000 for seconds in slept[1:4])


class Late(Source):
    """A frame that is a hundred seconds old, and one of now."""

    def newest(self, timeout: float | None = None) -> Frame | None:
        number = self._number = getattr(self, "_number", -1) + 1
        ages = (100, 0)
        if number == len(ages):
            return None
        return Frame(number, time.monotonic() - ages[number], open_picture(gradient(400, 300)))

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(("deadline", "missed"), [(50, [True, False]), (None, [False, False])])
def test_an_answer_after_the_deadline_is_marked(
    address: str, deadline: int | None, missed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ClientSettings] = []
    ask = EdgeClient.ask

    def spy(self: EdgeClient, *arguments: Any, **named: Any) -> Any:
        seen.append(self.settings)
        return ask(self, *arguments, **named)

    monkeypatch.setattr(EdgeClient, "ask", spy)
    monkeypatch.setattr(GIVEN, lambda *_, **__: Late("camera"))
    result = run("camera", "--server", address, *(() if deadline is None else ("--deadline", deadline)))
    assert [one["deadline_missed"] for one in lines(result)] == missed
    assert [settings.timeout for settings in seen] == [deadline or 60, deadline or 60]


def test_a_source_that_breaks_off_ends_the_watch(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pictures() -> Iterable[Image.Image]:
        yield gradient(400, 300)
        raise SourceError("camera has broken off: unplugged")

    monkeypatch.setattr(GIVEN, lambda *_, **__: open_source(pictures(), paced=False))
    result = run("camera", "--server", address)
    assert (result.exit_code, result.stderr) == (2, "error: camera has broken off: unplugged\n")
    assert len(lines(result)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/gone"], "there is no {tmp}/gone; a source is rtsp"),
        (["{tmp}"], "the folder {tmp} holds no pictures"),
        (["http://zoe7:s3cret@127.0.0.1:9/"], "cannot connect to http://127.0.0.1:9/: "),
        (["{tmp}", "--fps", "0"], "fps must be above 0 and at most 1000, not 0.0"),
        (["{tmp}", "--deadline", "0"], "the deadline must be above 0 seconds, not 0.0"),
        (["{tmp}", "--every", "inf"], "--every must be a finite number of seconds, not inf"),
        (["{tmp}", "--threshold", "inf"], "the threshold must be a finite number, not inf"),
        (["{tmp}", "--server", "server"], "must look like http://host:port, not 'server'"),
        (["http://127.0.0.1:9/", "--loop"], "a live camera can neither be looped"),
    ],
)
def test_errors_are_one_line_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    source, *options = (one.format(tmp=tmp_path) for one in arguments)
    result = run(source, "--server", "http://127.0.0.1:9", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message.format(tmp=tmp_path) in result.stderr
    assert result.stderr.count("\n") == 1
    assert "s3cret" not in result.stderr


def test_an_empty_question_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["watch", str(tmp_path), " ", "--server", "http://127.0.0.1:9"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: the question is empty; ask something about the picture\n",
    )


def test_an_interruption_ends_it_cleanly(address: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with mjpeg_camera() as camera:
        camera.show(encoded(gradient(400, 300)))
        command = [
            "-m",
            "secondlook.edge",
            "watch",
            f"http://{camera.address}",
            QUESTION,
            "--server",
            address,
        ]
        with subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watching:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["text"] == "71"
            watching.send_signal(signal.SIGINT)
            told, errors = watching.communicate()
    assert (watching.returncode, told, errors) == (130, "", "")
