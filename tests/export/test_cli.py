"""The commands: export, verify, inspect, and asking through other runtimes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from engine.checkpoints import Variant, write_checkpoint
from export.support import QUICK, asked
from secondlook.benchmarks.signs.asked import asked_pictures
from secondlook.engine import cli
from secondlook.engine.cli import ask, serve
from secondlook.engine.encoders.manifest import read_manifest
from secondlook.engine.plugins import GATE_PICTURES, plugins
from secondlook.export import cli as export_cli

PICTURE = Path(__file__).parents[2] / "docs" / "two-looks.jpg"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ask, serve, export_cli):  # the root logger belongs to pytest here
        monkeypatch.setattr(module, "configure_logging", lambda *_settings: None)


def exit_status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.command_line(), list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert exit_status(*arguments) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1, told.err
    return told.err


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("model"), Variant(seed=3)))


@pytest.fixture(scope="module")
def folder(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its encoder, after a few of the gate's questions."""
    output = tmp_path_factory.mktemp("exported") / "encoder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_cli, "configure_logging", lambda *_settings: None)
        patch.setattr("secondlook.export.gate.GateSettings", lambda **_settings: QUICK)
        assert exit_status("export", "--model", model, "--output", str(output)) == 0
    return output


@pytest.mark.slow
def test_the_embedded_model_passes_the_whole_gate(tmp_path: Path) -> None:
    assert exit_status("export", "--output", str(tmp_path / "encoder")) == 0
    parity = read_manifest(tmp_path / "encoder").parity
    assert parity.questions >= 200
    assert parity.relative_error <= 1e-5
    assert parity.same_answers + parity.within_rounding == parity.answers == 2 * parity.questions
    assert parity.entropy_difference <= 0.02
    assert parity.same_regions >= 0.98 * parity.regions > 0


def test_it_is_verified_and_inspected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("verify", str(folder), "--questions", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["relative_error"] <= 1e-5
    assert exit_status("inspect", str(folder)) == 0
    told = capsys.readouterr().out
    assert "encoder    pixel_values [batch, 3, 84, 84] float32 -> features [batch, " in told
    assert "attention: 2 times" in told


@pytest.mark.parametrize("vision", ["onnx", "openvino", "auto"])
def test_a_question_is_answered_through_it(
    model: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    vision: str,
) -> None:
    monkeypatch.setenv("SECONDLOOK_CACHE", str(tmp_path))
    caplog.set_level(logging.INFO, "secondlook.engine.encoders.fastest")
    question = ("ask", str(PICTURE), "What number is on the red sign?", "--json", "--model", model)
    assert exit_status(*question) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert exit_status(*question, "--vision", vision, "--encoder", str(folder)) == 0
    ours = json.loads(capsys.readouterr().out)
    assert ("a picture takes torch" in caplog.text) == (vision == "auto")
    assert (ours["text"], ours["region"]) == (theirs["text"], theirs["region"])
    assert ours["uncertainty"] == pytest.approx(theirs["uncertainty"], abs=1e-4)


def test_bad_input_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "new")
    assert "is there already" in refusal(capsys, "export", "--output", str(folder))
    assert "opset should be less than or equal to 22, not 23" in refusal(
        capsys, "export", "--output", out, "--opset", "23"
    )
    assert "there is no model 'demoo'" in refusal(capsys, "export", "--output", out, "--model", "demoo")
    assert "is no exported encoder" in refusal(capsys, "verify", str(tmp_path))
    assert "is no exported encoder" in refusal(capsys, "inspect", str(tmp_path))
    picture = (str(PICTURE), "what?")
    assert "needs --encoder" in refusal(capsys, "ask", *picture, "--vision", "onnx")
    assert "add --vision tensorrt" in refusal(capsys, "ask", *picture, "--trust-plan")
    assert "add --vision openvino" in refusal(capsys, "ask", *picture, "--precision", "bfloat16")
    for command in (("ask", *picture), ("serve", "--port", "0"), ("verify", str(folder))):
        assert "--rebuild builds TensorRT plans" in refusal(capsys, *command, "--rebuild")
    assert "is no exported encoder" in refusal(
        capsys, "serve", "--port", "0", "--vision", "onnx", "--encoder", out
    )
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_message_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr(export_cli, "configure_logging", missing)
    told = refusal(capsys, "export", "--output", str(tmp_path / "new"))
    assert "pip install 'secondlook[export]'" in told


def test_the_gates_pictures_are_always_the_same_and_ask_enough() -> None:
    pictures = asked_pictures()
    first, second = next(pictures), next(pictures)
    assert next(asked_pictures()) == first != second
    assert all(len(one.questions) >= 3 for one in (first, second))
    assert not any("description" in question for one in (first, second) for question in one.questions)
    assert next(asked()).questions  # what the other tests ask is of the same kind


def test_tensorrt_on_a_cpu_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ("--vision", "tensorrt", "--encoder", str(folder), "--device", "cpu")
    for rebuild in ((), ("--rebuild",)):
        assert "ensorRT" in refusal(capsys, "ask", str(PICTURE), "what?", *plan, *rebuild)


def test_the_gate_asks_what_an_installed_part_draws(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [one.load() for one in plugins(GATE_PICTURES)] == [asked_pictures]
    monkeypatch.setattr(export_cli, "plugins", lambda _group: [])
    told = refusal(capsys, "export", "--output", str(tmp_path / "new"))
    assert "no entry point secondlook.gate_pictures is installed" in told
