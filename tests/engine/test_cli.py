from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from engine.calibrated import a_policy_file
from engine.commands import SECONDS, exit_status, one_line, python
from engine.fake_engine import ORIGINAL, REGION, FakeEngine, jpeg
from engine.serving_harness import SPOKEN
from secondlook.edge.cli import app as edge_app
from secondlook.edge.errors import GeometryError
from secondlook.engine import plugins
from secondlook.engine.cli import ask, kernels, serve
from secondlook.engine.method.policy_file import write_policy
from secondlook.engine.serve.settings import (
    ConnectionLimits,
    KeyLimits,
    ServerSettings,
    SessionLimits,
    TlsFiles,
)

CAMERA = (ORIGINAL.width, ORIGINAL.height)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "camera.jpg"
    path.write_bytes(jpeg(*CAMERA))
    return str(path)


def loads(monkeypatch: pytest.MonkeyPatch, load: Callable[..., FakeEngine]) -> None:
    for command in (ask, serve):
        monkeypatch.setattr(command, "load_engine", load)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (ask, kernels, serve):  # the root logger belongs to pytest here
        monkeypatch.setattr(command, "configure_logging", lambda *_options: None)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, quiet: None) -> FakeEngine:
    fake = FakeEngine()
    loads(monkeypatch, lambda *_options: fake)
    return fake


