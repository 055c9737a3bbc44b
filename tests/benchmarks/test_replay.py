"""Replay against plain re-counting: every threshold, measure, aggregation and arbitration rule; its speed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.logs import random_records, write_run
from benchmarks.samples import a_look, a_record
from secondlook.benchmarks import cli
from secondlook.benchmarks.analysis.replay import (
    Outcome,
    Replay,
    bench_replay,
    choose_threshold,
)
from secondlook.benchmarks.analysis.statistics import auroc
from secondlook.benchmarks.options import ReplayRun
from secondlook.benchmarks.run_log import LogError, Record
from secondlook.edge.wire import Aggregation, Measure
from secondlook.engine.cli import command_line, run
from secondlook.engine.method.policy import Policy

# Few distinct doubts, so that ties are common.
DOUBTS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.25, 3.0]), min_size=1, max_size=3)
LOOKS = st.builds(
    a_look, st.sampled_from([0.0, 0.3, 1.0]), DOUBTS, pixels=st.integers(1, 99), sent=st.integers(1, 99)
)
VALUES = st.sampled_from([0.0, 0.5, 0.75, 1.0, 4.0])
RECORDS = st.lists(st.builds(a_record, first=LOOKS, second=st.none() | LOOKS), min_size=1, max_size=12)
POLICIES = st.builds(
    Policy,
    st.just(0.0),
    measure=st.sampled_from(get_args(Measure)),
    aggregation=st.sampled_from(get_args(Aggregation)),
    first_k=st.integers(1, 3),
    include_eos=st.booleans(),
    arbitration=st.booleans(),
    decide_after=st.integers(1, 3),
)


def recount(records: Sequence[Record], policy: Policy, threshold: float) -> Outcome:
    """What the policy gives, question by question, and random second looks by their definition."""
    score = pixels = sent = looked = 0.0
    gains = []
    for record in records:
        doubt = policy.uncertainty(record.first.tokens[: policy.decide_after])
        kept = record.first.score
        if record.second is not None:
            surer = policy.uncertainty(record.second.tokens) <= policy.uncertainty(record.first.tokens)
            kept = record.second.score if surer or not policy.arbitration else kept
            gains.append(kept - record.first.score)
        pixels += record.first.pixels
        sent += record.first.bytes
        if record.second is not None and doubt >= threshold:
            looked += 1
            pixels += record.second.pixels
            sent += record.second.bytes
            score += kept
        else:
            score += record.first.score
    total = len(records)
    first = sum(record.first.score for record in records)
    random = first + looked * (sum(gains) / len(gains) if gains else 0.0)
    return Outcome(score / total, looked / total, random / total, pixels / total, sent / total)


def close(one: Outcome, other: Outcome) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12) for a, b in pairs)


@given(records=RECORDS, policy=POLICIES, threshold=st.sampled_from([0.0, 0.25, 0.4, 0.5, 1.25, 2.0, 9.0]))
def test_an_outcome_is_what_counting_gives(records: list[Record], policy: Policy, threshold: float) -> None:
    assert close(Replay(records, policy).at(threshold), recount(records, policy, threshold))


@given(records=RECORDS, policy=POLICIES)
def test_the_curve_is_every_distinct_outcome(records: list[Record], policy: Policy) -> None:
    thresholds, rates, accuracies = Replay(records, policy).curve()
    doubts = {policy.uncertainty(record.first.tokens[: policy.decide_after]) for record in records}
    assert list(thresholds[:-1]) == sorted(doubts)
    assert thresholds[-1] > max(doubts)
    for threshold, rate, accuracy in zip(thresholds, rates, accuracies, strict=True):
        outcome = recount(records, policy, threshold)
        assert rate == pytest.approx(outcome.retransmission_rate, abs=1e-12)
        assert accuracy == pytest.approx(outcome.accuracy, abs=1e-12)
    assert all(np.diff(rates) <= 0)
    assert rates[-1] == 0
    assert rates[0] == np.mean([record.second is not None for record in records])


@given(records=RECORDS, policy=POLICIES)
def test_the_ends_meet_random_retransmission(records: list[Record], policy: Policy) -> None:
    replay = Replay(records, policy)
    thresholds, _, _ = replay.curve()
    for threshold in (thresholds[0], thresholds[-1]):
        outcome = replay.at(threshold)
        assert outcome.accuracy_random == pytest.approx(outcome.accuracy, abs=1e-12)


@given(records=RECORDS, policy=POLICIES)
def test_the_margin_is_the_least_distance_from_random(records: list[Record], policy: Policy) -> None:
    replay = Replay(records, policy)
    outcomes = [recount(records, policy, threshold) for threshold in replay.curve()[0]]
    margins = [
        outcome.accuracy - outcome.accuracy_random
        for outcome in outcomes
        if 0.15 <= outcome.retransmission_rate <= 0.85
    ]
    assert replay.margin_over_random(0.15, 0.85) == pytest.approx(min(margins, default=0.0), abs=1e-9)


def test_the_arrays_say_what_was_looked_at() -> None:
    surer, vaguer = a_look(1.0, [0.1]), a_look(1.0, [2.0])
    records = [a_record(0, a_look(0.0, [0.5]), surer), a_record(1, a_look(0.0, [0.5]), vaguer), a_record(2)]
    replay = Replay(records, Policy(0.0))
    assert replay.possible.tolist() == [True, True, False]
    assert replay.first.tolist() == [0.0, 0.0, 1.0]
    assert replay.second.tolist() == [1.0, 1.0, 1.0]
    assert replay.kept.tolist() == [1.0, 0.0, 1.0]
    assert Replay(records, Policy(0.0, arbitration=False)).kept.tolist() == [1.0, 1.0, 1.0]


def test_nothing_to_replay_is_an_error() -> None:
    with pytest.raises(ValueError, match="no records"):
        Replay([], Policy(0.0))


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.75, 1.0, 4.0]), st.booleans()), min_size=1, max_size=25)
)
def test_auroc_counts_pairs(pairs: list[tuple[float, bool]]) -> None:
    values = np.array([value for value, _ in pairs])
    positive = np.array([label for _, label in pairs])
    wins = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in values[positive]
        for other in values[~positive]
    ]
    assert auroc(values, positive) == pytest.approx(np.mean(wins) if wins else 0.5, abs=1e-12)


def ladder(count: int, wrong: Sequence[int]) -> Replay:
    """Doubts 0, 1, 2, …; second looks are right and surer, first ones right except those in `wrong`."""
    return Replay(
        [a_record(i, a_look(float(i not in wrong), [float(i)]), a_look(1.0, [0.0])) for i in range(count)],
        Policy(0.0),
    )


def test_the_threshold_stops_at_the_last_second_look_that_helps() -> None:
    replay = ladder(10, wrong=[6, 8, 9])
    assert choose_threshold(replay, max_rate=0.45, tolerance=0.0) == 6.0
    assert replay.at(6.0).accuracy == 1.0


def test_the_threshold_keeps_to_the_rate_allowed() -> None:
    replay = ladder(10, wrong=[1, 6, 8, 9])
    threshold = choose_threshold(replay, max_rate=0.3, tolerance=0.0)
    assert threshold == 8.0
    assert replay.at(threshold).retransmission_rate == 0.2


def test_a_tolerance_buys_fewer_second_looks() -> None:
    replay = ladder(10, wrong=[6, 8, 9])
    assert choose_threshold(replay, tolerance=0.1) == 8.0


def test_without_any_gain_nothing_is_looked_at_twice() -> None:
    replay = ladder(5, wrong=[])
    assert replay.at(choose_threshold(replay)).retransmission_rate == 0.0


@given(records=RECORDS, policy=POLICIES, limit=st.floats(0, 1))
def test_the_threshold_is_the_cheapest_of_the_best(
    records: list[Record], policy: Policy, limit: float
) -> None:
    replay = Replay(records, policy)
    chosen = replay.at(choose_threshold(replay, limit, tolerance=0.01))
    assert chosen.retransmission_rate <= limit
    for threshold in replay.curve()[0]:
        other = replay.at(threshold)
        if other.retransmission_rate <= limit:
            assert other.accuracy <= chosen.accuracy + 0.01 + 1e-12
            if other.retransmission_rate < chosen.retransmission_rate:
                best = max(
                    replay.at(t).accuracy
                    for t in replay.curve()[0]
                    if replay.at(t).retransmission_rate <= limit
                )
                assert other.accuracy < best - 0.01 + 1e-12


def test_a_log_is_repeated_until_it_has_the_rows(tmp_path: Path) -> None:
    log = write_run(tmp_path / "run.jsonl", random_records(3))
    report = bench_replay(ReplayRun(log, 17))
    assert report["rows"] == 17
    assert report["curves"] == 3 * 11 * 2 * 3  # measures, limits, arbitration or not, costs
    assert report["seconds"] == pytest.approx(report["seconds_reading"] + report["seconds_replaying"])
    assert report["log_bytes"] > log.stat().st_size


def test_the_command_ends_with_json_and_refuses_what_is_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "configure_logging", lambda _verbose: None)
    log, output = write_run(tmp_path / "run.jsonl", random_records(3)), tmp_path / "replay.json"
    with pytest.raises(SystemExit):
        run(command_line(), ["bench", "replay", str(log), "--rows", "9", "--output", str(output)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == json.loads(output.read_text(encoding="utf-8"))
    assert last["rows"] == 9
    with pytest.raises(LogError, match="cannot read the log"):
        bench_replay(ReplayRun(tmp_path / "none.jsonl", 9))
