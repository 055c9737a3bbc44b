"""`secondlook calibrate` and `secondlook bench budget`, from the command line to an engine that serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.samples import a_look, a_record
from engine.checkpoints import Variant, write_checkpoint
from secondlook.benchmarks.run_log import RunHeader, write_log
from secondlook.engine.cli import command_line, run
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import read_policy
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.opening import EngineOptions, load_engine

SETTINGS = {
    "data": {"name": "made up"},
    "model": {"weights": "aa", "dtype": "float32"},
    "jpeg": {"global": {"quality": 90}, "local": {"quality": 90}},
}


def a_log(path: Path, weights: str = "aa") -> Path:
    """A hundred questions of doubts 0.01, 0.02, …; the more doubtful half is wrong at first."""
    records = [
        a_record(i, a_look(float(i < 50), [(i + 1) / 100], sent=100), a_look(1.0, [0.0], sent=60))
        for i in range(100)
    ]
    settings = {**SETTINGS, "model": {"weights": weights, "dtype": "float32"}}
    write_log(path, RunHeader(settings, {"model": "made up"}), [[record] for record in records])
    return path


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), list(map(str, arguments)))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_threshold_is_chosen_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, output = a_log(tmp_path / "log.jsonl"), tmp_path / "policy.json"
    assert status("calibrate", log, "--retransmission-rate", 0.3, "--output", output) == 0
    told = capsys.readouterr().out
    found = read_policy(output)
    assert found.policy == Policy(0.71)
    assert found.target.value == found.expected["retransmission_rate"].value == 0.3
    assert found.expected["accuracy"].value == pytest.approx(0.8)
    assert found.expected["bytes"].value == pytest.approx(118.0)
    assert (found.wrong_unrefined.unrefined, found.wrong_unrefined.wrong) == (70, 20)
    on = found.calibrated_on
    assert (on.model, on.weights, on.dtype) == ("made up", "aa", "float32")
    assert (on.pictures, on.questions, on.data) == (100, 100, {"name": "made up"})
    assert "calibrated on 100 questions about 100 pictures (made up), asked of made up in float32" in told
    assert "20 of 70 here" in told
    assert told.endswith(f"wrote {output}\n")


def test_of_several_questions_about_a_picture_the_bound_counts_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = a_log(tmp_path / "log")
    counted = []
    for _ in range(2):
        assert status("calibrate", log, "--bytes", 120, "--output", tmp_path / "policy.json") == 0
        text = log.read_text(encoding="utf-8")
        several = '"index":1,' not in text
        assert (", one question a picture," in capsys.readouterr().out) is several
        counted.append(read_policy(tmp_path / "policy.json").wrong_unrefined.unrefined)
        log.write_text(text.replace('"index":1,', '"index":0,'), encoding="utf-8")
    assert counted[1] == counted[0] - 1


def test_how_doubt_is_measured_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "policy.json"
    options = ("--measure", "margin", "--aggregation", "first_k", "--first-k", 2, "--decide-after", 3)
    switches = ("--no-include-eos", "--no-arbitration", "--accuracy", 0.7, "--confidence", 0.9)
    assert status("calibrate", a_log(tmp_path / "log"), "--output", output, *options, *switches) == 0
    found = read_policy(output)
    assert found.policy == Policy(found.threshold, "margin", "first_k", 2, False, False, 3)
    assert (found.target.kind, found.confidence) == ("accuracy", 0.9)
    assert found.expected["accuracy"].value >= 0.7


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "exactly one of"),
        (("--bytes", 9, "--accuracy", 0.5), 2, "exactly one of"),
        (("--accuracy", "nan"), 2, "a target is a finite number, not nan"),
        (("--accuracy", 1.5), 1, "accuracy must be from 0 to 1, not 1.5"),
        (("--bytes", 90), 1, "the global images alone take 100 bytes a question"),
    ],
)
def test_wrong_targets_are_told(
    options: tuple[object, ...], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "policy.json"
    assert status("calibrate", a_log(tmp_path / "log"), "--output", output, *options) == code
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_wrong_logs_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = (a_log(tmp_path / "a"), a_log(tmp_path / "b", weights="bb"))
    assert status("calibrate", *logs, "--bytes", 120, "--output", tmp_path / "policy.json") == 1
    assert "are logs of different runs, which are never mixed" in capsys.readouterr().err
    headless = tmp_path / "headless"
    write_log(headless, RunHeader({"data": {}}), [[a_record(second=a_look())]])
    assert status("calibrate", headless, "--accuracy", 0, "--output", tmp_path / "policy.json") == 1
    assert "the log's header does not say what was asked: 'model' is missing" in capsys.readouterr().err


def test_the_budget_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "budget.json"
    options = ("--retransmission-rate", 0.4, "--phase", 200, "--repeats", 1, "--output", output)
    assert status("bench", "budget", a_log(tmp_path / "log"), *options) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == json.loads(output.read_text(encoding="utf-8"))
    assert set(last["streams"]["steady"]) == {"0.4"}
    assert status("bench", "budget", a_log(tmp_path / "log"), *options, "--phase", 140) == 0  # one window
    assert status("bench", "budget", a_log(tmp_path / "log"), *options, "--phase", 139) == 2
    assert status("bench", "budget", a_log(tmp_path / "log"), "--retransmission-rate", 2) == 1
    assert "must be above 0 and below 1, not 2.0" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_a_policy_is_served_for_its_model_alone(tmp_path: Path) -> None:
    mine, other = (
        str(write_checkpoint(tmp_path / name, Variant(seed=seed))) for name, seed in (("a", 1), ("b", 2))
    )
    log = a_log(tmp_path / "log", weights=load_model(mine).digest())
    output = tmp_path / "policy.json"
    options = ("--retransmission-rate", 0.3, "--output", output, "--aggregation", "first", "--no-arbitration")
    assert status("calibrate", log, *options) == 0
    engine = load_engine(EngineOptions(mine, "float32", "cpu", calibrated=read_policy(output)))
    assert engine.policy == Policy(0.71, aggregation="first", arbitration=False)
    with pytest.raises(PolicyFileError, match="was calibrated on made up"):
        load_engine(EngineOptions(other, "float32", "cpu", calibrated=read_policy(output)))
