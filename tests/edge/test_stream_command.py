"""`secondlook-edge stream`, on real sources and a real HTTP server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge.site import QUESTION, Site, frames_of, wants
from edge.support import encoded, gradient
from secondlook.edge import FrameReply, cli_stream
from secondlook.edge.cli import app
from secondlook.edge.sources import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "frames"
    path.mkdir()
    for number in range(3):
        (path / f"{number}.jpg").write_bytes(encoded(gradient(120, 90)))
    return path


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is shown in place of the source named; none is passed over."""
    pictures: list[Any] = [gradient(120, 90), gradient(160, 120), gradient(200, 150)]
    monkeypatch.setattr(cli_stream, "open_source", lambda text, **named: open_source(pictures, paced=False))
    return pictures


def run(source: object, site: Site | str, *arguments: object) -> Any:
    address = site if isinstance(site, str) else site.address
    command = ["stream", str(source), QUESTION, "--site", address, "--fps", "1000", *map(str, arguments)]
    return CliRunner().invoke(app, command)


# --- what is told -----------------------------------------------------------------------------------------


def test_every_frame_has_a_line(frames: list[Any], site: Site) -> None:
    entry = {"frame": 0, "by": "cloud", "text": "41", "uncertainty": 0.25, "age": 0.8}
    replies: list[dict[str, Any]] = [
        {"status": "held", "answer": "", "source": "nothing", "deadline_missed": True},
        {"uncertainty": 0.5, "age": 0.0},
        {"answer": "4\n1", "source": "history", "history": entry, "age": 0.8, "uncertainty": 0.9},
    ]
    site.reply = lambda shown: replies[shown.header.frame]
    result = run("camera", site)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "0: -  [nothing, held, late]",
        "1: 75  [picture, 0.0 s old, doubt 0.50]",
        "2: 4 1  [history (cloud, frame 0), 0.8 s old, doubt 0.25]",
    ]
    (summary,) = result.stderr.splitlines()
    assert summary.startswith("3 frames: 0 answered, ")
    assert summary.endswith(f"{site.bytes_in / 1000:.0f} kB up, {site.bytes_out / 1000:.0f} kB down")
    assert site.asked[-1] == "DELETE /v1/streams/0"


def test_every_frame_has_a_line_of_json(frames: list[Any], site: Site) -> None:
    site.reply = lambda shown: {"uncertainty": 0.5, "age": 0.0}
    result = run("camera", site, "--json", "--deadline", 0.25)
    assert result.exit_code == 0
    told = [json.loads(line) for line in result.stdout.splitlines()]
    captured = [one.pop("captured") for one in told]
    assert captured == [shown.header.captured for shown in site.shown]
    usual = {"status": "answered", "answer": "75", "source": "picture", "uncertainty": 0.5, "age": 0.0}
    assert [FrameReply.model_validate(one) for one in told] == [
        FrameReply.model_validate({"frame": number, **usual}) for number in range(3)
    ]
    assert site.options == [{"question": QUESTION, "deadline": 0.25}]


def test_a_folder_is_shown_to_its_end(folder: Path, site: Site) -> None:
    """As a camera: a frame that comes while another is shown may be passed over, but not the last."""
    result = run(folder, site, "--json")
    assert result.exit_code == 0
    told = [json.loads(line)["frame"] for line in result.stdout.splitlines()]
    assert told == list(range(len(told)))
    assert 1 <= len(told) <= 3
    assert site.asked[-1] == "DELETE /v1/streams/0"


@pytest.mark.parametrize(
    ("source", "rate"),
    [
        ("{folder}", 1000.0),
        ("{folder}/*.jpg", 1000.0),
        ("{folder}/[01].jpg", 1000.0),
        ("{folder}/?.jpg", 1000.0),
        ("{folder}/0.jpg", None),
        ("rtsp://camera/*", None),
        ("/dev/video0?video_size=640x480", None),
    ],
)
def test_pictures_have_the_rate_that_is_asked_for(
    source: str, rate: float | None, folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def opened(text: str, **named: Any) -> Any:
        given.append(named)
        return open_source([gradient(120, 90)], paced=False)

    monkeypatch.setattr(cli_stream, "open_source", opened)
    assert run(source.format(folder=folder), site, "--loop").exit_code == 0
    assert [(one["fps"], one["loop"]) for one in given] == [(rate, True)]


@pytest.mark.parametrize(("megabytes", "kept"), [(1, [0]), (0.001, [])])
def test_originals_are_kept_within_the_megabytes(
    megabytes: float, kept: list[int], frames: list[Any], site: Site
) -> None:
    site.reply = lambda shown: wants(0, region=None) if shown.header.frame == 0 else {}
    assert run("camera", site, "--ring-megabytes", megabytes).exit_code == 0
    assert frames_of(site.shown[1].header.details) == kept


# --- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "told"), [(None, "the connection to "), (502, "the server refused the request (502)")]
)
def test_a_site_that_comes_back_is_shown_frames_again(
    failure: int | None, told: str, frames: list[Any], site: Site
) -> None:
    site.reply = lambda shown: failure if shown.header.frame == 1 else {}
    result = run("camera", site)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["0", "2"]
    lost, back, _ = result.stderr.splitlines()
    assert lost.startswith(f"warning: {told}")
    assert lost.endswith("further frames are tried for up to 60 s")
    assert back == "note: the site is back"


