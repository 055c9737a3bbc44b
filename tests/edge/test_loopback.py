"""The client and the command against a real HTTP server on the loopback interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge.loopback import Handler
from edge.support import CARD, encoded, gradient
from secondlook.edge import ClientSettings, ConnectionFailedError, EdgeClient
from secondlook.edge.cli import app

QUESTION = "What number is on the red sign?"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "street.jpg"
    path.write_bytes(encoded(gradient(400, 300)))
    return path


def test_two_looks_over_a_real_connection(address: str, handler: type[Handler], picture: Path) -> None:
    with EdgeClient(address) as client:
        answer = client.ask(picture, QUESTION)
    assert answer.text == "71"
    assert answer.refined
    assert answer.bytes_up == tuple(len(body) for body in handler.bodies)


def test_a_dropped_connection_is_tried_again(address: str, handler: type[Handler], picture: Path) -> None:
    handler.drop[:] = ["/v1/answers", "/v1/answers/abc/local"]
    slept: list[float] = []
    with EdgeClient(address, sleep=slept.append) as client:
        answer = client.ask(picture, QUESTION)
    assert answer.refined
    assert len(slept) == 2
    assert len(handler.bodies) == 4


def test_no_server_is_a_typed_error(closed_address: str, picture: Path) -> None:
    settings = ClientSettings(retries=1)
    with (
        EdgeClient(closed_address, settings=settings, sleep=lambda seconds: None) as client,
        pytest.raises(ConnectionFailedError, match="cannot connect"),
    ):
        client.ask(picture, QUESTION)


# --- the command ------------------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


def test_the_command_prints_the_answer_alone(address: str, picture: Path) -> None:
    result = run(picture, QUESTION, "--server", address)
    assert result.exit_code == 0
    assert result.stdout == "71\n"
    assert result.stderr == ""


def test_the_command_prints_json(address: str, picture: Path) -> None:
    result = run(picture, QUESTION, "--server", address, "--json")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["text"] == "71"


def test_the_command_says_more_when_asked(address: str, picture: Path) -> None:
    result = run(picture, QUESTION, "--server", address, "-v")
    assert result.stdout == "71\n"
    for words in ("first look", "second look", "17", "took_second"):
        assert words in result.stderr


def test_the_command_passes_its_options_on(address: str, handler: type[Handler], picture: Path) -> None:
    options = [
        "--threshold",
        0.25,
        "--look-twice",
        "never",
        "--global-quality",
        5,
        "--global-chroma",
        "4:2:0",
    ]
    result = run(picture, QUESTION, "--server", address, *options)
    assert result.stdout == "17\n"
    assert b'{"threshold":0.25,"second_look":"never"}' in handler.bodies[0]
    small = len(handler.bodies[0])
    run(picture, QUESTION, "--server", address, *options[:4])
    assert small < len(handler.bodies[1])


def test_the_command_saves_the_crop(
    address: str, handler: type[Handler], picture: Path, tmp_path: Path
) -> None:
    crop = tmp_path / "crop.jpg"
    result = run(picture, QUESTION, "--server", address, "--save-crop", crop)
    assert result.exit_code == 0
    assert crop.read_bytes() in handler.bodies[1]


def test_without_a_second_look_no_crop_is_saved(address: str, picture: Path, tmp_path: Path) -> None:
    crop = tmp_path / "crop.jpg"
    result = run(picture, QUESTION, "--server", address, "--look-twice", "never", "--save-crop", crop)
    assert (result.exit_code, result.stdout) == (0, "17\n")
    assert "no second look" in result.stderr
    assert not crop.exists()


def test_an_answer_is_not_lost_when_its_crop_cannot_be_saved(address: str, picture: Path) -> None:
    result = run(picture, QUESTION, "--server", address, "--save-crop", picture / "crop.jpg")
    assert (result.exit_code, result.stdout) == (2, "71\n")
    assert result.stderr.startswith("error: cannot write")


def test_a_failed_second_look_is_noted(address: str, handler: type[Handler], picture: Path) -> None:
    handler.drop[:] = ["/v1/answers/abc/local"] * 2
    result = run(picture, QUESTION, "--server", address, "--retries", 0)
    assert (result.exit_code, result.stdout) == (0, "17\n")
    assert "the first answer stands" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.jpg", QUESTION], 2, "cannot read the picture gone.jpg: No such file or directory"),
        (["{text}", QUESTION], 2, "is not a picture in a known format"),
        (["{picture}", QUESTION, "--max-pixels", "10"], 2, "400x300 = 120000 pixels; the limit is 10"),
        (["{picture}", QUESTION, "--local-quality", "0"], 2, "equal to 1, not 0"),
        (["{picture}", QUESTION, "--timeout", "-1"], 2, "timeout should be greater than 0, not -1.0"),
        (["{picture}", QUESTION, "--threshold", "inf"], 2, "threshold must be a finite number, not inf"),
        (["{picture}", QUESTION, "--server", "server:8000"], 2, "must look like http://host:port"),
        (["{picture}", QUESTION, "--server", "http://server?x=1"], 2, "must look like http://host:port"),
        (["{picture}", QUESTION, "--server", "http://server:99999"], 2, "port that is none"),
        (
            ["{picture}", QUESTION, "--server", "{closed}", "--retries", "0"],
            3,
            "cannot connect to http://127",
        ),
        (["{picture}", "refuse"], 4, "(422): the question is empty; ask something"),
        (["{picture}", QUESTION, "--server", "{address}/other"], 4, "is this a secondlook server"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    address: str,
    closed_address: str,
    handler: type[Handler],
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    monkeypatch.setattr(handler, "do_GET", lambda self: self.reply(200, {} if "other" in self.path else CARD))
    places = {"picture": picture, "text": text, "address": address, "closed": closed_address}
    result = run("--server", address, *(argument.format(**places) for argument in arguments))
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_gives_what_a_gateway_wants(
    address: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ClientSettings] = []
    ask = EdgeClient.ask

    def spy(self: EdgeClient, *arguments: Any, **named: Any) -> Any:
        seen.append(self.settings)
        return ask(self, *arguments, **named)

    monkeypatch.setattr(EdgeClient, "ask", spy)
    monkeypatch.setenv("SECONDLOOK_API_KEY", "hush")
    headers = ["--header", "X-Site: roof: 7", "--header", "X-Team:a"]
    result = run(picture, QUESTION, "--server", address, *headers, "--ca", "mine.pem", "-v")
    assert result.stdout == "71\n"
    assert "hush" not in result.stderr
    assert "roof" not in result.stderr
    assert (seen[0].api_key, seen[0].ca) == ("hush", Path("mine.pem"))
    assert seen[0].headers == {"X-Site": "roof: 7", "X-Team": "a"}
    for wrong in (["--api-key", "hush hush"], ["--header", "hush"], ["--header", "X: h\u00fcsh"]):
        result = run(picture, QUESTION, "--server", address, *wrong)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: ")
        assert "sh" not in result.stderr.replace("should", "")


def test_the_command_waits_for_a_server_and_says_so(closed_address: str, picture: Path) -> None:
    result = run(picture, QUESTION, "--server", closed_address, "--wait-budget", 0.6)
    assert (result.exit_code, result.stdout) == (3, "")
    waiting, error = result.stderr.splitlines()
    assert waiting.startswith(f"warning: cannot connect to {closed_address}/: ")
    assert "asking again in" in waiting
    assert "longer than there is time for" in error


def test_an_interruption_is_clean(address: str, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EdgeClient, "ask", interrupted)
    result = run(picture, QUESTION, "--server", address)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "error: interrupted\n"


def test_the_server_may_come_from_the_environment(address: str, picture: Path) -> None:
    result = CliRunner().invoke(app, ["ask", str(picture), QUESTION], env={"SECONDLOOK_SERVER": address})
    assert result.stdout == "71\n"


# --- in a process of its own ------------------------------------------------------------------------------


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_runs_as_a_module(address: str, picture: Path) -> None:
    result = python("-m", "secondlook.edge", "ask", str(picture), QUESTION, "--server", address)
    assert (result.returncode, result.stdout, result.stderr) == (0, "71\n", "")


def test_the_edge_needs_neither_torch_nor_numpy(address: str, picture: Path) -> None:
    program = f"""
import sys
import secondlook.edge, secondlook.edge.cli, secondlook.edge.wire
with secondlook.edge.EdgeClient({address!r}) as client:
    print(client.ask({str(picture)!r}, "What number?").text)
heavy = {{"torch", "numpy", "transformers", "safetensors", "fastapi"}} & set(sys.modules)
others = {{name for name in sys.modules if name.startswith("secondlook.")}}
print(sorted(heavy), sorted(name for name in others if not name.startswith("secondlook.edge")))
"""
    result = python("-c", program)
    assert (result.stdout, result.stderr) == ("71\n[] []\n", "")


def test_an_error_is_told_to_a_terminal_of_no_width(tmp_path: Path) -> None:
    asked = ["ask", str(tmp_path), QUESTION, "--server", "http://127.0.0.1:9"]
    result = CliRunner().invoke(app, asked, env={"COLUMNS": "0"})
    assert result.exit_code == 2
    assert result.stderr == f"error: cannot read the picture {tmp_path}: Is a directory\n"
