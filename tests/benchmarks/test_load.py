"""The load benchmark: real edges in a process of their own, a real server, and what is counted of them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.small_llava import tiny_preset, tiny_subject
from secondlook.benchmarks import benches, load, load_edges
from secondlook.benchmarks.benches import reported, tell
from secondlook.benchmarks.commands import MeasurementError
from secondlook.benchmarks.latency import subject
from secondlook.benchmarks.load import load_rows
from secondlook.benchmarks.load_edges import Asked, Phase, PhaseResult, run_phase, unsure_pattern
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.options import LoadRun
from secondlook.engine.cli import command_line
from secondlook.engine.serve.settings import ServerSettings

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def phase(url: str, edges: int = 3, **values: Any) -> Phase:
    usual = LoadRun(warmup_seconds=0.0, seconds=1.0, retransmission_rate=0.5, new_tokens=3)
    return Phase(url, replace(usual, **values), edges, (0,))


def test_edges_ask_and_look_twice_as_often_as_told() -> None:
    with loopback_server(tiny_subject().engine) as url:
        result = run_phase(phase(url, seconds=4.0))
    assert len(result.asked) > 3
    for asked in result.asked:
        assert asked.failure is None
        assert asked.looked_twice == asked.unsure
        assert asked.seconds > 0
        assert asked.bytes_up > 500
    share = sum(asked.looked_twice for asked in result.asked) / len(result.asked)
    assert share == pytest.approx(0.5, abs=3 / len(result.asked))  # each edge may be one question off
    assert set(result.statuses) == {200}


def test_the_network_is_waited_for_in_each_way() -> None:
    with loopback_server(tiny_subject().engine) as url:
        result = run_phase(phase(url, edges=1, delay_ms=100.0, seconds=1.5, retransmission_rate=1.0))
    assert result.asked
    assert min(asked.seconds for asked in result.asked) >= 4 * 0.1


def test_what_ends_in_the_warm_up_does_not_count() -> None:
    with loopback_server(tiny_subject().engine) as url:
        result = run_phase(phase(url, edges=1, warmup_seconds=1.0, seconds=0.001))
    assert len(result.asked) <= 1
    assert sum(result.statuses.values()) <= 1


def test_refusals_are_counted_and_asked_again() -> None:
    engine = tiny_subject().engine
    engine._pool.count = 1  # the server counts places by it
    with loopback_server(engine, ServerSettings(queue_size=1)) as url:
        result = run_phase(phase(url, edges=8, seconds=1.5))
    assert result.statuses[429] > 0
    assert any(asked.failure is None for asked in result.asked)


def test_a_server_that_is_gone_is_a_failure_and_not_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = partial(load_edges.AsyncEdgeClient, sleep=lambda _seconds: asyncio.sleep(0))
    monkeypatch.setattr(load_edges, "AsyncEdgeClient", impatient)
    with loopback_server(tiny_subject().engine) as url:
        pass
    result = run_phase(phase(url, edges=1, seconds=0.5))
    assert result.asked
    assert all(asked.failure for asked in result.asked)
    with pytest.raises(MeasurementError, match=r"of 1 edges was answered in 0\.5 seconds; the last"):
        load_rows({1: [result]}, 0.5)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.4, 1.0])
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.99])
def test_unsure_questions_are_spread_evenly(rate: float, shift: float) -> None:
    pattern = list(itertools.islice(unsure_pattern(rate, shift), 400))
    for length in (10, 100, 400):
        for begin in range(0, 400 - length, 7):
            assert abs(sum(pattern[begin : begin + length]) - rate * length) <= 1


def test_rows_compare_with_one_edge() -> None:
    def asked(*seconds: float, failure: str | None = None) -> list[Asked]:
        return [
            Asked(each, index % 2 == 1, index % 2 == 1, 100, failure) for index, each in enumerate(seconds)
        ]

    one = [PhaseResult(asked(0.1, 0.3)), PhaseResult(asked(0.1, 0.3, 0.1, 0.3))]
    many = [
        PhaseResult(asked(*[0.5] * 8), Counter({200: 12, 429: 2})),
        PhaseResult(asked(*[0.5] * 7) + asked(0.9, failure="refused"), Counter({429: 1})),
    ]
    rows = load_rows({1: one, 4: many}, seconds=2.0)
    assert [row["edges"] for row in rows] == [1, 4]
    assert [row["answers_per_second"] for row in rows] == [6 / 4, 15 / 4]
    assert [row["speedup"] for row in rows] == [1.0, 2.5]
    assert (rows[0]["sure_p50_ms"], rows[0]["unsure_p50_ms"]) == pytest.approx((100, 300))
    assert (rows[1]["p50_ms"], rows[1]["p99_ms"]) == pytest.approx((500, 500))
    assert (rows[1]["answers"], rows[1]["refusals"], rows[1]["failures"]) == (15, 3, 1)
    assert rows[1]["looked_twice"] == pytest.approx(7 / 15)


def test_without_answers_there_is_nothing_to_measure() -> None:
    with pytest.raises(MeasurementError, match="4 edges was answered in 2 seconds; give --seconds more"):
        load_rows({4: [PhaseResult()]}, 2.0)


def test_edges_are_one_and_those_asked_for() -> None:
    assert LoadRun(edges=[8, 2]).counts == (1, 2, 8)
    assert LoadRun().counts == (1, 16)
    assert CliRunner().invoke(command_line(), ["bench", "load", "--edges", "65"]).exit_code == 2


def test_the_command_ends_with_one_json_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subject, "preset", lambda _name: tiny_preset())
    monkeypatch.setattr(benches, "configure_logging", lambda _verbose: None)
    output = tmp_path / "load.json"
    done = CliRunner().invoke(
        command_line(),
        [
            *("bench", "load", "--device", "cpu", "--edges", "2", "--edges", "4", "--rounds", "1"),
            *("--seconds", "0.8", "--warmup-seconds", "0.1", "--retransmission-rate", "0.25"),
            *("--output", str(output)),
        ],
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    assert report == json.loads(output.read_text(encoding="utf-8"))
    assert next(iter(report)) == "speedup_sequential"
    assert [row["edges"] for row in report["rows"]] == [1, 2, 4]
    assert report["speedup_sequential"] == report["rows"][-1]["speedup"]
    for row in report["rows"]:
        assert row["failures"] == 0
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["looked_twice"] == pytest.approx(0.25, abs=0.2)


def test_an_interruption_keeps_the_complete_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def phases(*_: object) -> Iterator[PhaseResult]:
        for number in range(5):  # two rounds, and one of two phases of the third
            yield PhaseResult([Asked(0.1 * (number + 1), unsure=False)])
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "_phases", phases)
    report = reported(LoadRun(device="cpu", edges=[2]), partial(load.bench_load, tiny_preset()))
    assert (report["interrupted"], report["rounds"]) == (True, 2)
    assert [row["answers"] for row in report["rows"]] == [2, 2]
    with pytest.raises(KeyboardInterrupt):
        tell("load", report, None)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report


def test_an_interrupted_first_round_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def phases(*_: object) -> Iterator[PhaseResult]:
        yield PhaseResult([Asked(0.1, unsure=False)])
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "_phases", phases)
    with pytest.raises(KeyboardInterrupt):
        load.bench_load(tiny_preset(), LoadRun(device="cpu", edges=[2]))