@pytest.mark.usefixtures("engine")
def test_ask_prints_both_looks(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("ask", picture, "what is it?") == 0
    assert capsys.readouterr().out.splitlines() == [
        "second to what is it?",
        "",
        "first look   'first to what is it?', uncertainty 0.900",
        "region       (100, 50) to (196, 114)",
        "second look  'second to what is it?', uncertainty 0.200",
        "decision     took second",
    ]


@pytest.mark.usefixtures("engine")
def test_ask_prints_json(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("ask", picture, "what?", "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["text"], told["uncertainty"]) == ("second to what?", 0.2)
    assert (told["refined"], told["looked_twice"], told["decision"]) == (True, True, "took_second")
    assert told["first"] == {
        "text": "first to what?",
        "uncertainty": 0.9,
        "tokens": 1,
        "visual_tokens": 4,
        "complete": True,
    }
    assert tuple(told["region"].values()) == REGION.as_tuple()
    assert len(told["bytes_up"]) == 2
    assert min(told["bytes_up"]) > 0
    assert [seconds["decode"] for seconds in told["server_seconds"]] == [0.0, 0.5]


@pytest.mark.usefixtures("engine")
def test_ask_looks_once_where_once_is_enough(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["sure"], ["unsure", "--second-look", "never"]):
        assert exit_status("ask", picture, *arguments, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["looked_twice"], told["second"], told["region"]) == (False, None, None)
        assert len(told["bytes_up"]) == len(told["server_seconds"]) == 1


@pytest.mark.usefixtures("engine")
def test_an_unreadable_picture_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.jpg"
    assert exit_status("ask", str(missing), "why?") == 1
    assert str(missing) in one_line(capsys)
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert exit_status("ask", str(empty), "why?") == 1
    assert "empty" in one_line(capsys)


@pytest.mark.usefixtures("quiet")
def test_a_model_that_does_not_exist_is_one_line(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    for command in (["ask", picture, "why?"], ["serve", "--port", "0"]):
        assert exit_status(*command, "--model", nowhere) == 1
        line = one_line(capsys)
        assert line.startswith("error: ")
        assert nowhere in line


@pytest.mark.usefixtures("quiet")
def test_a_port_in_use_is_one_line_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_options: object) -> FakeEngine:
        pytest.fail("the model was loaded")

    loads(monkeypatch, load)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert exit_status("serve", "--port", str(port)) == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in one_line(capsys)


@pytest.mark.usefixtures("engine")
def test_an_unknown_host_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("serve", "--host", "300.1.1.1") == 1
    assert "300.1.1.1" in one_line(capsys)


@pytest.mark.usefixtures("engine")
def test_impossible_settings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("serve", "--session-ttl", "0") == 1
    assert "seconds should be greater than 0, not 0" in one_line(capsys)
    for text in ("proxy.example", "foo/bar", "10.0.0.1/8", "*"):
        assert exit_status("serve", "--forwarded-allow-ips", f"10.0.0.1,{text}") == 1
        assert one_line(capsys) == (
            f"error: --forwarded-allow-ips (forwarded_allow_ips) has {text!r}, which is neither an address, "
            "such as 10.0.0.1, nor a network, such as 10.0.0.0/8\n"
        )


@pytest.mark.usefixtures("engine")
def test_serve_hands_its_limits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServerSettings] = []
    monkeypatch.setattr(
        "secondlook.engine.serve.app.serve", lambda _load, settings, *_: served.append(settings)
    )
    limits = ["--max-pending", "3", "--max-pending-mb", "5", "--session-ttl", "7", "--queue-size", "2"]
    limits += ["--root-path", "/eyes", "--max-bodies-mb", "4", "--max-connections", "9"]
    limits += ["--header-seconds", "1", "--body-seconds", "2", "--grace-seconds", "3"]
    limits += ["--max-body-mb", "1", "--forwarded-allow-ips", "10.0.0.1, fd00::/8"]
    limits += ["--api-key-file", "keys", "--key-concurrency", "4", "--key-looks-per-minute", "5"]
    limits += ["--key-mb-per-minute", "6", "--cors-origin", "http://a.example", "--cors-origin", "*"]
    limits += ["--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    assert exit_status("serve", "--port", "0", *limits) == 0
    sessions = SessionLimits(max_waiting=3, max_bytes=5 * 2**20, seconds=7.0)
    assert served == [
        ServerSettings(
            queue_size=2,
            max_body_bytes=2**20,
            max_bodies_bytes=4 * 2**20,
            forwarded_allow_ips=("10.0.0.1/32", "fd00::/8"),
            sessions=sessions,
            connections=ConnectionLimits(most=9, header_seconds=1.0, body_seconds=2.0),
            grace_seconds=3.0,
            root_path="/eyes",
            api_key_file=Path("keys"),
            key_limits=KeyLimits(4, 5, 6 * 2**20),
            cors_origins=("http://a.example", "*"),
            tls=TlsFiles(Path("cert.pem"), Path("key.pem")),
        )
    ]


@pytest.mark.usefixtures("engine")
def test_a_policy_has_its_own_threshold(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.json"
    write_policy(a_policy_file(), path)
    for command in (["ask", picture, "sure"], ["serve", "--port", "0"]):
        assert exit_status(*command, "--policy", str(path), "--threshold", "1") == 2
        assert "a policy file has a threshold of its own" in capsys.readouterr().err
    assert exit_status("ask", picture, "sure", "--policy", str(path)) == 0


@pytest.mark.usefixtures("quiet")
def test_a_bad_policy_or_budget_is_one_line_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_options: object) -> FakeEngine:
        pytest.fail("the model was loaded")

    loads(monkeypatch, load)
    missing = tmp_path / "none.json"
    for command in (["ask", picture, "sure"], ["serve", "--port", "0"]):
        assert exit_status(*command, "--policy", str(missing)) == 1
        assert f"cannot read the policy {missing}: No such file" in one_line(capsys)
    assert exit_status("serve", "--port", "0", "--retransmission-rate", "1.5") == 1
    assert "retransmission_rate should be less than 1, not 1.5" in one_line(capsys)
    both = ("--retransmission-rate", "0.4", "--bytes-per-second", "9")
    assert exit_status("serve", "--port", "0", *both) == 1
    assert "either a retransmission rate or bytes per second" in one_line(capsys)


@pytest.mark.parametrize(
    "arguments", [["ask"], ["serve", "--port", "70000"], ["serve", "--queue-size", "0"], ["dance"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def failing(error: BaseException) -> typer.Typer:
    application = typer.Typer(pretty_exceptions_enable=False)

    @application.command()
    def fail() -> None:
        raise error

    return application


def test_run_turns_errors_into_a_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(application=failing(GeometryError("a flat picture"))) == 1
    assert one_line(capsys) == "error: a flat picture\n"
    assert exit_status(application=failing(KeyboardInterrupt())) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "engine"), ("onnxruntime", "export"), ("matplotlib.figure", "bench"), ("av", "bench")],
)
def test_a_missing_package_names_its_extra(
    module: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ModuleNotFoundError(f"No module named '{module}'", name=module)
    assert exit_status(application=failing(missing)) == 1
    assert one_line(capsys).endswith(f"this command needs pip install 'secondlook[{extra}]'\n")


@pytest.mark.usefixtures("quiet")
def test_kernels_says_what_serves_and_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDLOOK_KERNELS", "reference")
    assert exit_status("kernels") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["cpu", "reference", "-"], ["cuda", "reference", "-"]]
    assert all("SECONDLOOK_KERNELS" in line for line in lines)


@pytest.mark.usefixtures("quiet")
def test_kernels_cannot_be_built_without_a_compiler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert exit_status("kernels", "--build", "cpu") == 1
    assert "no C++ compiler (no-such-compiler) was found; install one" in one_line(capsys)


def test_help_needs_no_heavy_import() -> None:
    heavy = ["torch", "transformers", "numpy", "fastapi", "onnx", "matplotlib", "filelock", "jinja2"]
    code = f"""
import sys
from secondlook.engine import cli
try:
    cli.run(cli.command_line(), ["serve", "--help"])
except SystemExit as ended:
    print("exit", ended.code, "imported", [name for name in {heavy!r} if name in sys.modules])
"""
    with python(code) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert "exit 0 imported []" in out, out + err
    assert "--session-ttl" in out
    assert re.findall(r"─ (\w+) ─", out) == [
        "Options",
        "Model",
        "Encoder",
        "Policy",
        "Limits",
        "Network",
        "Keys",
        "Upstream",
    ]


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--version") == 0
    assert capsys.readouterr().out == f"secondlook {version('secondlook')}\n"


def test_the_edges_version_is_said() -> None:
    done = CliRunner().invoke(edge_app, ["--version"])
    assert (done.exit_code, done.output.split()[0]) == (0, "secondlook-edge")


def test_installed_parts_add_commands_and_a_broken_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def add(app: typer.Typer) -> None:
        app.command("wave")(lambda: typer.echo("hello"))

    parts = [
        EntryPoint("broken", "no.such.module:register", plugins.COMMANDS),
        SimpleNamespace(name="more", value="more", load=lambda: add),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: parts if group == plugins.COMMANDS else [])
    assert exit_status("wave") == 0
    told = capsys.readouterr()
    assert told.out == "hello\n"
    assert told.err.startswith("warning: without the commands of no.such.module:register: No module named")
    assert told.err.count("\n") == 1


def test_serve_answers_until_interrupted() -> None:
    code = """
from engine.fake_engine import FakeEngine
from secondlook.engine import cli
from secondlook.engine.cli import serve
serve.load_engine = lambda *_options: FakeEngine()
cli.run(cli.command_line(), ["serve", "--port", "0"])
"""
    with python(code) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("fake answers on http://127.0.0.1:"), line
        url = line.split()[3]
        form = {"question": "sure", "width": "400", "height": "300"}
        files = {"image": ("a.jpg", jpeg(), "image/jpeg")}
        reply = httpx.post(f"{url}/v1/answers", data=form, files=files, headers=SPOKEN, timeout=SECONDS)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert reply.json()["answer"]["text"] == "first to sure"
    assert (process.returncode, out, err) == (0, "", "stopped\n")


def test_an_interrupted_server_finishes_the_question_it_works_on() -> None:
    code = """
import sys
from engine.fake_engine import FakeEngine
from secondlook.engine import cli
from secondlook.engine.cli import serve

class Slow(FakeEngine):
    def round(self):
        if self._jobs:
            print("working", flush=True)
            sys.stdin.readline()
        return super().round()

serve.load_engine = lambda *_options: Slow()
cli.run(cli.command_line(), ["serve", "--port", "0"])
"""
    form = {"question": "sure", "width": "400", "height": "300"}
    files = {"image": ("a.jpg", jpeg(), "image/jpeg")}
    with python(code) as process, ThreadPoolExecutor() as pool:
        assert process.stdout is not None
        url = process.stdout.readline().split()[3]
        asked = pool.submit(
            httpx.post, f"{url}/v1/answers", data=form, files=files, headers=SPOKEN, timeout=SECONDS
        )
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate("go on\n", timeout=SECONDS)
        assert asked.result(SECONDS).json()["answer"]["text"] == "first to sure"
    assert (process.returncode, out, err) == (0, "", "stopped\n")
