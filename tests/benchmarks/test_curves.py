"""Curves against every subset there is, and groups of questions by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.logs import random_records
from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.analysis.columns import Columns, FloatArray
from secondlook.benchmarks.analysis.curves import Cost, Line, TradeOff, cheapest, envelope, oracle
from secondlook.benchmarks.analysis.groups import by_box, by_kind, by_megapixels, region_quality, summed_up
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.statistics import Bootstrap
from secondlook.benchmarks.run_log import Record
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
        drawn = TradeOff(replay.need[rows], replay.first[rows], replay.gain[rows])
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


def study(records: list[Record]) -> tuple[Replay, Bootstrap]:
    replay = Replay(records, Policy(0.0))
    return replay, Bootstrap(replay.columns.picture, resamples=100)


WRONG, RIGHT, VAGUE = a_look(0.0, [1.0]), a_look(1.0, [0.1]), a_look(0.0, [2.0])
RECORDS = [
    replace(a_record(0, WRONG, RIGHT), original_pixels=1_500_000, boxes=((0.0, 0.0, 30.0, 30.0),)),
    replace(a_record(1, RIGHT, VAGUE), original_pixels=3_000_000),
    replace(a_record(2, WRONG, VAGUE, kind="exists"), original_pixels=2_000_000),
    replace(a_record(3, RIGHT, kind="exists"), original_pixels=40_000_000),
]


def test_what_is_mended_and_broken() -> None:
    found = summed_up("all", *study(RECORDS))
    assert found.count == 4
    assert [each.value for each in (found.first, found.second, found.kept)] == [0.5, 0.5, 0.75]
    assert [each.value for each in (found.gain, found.mended, found.broken)] == [0.0, 0.25, 0.25]
    assert found.hit.value == 1.0


def test_groups_part_the_questions() -> None:
    assert [(group.name, group.count) for group in by_kind(*study(RECORDS))] == [("exists", 2), ("read", 2)]
    sizes = [(group.name, group.count, group.mended.value) for group in by_megapixels(*study(RECORDS))]
    assert sizes == [("1 to 2 MP", 1, 1.0), ("2 to 4 MP", 2, 0.0), ("32 or more MP", 1, 0.0)]


def test_boxes_are_as_large_as_the_global_image_shows_them() -> None:
    # 900 of 1,500,000 pixels are 0.06 of a global image of 100, a square of a quarter of a pixel.
    (group,) = by_box(*study(RECORDS))
    assert (group.name, group.count) == ("below 2 pixels", 1)
    larger = replace(RECORDS[0], first=a_look(0.0, [1.0], pixels=28_224), boxes=((0.0, 0.0, 60.0, 60.0),))
    (group,) = by_box(*study([larger]))  # 60 · 168 / √1,500,000 = 8.2
    assert group.name == "8 to 16 pixels"


def test_every_group_is_the_run_of_its_questions_alone() -> None:
    records = random_records(40)
    for group in by_kind(*study(records)):
        alone = [record for record in records if record.type == group.name]
        other = summed_up(group.name, *study(alone))
        assert group.count == other.count
        for name in ("first", "second", "kept", "gain", "mended", "broken", "hit"):
            assert getattr(group, name).value == pytest.approx(getattr(other, name).value, nan_ok=True)


def test_the_quality_of_regions() -> None:
    boxed = replace(RECORDS[0], boxes=((0.0, 20.0, 20.0, 40.0),))  # half of it in the region, 10 to 110
    missed = replace(RECORDS[2], boxes=((500.0, 500.0, 520.0, 520.0),), region_hit=False)
    unknown = replace(RECORDS[1], region_hit=None)
    found = region_quality(*study([boxed, missed, unknown, RECORDS[3]]))
    assert found is not None
    assert (found.count, found.hit.value, found.covered.value) == (2, 0.5, 0.25)
    assert found.area.value == pytest.approx((10_000 / 1.5e6 + 10_000 / 2e6) / 2)
    assert (found.second_hit.value, found.second_missed.value) == (1.0, 0.0)


def test_without_boxes_there_is_no_quality_of_regions() -> None:
    assert region_quality(*study([replace(RECORDS[1], region_hit=None)])) is None
    assert np.isnan(summed_up("all", *study([replace(RECORDS[1], region_hit=None)])).hit.value)
