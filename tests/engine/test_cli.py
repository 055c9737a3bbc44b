from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
import typer

from engine.calibrated import WEIGHTS, a_policy_file
from engine.fake_engine import ORIGINAL, REGION, FakeEngine, jpeg
from secondlook.edge.errors import GeometryError
from secondlook.engine import cli
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.budget import BudgetSettings
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import write_policy
from secondlook.engine.opening import EngineOptions, load_engine, loading_status

SECONDS = 60
CAMERA = (ORIGINAL.width, ORIGINAL.height)


def exit_status(*arguments: str, application: typer.Typer = cli.app) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(application, list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "camera.jpg"
    path.write_bytes(jpeg(*CAMERA))
    return str(path)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr(cli, "load_engine", lambda *_options: fake)
    monkeypatch.setattr(
        cli, "configure_logging", lambda _verbose: None
    )  # the root logger belongs to pytest here
    return fake


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "configure_logging", lambda _verbose: None)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


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

    monkeypatch.setattr(cli, "load_engine", load)
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
    assert "seconds must be a positive, finite number, not 0" in one_line(capsys)


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

    monkeypatch.setattr(cli, "load_engine", load)
    missing = tmp_path / "none.json"
    for command in (["ask", picture, "sure"], ["serve", "--port", "0"]):
        assert exit_status(*command, "--policy", str(missing)) == 1
        assert f"cannot read the policy {missing}: No such file" in one_line(capsys)
    assert exit_status("serve", "--port", "0", "--retransmission-rate", "1.5") == 1
    assert "must be above 0 and below 1, not 1.5" in one_line(capsys)
    both = ("--retransmission-rate", "0.4", "--bytes-per-second", "9")
    assert exit_status("serve", "--port", "0", *both) == 1
    assert "either a retransmission rate or bytes per second" in one_line(capsys)


def test_what_was_chosen_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    import secondlook.engine.engine
    import secondlook.engine.models.checkpoint

    adapter = SimpleNamespace(
        name="demo",
        dtype=torch.float32,
        image_size=100,
        settings=SimpleNamespace(threshold=0.3),
        digest=lambda: WEIGHTS,
    )
    monkeypatch.setattr(secondlook.engine.models.checkpoint, "load_model", lambda *_, **__: adapter)
    monkeypatch.setattr(
        secondlook.engine.engine, "Engine", lambda _adapter, policy, *, cache, budget: (policy, budget)
    )
    calibrated, rate = a_policy_file(0.25, measure="margin"), BudgetSettings(0.4)
    policy, budget = load_engine(EngineOptions(calibrated=calibrated, budget=rate))
    assert policy == calibrated.policy
    assert (budget.settings, budget.threshold) == (rate, 0.25)
    for threshold, start in ((None, 0.3), (0.7, 0.7)):
        policy, budget = load_engine(EngineOptions(threshold=threshold, budget=rate))
        assert policy == (None if threshold is None else Policy(threshold))
        assert budget.threshold == start
    assert load_engine(EngineOptions()) == (None, None)
    with pytest.raises(PolicyFileError):
        load_engine(EngineOptions(calibrated=a_policy_file(weights="another")))


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
    ("module", "extra"), [("torch", "engine"), ("onnxruntime", "export"), ("matplotlib.figure", "bench")]
)
def test_a_missing_package_names_its_extra(
    module: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ModuleNotFoundError(f"No module named '{module}'", name=module)
    assert exit_status(application=failing(missing)) == 1
    assert one_line(capsys).endswith(f"this command needs pip install 'secondlook[{extra}]'\n")


def python(code: str) -> subprocess.Popen[str]:
    """A process that Ctrl-C interrupts, also if the tests run in the background, where shells ignore it."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.mark.parametrize(
    ("model", "terminal", "bars"),
    [("demo", True, False), ("owner/model", True, True), ("owner/model", False, False)],
)
def test_bars_are_for_terminals_and_models_that_take_time(
    model: str, terminal: bool, bars: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import secondlook.engine.engine
    import secondlook.engine.models.checkpoint

    wanted: list[bool] = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(secondlook.engine.engine, "Engine", lambda adapter, _policy, **_more: adapter)
    monkeypatch.setattr(
        secondlook.engine.models.checkpoint, "load_model", lambda *_, progress, **__: wanted.append(progress)
    )
    load_engine(EngineOptions(model))
    assert wanted == [bars]


def test_what_is_written_while_bars_are_drawn_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with loading_status("owner/model") as stop:
        print("a bar", file=sys.stderr)  # noqa: T201  # as tqdm does
        assert terminal.getvalue() == "a bar\n"
        stop()


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
    heavy = ["torch", "transformers", "numpy", "fastapi", "uvicorn"]
    code = f"""
import sys
from secondlook.engine import cli
try:
    cli.run(cli.app, ["serve", "--help"])
except SystemExit as ended:
    print("exit", ended.code, "imported", [name for name in {heavy!r} if name in sys.modules])
"""
    with python(code) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert "exit 0 imported []" in out, out + err
    assert "--session-ttl" in out


def test_serve_answers_until_interrupted() -> None:
    code = """
from engine.fake_engine import FakeEngine
from secondlook.engine import cli
cli.load_engine = lambda *_options: FakeEngine()
cli.run(cli.app, ["serve", "--port", "0"])
"""
    with python(code) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("fake (32x32 pixels) answers on http://127.0.0.1:"), line
        url = line.split()[5]
        form = {"question": "sure", "width": "400", "height": "300"}
        files = {"image": ("a.jpg", jpeg(), "image/jpeg")}
        reply = httpx.post(f"{url}/v1/answers", data=form, files=files, timeout=SECONDS)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert reply.json()["answer"]["text"] == "first to sure"
    assert (process.returncode, out, err) == (0, "", "stopped\n")


def test_an_interrupted_server_finishes_the_question_it_works_on() -> None:
    code = """
import sys
from engine.fake_engine import FakeEngine
from secondlook.engine import cli

class Slow(FakeEngine):
    def round(self):
        if self._jobs:
            print("working", flush=True)
            sys.stdin.readline()
        return super().round()

cli.load_engine = lambda *_options: Slow()
cli.run(cli.app, ["serve", "--port", "0"])
"""
    form = {"question": "sure", "width": "400", "height": "300"}
    files = {"image": ("a.jpg", jpeg(), "image/jpeg")}
    with python(code) as process, ThreadPoolExecutor() as pool:
        assert process.stdout is not None
        url = process.stdout.readline().split()[5]
        asked = pool.submit(httpx.post, f"{url}/v1/answers", data=form, files=files, timeout=SECONDS)
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate("go on\n", timeout=SECONDS)
        assert asked.result(SECONDS).json()["answer"]["text"] == "first to sure"
    assert (process.returncode, out, err) == (0, "", "stopped\n")