@pytest.mark.parametrize(
    ("failure", "code", "told"),
    [
        (None, 3, "the connection to "),
        (500, 4, "the server refused the request (500)"),
        (403, 4, "the server refused the request (403)"),
    ],
)
def test_a_site_that_stays_away_ends_it(
    failure: int | None, code: int, told: str, frames: list[Any], site: Site
) -> None:
    site.reply = lambda shown: {} if shown.header.frame == 0 else failure
    result = run("camera", site, "--wait-budget", 0)
    assert result.exit_code == code
    assert result.stdout.count("\n") == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {told}")
    assert len(site.shown) == 2


def test_a_site_that_was_never_there(frames: list[Any], closed_address: str) -> None:
    result = run("camera", closed_address, "--wait-budget", 0.3)
    assert (result.exit_code, result.stdout) == (3, "")
    waiting, error = result.stderr.splitlines()
    assert waiting.startswith(f"warning: cannot connect to {closed_address}/: ")
    assert error.startswith("error: cannot connect to ")


def test_a_site_that_has_forgotten_the_stream_gets_another(frames: list[Any], site: Site) -> None:
    def reply(shown: Any) -> dict[str, Any]:
        if shown.stream == "0":
            site.forgotten.add("0")
        return {}

    site.reply = reply
    result = run("camera", site)
    assert result.exit_code == 0
    assert [(shown.stream, shown.header.frame) for shown in site.shown] == [("0", 0), ("1", 2)]
    assert result.stderr.splitlines()[0] == "note: the site has forgotten the stream; another is opened"


def test_a_damaged_frame_is_passed_over(frames: list[Any], site: Site) -> None:
    frames[1] = encoded(gradient(400, 300))[:2000]
    result = run("camera", site)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["0", "2"]
    assert result.stderr.startswith("warning: frame 1 of the program's pictures is passed over: ")


def test_a_frame_that_the_site_refuses_is_passed_over(frames: list[Any], site: Site) -> None:
    site.reply = lambda shown: 422 if shown.header.frame == 1 else {}
    result = run("camera", site)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["0", "2"]
    assert result.stderr.startswith("warning: the site refuses frame 1: ")


def test_nothing_but_damage_is_an_error(frames: list[Any], site: Site) -> None:
    frames[:] = [encoded(gradient(400, 300))[:2000]]
    result = run("camera", site)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert site.asked == ["POST /v1/streams", "DELETE /v1/streams/0"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--fps", "0"], 2, "fps must be above 0 and at most 1000, not 0"),
        (["--fps", "nan"], 2, "fps must be above 0 and at most 1000, not nan"),
        (["--ring-megabytes", "0"], 2, "ring-megabytes must be above 0, not 0"),
        (["--ring-megabytes", "inf"], 2, "ring-megabytes must be above 0, not inf"),
        (["--deadline", "0"], 2, "deadline should be greater than 0, not 0"),
        (["--site", "camera:8000"], 2, "must look like http://host:port"),
        (["--timeout", "-1"], 2, "timeout should be greater than 0, not -1.0"),
        (["--header", "none"], 2, "a header must look like"),
        ([], 4, "(404): no stream is opened; streams are a site's (secondlook site), not a plain server's"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    arguments: list[str], code: int, message: str, frames: list[Any], site: Site
) -> None:
    site.refuse_opening = [404]
    result = run("camera", site, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["gone", 5000 * "x"])
def test_a_source_that_is_none(name: str, tmp_path: Path, site: Site) -> None:
    result = run(tmp_path / name, site)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert site.asked == []


def test_an_interruption_ends_the_stream(folder: Path, site: Site) -> None:
    arguments = ["stream", str(folder), QUESTION, "--site", site.address, "--fps", "20", "--loop"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-m", "secondlook.edge", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0: 75  [picture]\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    summary, error = told.splitlines()
    assert " frames: " in summary
    assert error == "error: interrupted"
    assert site.asked[-1] == "DELETE /v1/streams/0"
