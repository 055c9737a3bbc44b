"""The gate of weights of few bits: it lets them through, and tells what is wrong with another model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.checkpoints import Variant, write_checkpoint
from engine.commands import exit_status, one_line
from export.support import QUICK, asked
from secondlook.benchmarks.signs.asked import asked_pictures
from secondlook.edge.errors import SettingsError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.models.rounding import Quantise
from secondlook.export import cli
from secondlook.export.bits import LIMITS, BitLimits, pass_bits
from secondlook.export.errors import ExportError, GateError
from secondlook.export.gate import GateSettings

_BITS: tuple[Quantise | None, ...] = (None, "int8")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), Variant(seed=3))


@pytest.fixture(scope="module")
def full(folder: Path) -> VisionLanguageModel:
    return load_model(str(folder), device="cpu", dtype="float32")


def test_the_embedded_model_in_8_bits_passes() -> None:
    model, rounded = (load_model("demo", device="cpu", dtype="float32", quantise=each) for each in _BITS)
    found = pass_bits(model, rounded, asked_pictures(), GateSettings(pictures=2, questions=12))
    assert found.questions == found.regions >= 12
    assert found.questions <= found.answers <= 2 * found.questions
    assert 0 < found.doubt <= found.most_doubt
    assert LIMITS[8].regions <= found.overlap <= 1


def test_another_models_weights_do_not(
    folder: Path, full: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_model(str(write_checkpoint(tmp_path / "other", Variant(seed=8))), quantise="int8")
    monkeypatch.setattr("secondlook.export.bits.LIMITS", {8: BitLimits(0.98, -1.0, 0.95)})
    with pytest.raises(GateError) as caught:
        pass_bits(full, other, asked(), QUICK)
    told = {failure.check: failure.message for failure in caught.value.failures}
    assert set(told) == {"answers", "uncertainty", "regions"}
    assert "0 of 6 answers are float32's, fewer than 98%; others such as to 'What is" in told["answers"]
    assert "in common, less than 95%" in told["regions"]
    assert "with int8 weights does not pass the gate" in str(caught.value)


def test_full_precision_and_too_few_questions_are_no_gate(folder: Path, full: VisionLanguageModel) -> None:
    with pytest.raises(SettingsError, match="of full precision: name bits with --quantise"):
        pass_bits(full, full, asked(), QUICK)
    rounded = load_model(str(folder), device="cpu", dtype="float32", quantise="int8")
    with pytest.raises(ExportError, match="there are only 0 questions"):
        pass_bits(full, rounded, iter(()), GateSettings(pictures=1, questions=1))


def test_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "configure_logging", lambda *_settings: None)
    monkeypatch.setattr(cli, "_asked", asked)
    monkeypatch.setattr("secondlook.export.bits.LIMITS", {8: BitLimits(0.5, 0.1, 0.5)})  # it is of noise
    command = ("verify-bits", "--model", str(folder), "--questions", "4", "--device", "cpu")
    assert exit_status(*command, "--quantise", "int8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["questions"] >= 4
    monkeypatch.setattr("secondlook.export.bits.LIMITS", {4: BitLimits(1.1, 0, 1.1)})
    capsys.readouterr()
    assert exit_status(*command, "--quantise", "int4") == 1
    assert "does not pass the gate: answers:" in one_line(capsys)
    assert exit_status(*command) != 0
    assert "--reference" in capsys.readouterr().err
    assert exit_status(*command, "--reference", str(folder)) == 1
    assert "of full precision" in one_line(capsys)
