"""The commands `secondlook site` and `secondlook stream`."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.commands import SECONDS, exit_status, one_line, python
from engine.fake_engine import ORIGINAL, FakeEngine, jpeg
from engine.serving_harness import SPOKEN
from secondlook.edge.wire_stream import FrameReply, StreamCard, StreamEvent
from secondlook.engine.cli import site, stream
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.stream.rules import Belief
from secondlook.engine.stream.service import StreamSettings
from secondlook.engine.stream.state import Method


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that commands load, all fakes."""
    names = list[str]()

    def load(options: Any) -> FakeEngine:
        names.append(options.model)
        return FakeEngine()

    for command in (site, stream):
        monkeypatch.setattr(command, "load_engine", load)
        monkeypatch.setattr(command, "configure_logging", lambda *_options: None)
    return names


@pytest.fixture
def shots(tmp_path: Path) -> str:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(ORIGINAL.width, ORIGINAL.height))
    return str(tmp_path)


@pytest.mark.usefixtures("loaded")
def test_site_hands_its_choices_on(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(
        "secondlook.engine.serve.app.serve",
        lambda _load, settings, _listener, _ready, extend, _metrics: served.append((settings, extend)),
    )
    made: list[tuple[StreamSettings, Any]] = []
    monkeypatch.setattr(
        "secondlook.engine.serve.stream_routes.streaming",
        lambda settings, cloud: made.append((settings, cloud)) or "extension",
    )
    choices = ["--cloud", "https://cloud.example/eyes", "--key-frames", "every:0.5", "--cloud-in-flight", "3"]
    choices += ["--history-seconds", "7", "--focus", "crop", "--deadline", "0.3", "--context", "off"]
    choices += ["--sure", "0.4", "--change", "0.5", "--max-streams", "2"]
    choices += ["--idle-seconds", "9", "--api-key", "key", "--header", "x-team: eyes", "--queue-size", "5"]
    assert exit_status("site", "--port", "0", *choices) == 0
    assert served == [(ServerSettings(queue_size=5), "extension")]
    [(settings, cloud)] = made
    method = Method(
        sure=0.4,
        rule=Belief(change=0.5),
        key_frames=KeyFrames("every", 0.5),
        in_flight=3,
        history_seconds=7.0,
        focus="crop",
    )
    assert settings == StreamSettings(method, False, deadline=0.3, idle_seconds=9.0, max_streams=2)
    assert cloud.url == "https://cloud.example/eyes"
    client = cloud._client.settings
    assert (client.api_key, client.headers, client.timeout) == ("key", {"x-team": "eyes"}, 7.0)
    assert exit_status("site", "--port", "0") == 0
    assert made[1] == (StreamSettings(), None)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--key-frames", "often"], "key frames are doubt, busy or every:SECONDS (above 0), not 'often'"),
        (["--history-seconds", "0"], "history_seconds should be greater than 0, not 0"),
        (["--deadline", "0"], "deadline should be greater than 0, not 0"),
        (["--sure", "-1"], "sure should be greater than or equal to 0, not -1"),
        (["--cloud", "ftp://cloud"], "ftp"),
        (["--cloud", "http://cloud", "--header", "secret"], "one given has no colon"),
        (["--host", "300.1.1.1"], "300.1.1.1"),
    ],
)
def test_impossible_choices_are_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("site", "--port", "0", *arguments) == 1
    line = one_line(capsys)
    assert told in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["site", "--focus", "still"],
        ["site", "--cloud-in-flight", "0"],
        ["site", "--threshold", "1"],
        ["site", "--ca", "ours.pem"],
        ["site", "--header", "x-team: eyes"],
        ["stream", "shots"],
        ["stream", "shots", "what?", "--delay", "-1"],
        ["stream", "shots", "what?", "--fps", "0"],
        ["stream", "shots", "what?", "--cloud", "http://cloud"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_needs_no_heavy_import() -> None:
    heavy = ["torch", "transformers", "numpy", "fastapi", "av"]
    code = f"""
import sys
from secondlook.engine import cli
for command in ("site", "stream"):
    try:
        cli.run(cli.command_line(), [command, "--help"])
    except SystemExit as ended:
        print("exit", ended.code, "imported", [name for name in {heavy!r} if name in sys.modules])
"""
    with python(code) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert out.count("exit 0 imported []") == 2, out + err
    assert "--key-frames" in out
    site_panels = ["Options", "Model", "Encoder", "Streams", "Cloud", "Limits", "Network", "Keys"]
    panels = re.findall(r"─ (\w+) ─", out)
    assert panels[: len(site_panels)] == site_panels
    assert panels[len(site_panels) :] == ["Arguments", "Options", "Streams", "Cloud", "Model"]


def test_stream_prints_a_line_a_frame(
    loaded: list[str], shots: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("stream", shots, "unsure", "--fps", "20", "--deadline", "30", "--sure", "1") == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[0] == "0: first to unsure  [picture, 0.0 s old, doubt 0.10]"
    assert f"{len(lines)} frames: {len(lines)} answered" in told.err
    assert loaded == ["demo"]


def test_stream_prints_json_and_asks_the_cloud(
    loaded: list[str], shots: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--small", "one", "--large", "two", "--key-frames", "busy"]
    assert exit_status("stream", shots, "sure", "--fps", "5", "--deadline", "30", "--json", *models) == 0
    told = capsys.readouterr()
    replies = [json.loads(line) for line in told.out.splitlines()]
    assert all(reply["status"] == "answered" and "captured" in reply for reply in replies)
    assert "calls of the cloud" in told.err
    assert loaded == ["one", "two"]


@pytest.mark.usefixtures("loaded")
def test_a_source_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("stream", str(tmp_path / "none"), "why?") == 1
    assert "none" in one_line(capsys)


def test_a_question_that_the_model_refuses_is_one_line(
    loaded: list[str], shots: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("stream", shots, "endless") == 1
    assert "does not fit the context" in one_line(capsys)


def test_an_interrupted_stream_is_summed_up(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(ORIGINAL.width, ORIGINAL.height))
    code = f"""
from engine.fake_engine import FakeEngine
from secondlook.engine import cli
from secondlook.engine.cli import stream
stream.load_engine = lambda *_options: FakeEngine()
arguments = ["stream", {str(tmp_path)!r}, "unsure", "--large", "demo", "--deadline", "30"]
cli.run(cli.command_line(), arguments)
"""
    with python(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("0: first to unsure")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert re.fullmatch(r"\d+ frames: .* late; \d+ calls of the cloud, \d+ counted\n", err)


def test_a_site_takes_streams_until_interrupted() -> None:
    code = """
from engine.fake_engine import FakeEngine
from secondlook.engine import cli
from secondlook.engine.cli import site
site.load_engine = lambda *_options: FakeEngine()
cli.run(cli.command_line(), ["site", "--port", "0", "--deadline", "30"])
"""
    with python(code) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(
            r"fake answers on http://127.0.0.1:\d+ and takes streams \(Ctrl-C ends it\)\n", line
        )
        with httpx.Client(base_url=line.split()[3], headers=SPOKEN, timeout=SECONDS) as client:
            card = StreamCard.read(client.post("/v1/streams", json={"question": "unsure"}).content)
            header = {"frame": 0, "captured": 0, "width": ORIGINAL.width, "height": ORIGINAL.height}
            files = {"image": ("a.jpg", jpeg(), "image/jpeg")}
            reply = client.post(
                f"/v1/streams/{card.id}/frames", data={"frame": json.dumps(header)}, files=files
            )
            with client.stream("GET", f"/v1/streams/{card.id}/events") as events:
                process.send_signal(signal.SIGINT)
                last = StreamEvent.model_validate_json(list(events.iter_lines())[-1])
        out, err = process.communicate(timeout=SECONDS)
    assert FrameReply.read(reply.content).answer == "first to unsure"
    assert last == StreamEvent(kind="ended", frame=0, reason="the server is shutting down")
    assert (process.returncode, out, err) == (0, "", "stopped\n")
