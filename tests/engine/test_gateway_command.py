"""The command `secondlook gateway`, and what it loads."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from edge.cameras import PASSWORD, USER
from edge.rtsp import rtsp_camera
from edge.snapshot_camera import snapshot_camera
from engine.commands import SECONDS, exit_status, one_line, python
from engine.fake_engine import FakeEngine
from engine.gatewaying import ask, gateway, sight
from engine.serving_harness import assert_error, listening
from secondlook.engine.cli import gateway as command
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ConnectionLimits, GatewaySettings

SERVER = "http://127.0.0.1:9"
# What a test has loaded stays loaded, so each runs in a process of its own, where what is heavy is not there.
WITHOUT = "torch", "transformers", "tokenizers", "numpy", "av"
RUN = """
import sys
for name in {without}:
    sys.modules[name] = None
from secondlook.engine import cli
cli.run(cli.command_line(), {arguments})
"""


@contextmanager
def started(*arguments: str) -> Iterator[tuple[Popen[str], str]]:
    """The command without anything heavy, and what it says first."""
    process = python(RUN.format(without=WITHOUT, arguments=["gateway", *arguments, "--port", "0"]))
    assert process.stdout is not None
    with process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def address(said: str) -> str:
    return said.split()[6].rstrip(";")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_without_torch_until_it_is_stopped(stop: signal.Signals) -> None:
    with (
        listening(create_app(FakeEngine())) as server,
        snapshot_camera(sight) as camera,
        started(f"http://{USER}:{PASSWORD}@{camera.address}", "--server", server, "-v") as (process, said),
    ):
        begins = f"http://{camera.address} can be asked about on http://127.0.0.1:"
        assert said.startswith(begins), said
        assert said.endswith(f"; {server} answers (Ctrl-C ends it)\n")
        with httpx.Client(base_url=address(said), timeout=SECONDS) as client:
            told = ask(client, "unsure").json()
            assert told["looked_twice"]
            assert client.get("/readyz").json()["status"] == "ready"
        process.send_signal(stop)
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == (0 if stop is signal.SIGINT else -stop)
        assert out == ""
        assert err.endswith("stopped\n") == (stop is signal.SIGINT)
        assert PASSWORD not in err + said
        assert "POST /v1/ask: 200" in err


def test_a_question_in_progress_is_answered_before_it_ends() -> None:
    with (
        listening(create_app(FakeEngine())) as server,
        snapshot_camera(sight) as camera,
        started(f"http://{camera.address}", "--server", server) as (process, said),
        httpx.Client(base_url=address(said), timeout=SECONDS) as client,
        ThreadPoolExecutor() as pool,
    ):
        camera.faults = ["waits"]
        asking = pool.submit(ask, client, "unsure")
        assert camera.waiting.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        while httpx.post(f"{address(said)}/v1/ask", json={"question": "sure"}).status_code != 503:
            pass  # it has not heard the signal yet
        camera.go_on.set()
        assert asking.result(SECONDS).json()["looked_twice"]
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0


def test_a_camera_that_is_silent_does_not_keep_it() -> None:
    with (
        snapshot_camera(sight) as camera,
        started(f"http://{camera.address}", "--server", SERVER, "--grace-seconds", "0.1") as (process, said),
        ThreadPoolExecutor() as pool,
    ):
        camera.faults = ["waits"]
        asking = pool.submit(httpx.get, f"{address(said)}/image.jpg", timeout=SECONDS)
        assert camera.waiting.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0
        assert_error(asking.result(SECONDS), 503, "shutting_down")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gopher://camera/x", "--server", SERVER], "there are no sources of gopher://"),
        (["http://", "--server", SERVER], "the camera's address is malformed"),
        (["http://camera/x", "--server", "ftp://x"], "the server's address must look like"),
        (["http://camera/x", "--server", SERVER, "--crops", "camera"], "the camera's address is malformed"),
        (["http://camera/x", "--server", SERVER, "--hold-seconds", "0"], "seconds should be greater than 0"),
        (["http://camera/x", "--server", SERVER, "--header", "x"], "must look like 'Name: value'"),
        (["http://camera/x", "--server", SERVER, "--host", "300.1.1.1"], "cannot listen on"),
        (
            ["http://camera/x", "--server", SERVER, "--allowed-host", "a.example:80"],
            "which is no host's name",
        ),
        (["http://camera/x", "--server", SERVER, "--api-key-file", "nowhere"], "the keys of nowhere cannot"),
        (["nowhere.jpg", "--server", SERVER], "there is no file like|there is no nowhere.jpg"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "configure_logging", lambda *_options: None)
    assert exit_status("gateway", *arguments) == 1
    assert re.search(told, one_line(capsys))


def test_its_options_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "configure_logging", lambda *_options: None)
    served = list[object]()
    monkeypatch.setattr(
        "secondlook.engine.serve.gateway.serve_gateway",
        lambda _gateway, settings, *_: served.append(settings),
    )
    options = ["--max-connections", "7", "--grace-seconds", "3", "--port", "0", "--host", "localhost"]
    options += ["--api-key-file", "keys", "--allowed-host", "Eyes.example", "--allowed-host", "*"]
    assert exit_status("gateway", "http://camera/x", "--server", SERVER, *options) == 0
    assert served == [
        GatewaySettings(
            connections=ConnectionLimits(most=7),
            grace_seconds=3.0,
            api_key_file=Path("keys"),
            allowed_hosts=("localhost", "eyes.example", "*"),
        )
    ]


@pytest.mark.slow
@pytest.mark.needs_rtsp
def test_a_camera_of_rtsp_dies_and_comes_back() -> None:
    with listening(create_app(FakeEngine())) as server, ExitStack() as closing:
        with rtsp_camera(640, 480, 25) as port:
            client = closing.enter_context(gateway(f"rtsp://127.0.0.1:{port}/camera", server))
            told = ask(client, "unsure").json()
            assert told["looked_twice"]
            assert told["original"] == {"width": 640, "height": 480}
            cut = client.get("/image.jpg", params={"frame": told["frame"], "crop": "16x32x64x48"})
            assert cut.headers["x-crop-applied"] == "16x32x64x48"
            first = client.get("/image.jpg").headers["x-frame"]
            assert client.get("/image.jpg").headers["x-frame"] != first
            assert client.get("/readyz").json()["camera"] == "reachable"
        while (lost := ask(client, "unsure")).status_code == 200:
            pass  # what was seen last is new enough for some seconds
        assert_error(lost, 503, "camera_failed")
        with rtsp_camera(640, 480, 25, port=port):
            while ask(client, "unsure").status_code != 200:
                pass  # it is tried again with growing pauses
