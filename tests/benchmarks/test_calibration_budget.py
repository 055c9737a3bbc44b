"""The simulation of a budget: its streams, its measures against plain counting, and what it finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.calibration.answers import Answers, answers_of
from secondlook.benchmarks.calibration.simulation import (
    bench_budget,
    budget_text,
    fixed_accuracy,
    follow,
    worst_deviation,
)
from secondlook.benchmarks.calibration.streams import draw, shifts_of
from secondlook.benchmarks.records import Record
from secondlook.benchmarks.run_log import RunHeader, write_log
from secondlook.engine.method.budget import Budget, BudgetSettings
from secondlook.engine.method.policy import Policy


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
    shifts = {shift.name: shift for shift in shifts_of(records)}
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
    assert [shift.name for shift in shifts_of(plain)] == ["steady"]


def test_a_shift_has_questions_in_both_groups() -> None:
    """Most pictures have the largest size, and all boxes are alike: neither tells two groups apart."""
    records = [
        replace(record, original_pixels=100 if record.index < 9 else 200, boxes=((0.0, 0.0, 1.0, 1.0),))
        for record in map(a_record, range(40))
    ]
    alike = [replace(record, original_pixels=200) for record in records]
    assert [shift.name for shift in shifts_of(alike)] == ["steady"]
    assert all(len(shift.inside) and len(shift.outside) for shift in shifts_of(records))


def test_the_worst_deviation_is_of_any_500_after_the_first_200() -> None:
    looked = np.random.default_rng(2).random(900) < 0.4
    looked[:150] = True  # not to be seen
    allowed = np.full(900, 0.4)
    expected = max(abs(looked[i : i + 500].sum() / 200 - 1) for i in range(200, 401))
    assert worst_deviation(looked.astype(float), allowed) == pytest.approx(expected, abs=1e-12)


def test_a_fixed_threshold_looks_where_doubt_is_largest() -> None:
    answers = answers_of(made_up(), Policy(0.0))
    stream = np.array([5, 5, 0, 17, 3, 100, 9])
    most = sorted(stream, key=lambda place: -answers.doubt[place])[:3]
    expected = answers.first[stream].sum() + sum(answers.kept[p] - answers.first[p] for p in most)
    assert fixed_accuracy(answers, stream, 3) == pytest.approx(expected)


def test_where_nothing_is_to_be_gained_nothing_is_looked_at() -> None:
    doubt = np.where(np.arange(100) % 2 == 0, -np.inf, 1.0)
    ones = np.ones(100)
    answers = Answers(doubt, ones, ones, ones, ones, np.arange(100))
    stream = np.arange(100).repeat(5)
    looked = follow(answers, stream, Budget(BudgetSettings(0.9), 0.5), np.zeros(500))
    assert not looked[np.isinf(doubt[stream])].any()
    assert looked[~np.isinf(doubt[stream])].mean() > 0.95


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("budget") / "log.jsonl"
    write_log(path, RunHeader({"data": {"name": "made up"}}), [[record] for record in made_up()])
    return bench_budget([Path(path)], (0.3, 0.5), phase=400, repeats=2, seed=3)


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


def test_the_report_is_json_and_a_table(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report))["questions"] == 300
    text = budget_text(report)
    assert "within 2% of the target: always" in text
    assert sum(line.startswith("steady") for line in text.splitlines()) == 2
