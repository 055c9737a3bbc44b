"""Curves against every subset there is: thresholds, the oracle, random second looks, and the envelope."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.logs import random_records
from secondlook.benchmarks.analysis.bootstrap import Bootstrap
from secondlook.benchmarks.analysis.columns import Columns, FloatArray
from secondlook.benchmarks.analysis.curves import Cost, Line, TradeOff, cheapest, oracle
from secondlook.benchmarks.analysis.qualities import envelope
from secondlook.benchmarks.replay import Replay
from secondlook.engine.method.policy import Policy

Questions = list[tuple[float, float, float, int, int]]
"""Doubt, score, gain, bytes of the first look, bytes of the second."""

QUESTIONS: st.SearchStrategy[Questions] = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0]),
        st.integers(1, 9),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=7,
)


def arrays(questions: Questions) -> tuple[FloatArray, FloatArray, FloatArray, Cost]:
    doubt, first, gain, sent, again = np.array(questions, np.float64).T
    return doubt, first, gain, Cost(np.zeros_like(sent), again, sent)


@given(QUESTIONS)
def test_a_line_is_every_threshold_recounted(questions: Questions) -> None:
    doubt, first, gain, cost = arrays(questions)
    line = TradeOff(doubt, first, gain).line(cost)
    assert line.thresholds.tolist() == [np.inf, *sorted(set(doubt), reverse=True)]
    for threshold, spent, accuracy in zip(line.thresholds, line.cost, line.accuracy, strict=True):
        looked = [one for one in questions if one[0] >= threshold]
        assert spent == pytest.approx(sum(one[4] for one in looked) / sum(one[3] for one in questions))
        total = sum(one[1] for one in questions) + sum(one[2] for one in looked)
        assert accuracy == pytest.approx(total / len(questions))


@given(QUESTIONS)
def test_no_choice_of_second_looks_beats_the_oracle(questions: Questions) -> None:
    _, first, gain, cost = arrays(questions)
    best = oracle(first, gain, cost)
    everything = range(len(questions))
    for size in range(len(questions) + 1):
        for chosen in map(list, combinations(everything, size)):
            spent = cost.extra[chosen].sum() / cost.unit.sum()
            accuracy = first.mean() + gain[chosen].sum() / len(first)
            assert accuracy <= best.at(np.array([spent]))[0] + 1e-9
    assert best.accuracy[0] == pytest.approx(first.mean())
    assert best.accuracy[-1] == pytest.approx(first.mean() + gain.clip(0).sum() / len(first))
    assert all(np.diff(best.accuracy) > 0)


def test_random_second_looks_give_the_mean_over_all_choices() -> None:
    records = random_records(5, seed=4)
    replay = Replay(records, Policy(0.0))
    possible = np.flatnonzero(replay.possible)
    assert len(possible) == 8
    for size in (1, 3, 8):
        scores = []
        for chosen in map(list, combinations(possible, size)):
            stands = replay.first.copy()
            stands[chosen] = replay.kept[chosen]
            scores.append(stands.mean())
        assert replay.random(size / 10) == pytest.approx(np.mean(scores))


@given(QUESTIONS, QUESTIONS)
def test_the_envelope_is_what_no_other_point_beats(one: Questions, other: Questions) -> None:
    lines = [TradeOff(*arrays(each)[:3]).line(arrays(each)[3]) for each in (one, other)]
    points = {
        (cost, accuracy, number)
        for number, line in enumerate(lines)
        for cost, accuracy in zip(line.cost.tolist(), line.accuracy.tolist(), strict=True)
    }
    best = {
        (cost, accuracy)
        for cost, accuracy, _ in points
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a, _ in points)
    }
    found = envelope(lines)
    assert [*zip(found.cost.tolist(), found.accuracy.tolist(), strict=True)] == sorted(best)
    for line, threshold, cost, accuracy in zip(
        found.line, found.threshold, found.cost, found.accuracy, strict=True
    ):
        (place,) = np.flatnonzero(lines[line].thresholds == threshold)
        assert (lines[line].cost[place], lines[line].accuracy[place]) == (cost, accuracy)


@given(QUESTIONS)
def test_the_cheapest_point_is_found_by_trying_all(questions: Questions) -> None:
    doubt, first, gain, cost = arrays(questions)
    line = TradeOff(doubt, first, gain).line(cost)
    for wanted in (0.0, 0.4, 0.75, 9.0):
        good = [
            spent for spent, score in zip(line.cost, line.accuracy, strict=True) if score >= wanted - 1e-12
        ]
        assert cheapest(line, wanted) == pytest.approx(min(good, default=np.nan), nan_ok=True)


def test_a_resample_is_the_curve_of_its_questions() -> None:
    columns = Columns.of(random_records(30, seed=5))
    replay = Replay(columns, Policy(0.0))
    cost = Cost(columns.first.bytes, columns.second.bytes, np.ones(len(columns)))
    boot = Bootstrap(columns.picture, resamples=4)
    resampled = replay.trade_off.resampled(cost, boot)
    for weights, (spent, score) in zip(boot.weights(), resampled, strict=True):
        rows = np.repeat(np.arange(len(columns)), weights.astype(int))
        drawn = TradeOff(replay.doubt[rows], replay.first[rows], replay.gain[rows])
        line = drawn.line(Cost(cost.base[rows], cost.extra[rows], cost.unit[rows]))
        points = {(round(x, 9), round(y, 9)) for x, y in zip(line.cost, line.accuracy, strict=True)}
        assert {(round(x, 9), round(y, 9)) for x, y in zip(spent, score, strict=True)} <= points


def test_a_band_holds_its_curve_and_narrows_with_more_questions() -> None:
    widths = []
    for pictures in (50, 800):
        columns = Columns.of(random_records(pictures, seed=6))
        replay = Replay(columns, Policy(0.0))
        band = replay.trade_off.band(replay.rate, Bootstrap(columns.picture, resamples=200))
        line = replay.trade_off.line(replay.rate)
        at = line.at(band.cost)
        assert np.mean((band.low <= at + 1e-9) & (at <= band.high + 1e-9)) > 0.97
        assert (band.cost[0], band.cost[-1]) == (0.0, line.cost[-1])
        widths.append(float((band.high - band.low).mean()))
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)


def test_between_two_thresholds_some_questions_are_taken_at_random() -> None:
    line = Line(np.array([np.inf, 1.0]), np.array([0.0, 0.5]), np.array([0.6, 0.8]))
    assert line.at(np.array([0.25, 0.5, 0.9])) == pytest.approx([0.7, 0.8, 0.8])
