"""Calibration's commands, to an engine that serves, and the simulation of a budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.logs import VIEW
from benchmarks.samples import a_look, a_record
from engine.checkpoints import Variant, write_checkpoint
from secondlook.benchmarks.analysis.columns import Columns
from secondlook.benchmarks.calibration.budget import (
    bench_budget,
    draw,
    fixed_accuracy,
    follow,
    shifts_of,
    worst_deviation,
)
from secondlook.benchmarks.calibration.thresholds import Answers
from secondlook.benchmarks.options import BudgetRun
from secondlook.benchmarks.run_log import Record, RunHeader, write_log
from secondlook.engine.cli import command_line, run
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.budget import BudgetedThreshold, BudgetSettings
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import read_policy
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.opening import EngineOptions, load_engine

SETTINGS: dict[str, Any] = {
    "data": {"name": "made up"},
    "model": {
        "weights": "aa",
        "dtype": "float32",
        "localisation": {"rule": "box"},
        "global_view": VIEW,
        "local_view": VIEW,
    },
    "jpeg": {"global": {"quality": 90}, "local": {"quality": 90}},
}


def a_log(path: Path, weights: str = "aa") -> Path:
    """A hundred questions of doubts 0.01, 0.02, …; the more doubtful half is wrong at first."""
    records = [
        a_record(i, a_look(float(i < 50), [(i + 1) / 100], sent=100), a_look(1.0, [0.0], sent=60))
        for i in range(100)
    ]
    settings = {**SETTINGS, "model": {**SETTINGS["model"], "weights": weights}}
    write_log(path, RunHeader(settings, {"model": "made up"}), [[record] for record in records])
    return path


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(command_line(), list(map(str, arguments)))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_threshold_is_chosen_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, output = a_log(tmp_path / "log.jsonl"), tmp_path / "policy.json"
    assert status("calibrate", "threshold", log, "--retransmission-rate", 0.3, "--output", output) == 0
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
    assert on.localisation == {"rule": "box"}
    assert "Calibrated on 100 questions about 100 pictures (made up), asked of made up in float32" in told
    assert "20 of 70 here" in told
    assert told.endswith(f"wrote {output}\n")


def test_of_several_questions_about_a_picture_the_bound_counts_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = a_log(tmp_path / "log")
    counted = []
    for _ in range(2):
        assert (
            status("calibrate", "threshold", log, "--bytes", 120, "--output", tmp_path / "policy.json") == 0
        )
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
    assert (
        status("calibrate", "threshold", a_log(tmp_path / "log"), "--output", output, *options, *switches)
        == 0
    )
    found = read_policy(output)
    assert found.policy == Policy(found.threshold, "margin", "first_k", 2, False, False, 3)
    assert (found.target.kind, found.confidence) == ("accuracy", 0.9)
    assert found.expected["accuracy"].value >= 0.7


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "exactly one of"),
        (("--bytes", 9, "--accuracy", 0.5), 2, "exactly one of"),
        (("--accuracy", "nan"), 1, "value should be a finite number, not nan"),
        (("--accuracy", 1.5), 1, "accuracy must be from 0 to 1, not 1.5"),
        (("--bytes", 90), 1, "the global images alone take 100 bytes a question"),
    ],
)
def test_wrong_targets_are_told(
    options: tuple[object, ...], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "policy.json"
    assert status("calibrate", "threshold", a_log(tmp_path / "log"), "--output", output, *options) == code
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_wrong_logs_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    headless = tmp_path / "headless"
    write_log(headless, RunHeader({"data": {}}), [[a_record(second=a_look())]])
    assert (
        status("calibrate", "threshold", headless, "--accuracy", 0, "--output", tmp_path / "policy.json") == 1
    )
    assert "headless is not a log of an evaluation run ('name')" in capsys.readouterr().err


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
    assert "retransmission_rate should be less than 1, not 2.0" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_a_policy_is_served_for_its_model_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine, other = (
        str(write_checkpoint(tmp_path / name, Variant(seed=seed))) for name, seed in (("a", 1), ("b", 2))
    )
    log = a_log(tmp_path / "log", weights=load_model(mine).digest())
    output = tmp_path / "policy.json"
    options = ("--retransmission-rate", 0.3, "--output", output, "--aggregation", "first", "--no-arbitration")
    assert status("calibrate", "threshold", log, *options) == 0
    engine = load_engine(EngineOptions(mine, "float32", "cpu", calibrated=read_policy(output)))
    assert engine.policy == Policy(0.71, aggregation="first", arbitration=False)
    assert "with another profile: made up looked closer by other rule;" in caplog.text
    with pytest.raises(PolicyFileError, match="was calibrated on made up"):
        load_engine(EngineOptions(other, "float32", "cpu", calibrated=read_policy(output)))


def made_up(count: int = 300, seed: int = 0) -> list[Record]:
    """Every third question is hard, has a small box, and is of type b: doubtful and wrong at first."""
    generator = np.random.default_rng(seed)
    records = []
    for index in range(count):
        hard = index % 3 == 0
        doubt, sent = generator.exponential(2.0 if hard else 0.2), int(generator.integers(40, 90))
        first = a_look(float(generator.random() > (0.8 if hard else 0.05)), [doubt])
        record = a_record(index, first, a_look(1.0, [0.0], sent=sent), kind="b" if hard else "a")
        side = generator.uniform(1, 5) if hard else generator.uniform(20, 90)
        values = {**vars(record), "boxes": ((0.0, 0.0, side, side),)}
        records.append(Record(**{**values, "original_pixels": int(1e6 * (1 + index % 5))}))
    return records


def test_shares_move_as_they_are_called() -> None:
    records = made_up()
    shifts = {shift.name: shift for shift in shifts_of(Columns.of(records))}
    assert [name.split(",")[0] for name in shifts if "sudden" in name] == [
        *["size asked for"] * 2,
        "type a",
        "type b",
        "picture size",
    ]
    generator = np.random.default_rng(1)

    def hard(name: str) -> list[float]:
        stream = draw(shifts[name], 2000, generator)
        return [float(np.mean(part % 3 == 0)) for part in np.split(stream, 5)]

    assert hard("steady") == pytest.approx([1 / 3] * 5, abs=0.05)
    assert hard("size asked for, sudden") == pytest.approx([0.1, 0.8, 0.4, 0.9, 0.05], abs=0.1)
    assert hard("size asked for, sudden, reversed") == pytest.approx([0.05, 0.9, 0.4, 0.8, 0.1], abs=0.1)
    assert hard("type b, sudden") == pytest.approx([0.1, 0.8, 0.4, 0.9, 0.05], abs=0.05)
    assert hard("size asked for, drift") == pytest.approx([0.26, 0.58, 0.82, 0.58, 0.26], abs=0.1)


def test_a_log_without_boxes_or_types_shifts_by_what_it_has() -> None:
    plain = [a_record(index) for index in range(9)]
    assert [shift.name for shift in shifts_of(Columns.of(plain))] == ["steady"]


def test_a_shift_has_questions_in_both_groups() -> None:
    """Most pictures have the largest size, and all boxes are alike: neither tells two groups apart."""
    records = [
        replace(record, original_pixels=100 if record.index < 9 else 200, boxes=((0.0, 0.0, 1.0, 1.0),))
        for record in map(a_record, range(40))
    ]
    alike = [replace(record, original_pixels=200) for record in records]
    assert [shift.name for shift in shifts_of(Columns.of(alike))] == ["steady"]
    assert all(len(shift.inside) and len(shift.outside) for shift in shifts_of(Columns.of(records)))


def test_the_worst_deviation_is_of_any_500_after_the_first_200() -> None:
    looked = np.random.default_rng(2).random(900) < 0.4
    looked[:150] = True  # not to be seen
    allowed = np.full(900, 0.4)
    expected = max(abs(looked[i : i + 500].sum() / 200 - 1) for i in range(200, 401))
    assert worst_deviation(looked.astype(float), allowed) == pytest.approx(expected, abs=1e-12)


def test_a_fixed_threshold_looks_where_doubt_is_largest() -> None:
    answers = Answers.of(Columns.of(made_up()), Policy(0.0))
    stream = np.array([5, 5, 0, 17, 3, 100, 9])
    most = sorted(stream, key=lambda place: -answers.need[place])[:3]
    expected = answers.first[stream].sum() + sum(answers.kept[p] - answers.first[p] for p in most)
    assert fixed_accuracy(answers, stream, 3) == pytest.approx(expected)


def test_where_nothing_is_to_be_gained_nothing_is_looked_at() -> None:
    doubt = np.where(np.arange(100) % 2 == 0, -np.inf, 1.0)
    ones = np.ones(100)
    answers = Answers(doubt, ones, ones, ones, ones, np.arange(100))
    stream = np.arange(100).repeat(5)
    looked = follow(answers, stream, BudgetedThreshold(BudgetSettings(0.9), 0.5), np.zeros(500))
    assert not looked[np.isinf(doubt[stream])].any()
    assert looked[~np.isinf(doubt[stream])].mean() > 0.95


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("budget") / "log.jsonl"
    write_log(path, RunHeader(SETTINGS), [[record] for record in made_up()])
    return bench_budget(BudgetRun(path, [0.3, 0.5], phase=400, repeats=2, seed=3))


def test_the_rate_is_kept_on_every_stream(report: dict[str, Any]) -> None:
    cells = [cell for stream in report["streams"].values() for cell in stream.values()]
    assert len(cells) == report["cells"] == 2 * len(report["streams"])
    assert report["kept"]
    assert 0 < report["worst_deviation"] == max(cell["worst_deviation"] for cell in cells) <= 0.02 + 1e-9


def test_accuracies_are_in_their_order(report: dict[str, Any]) -> None:
    for stream in report["streams"].values():
        for cell in stream.values():
            assert cell["accuracy"] <= cell["accuracy_fixed_in_blocks"] + 0.02
            assert cell["loss_in_blocks"] == pytest.approx(
                cell["accuracy_fixed_in_blocks"] - cell["accuracy"], abs=1e-9
            )
    assert report["streams"]["steady"]["0.5"]["loss_in_blocks"] < 0.02
    sudden = report["streams"]["size asked for, sudden"]["0.3"]
    assert sudden["loss_overall"] > sudden["loss_in_blocks"]  # the price of keeping the rate
    assert sudden["worst_fixed_deviation"] > 0.2


def test_bytes_a_second_are_kept_too(report: dict[str, Any]) -> None:
    cells = [cell for stream in report["streams"].values() for cell in stream.values()]
    assert max(cell["worst_bytes_deviation"] for cell in cells) < 0.25


def test_the_report_is_json(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report))["questions"] == 300
