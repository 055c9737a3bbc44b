"""Thresholds from a log, against plain counting; logs that do not belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.calibration.answers import answers_of, read_logs
from secondlook.benchmarks.calibration.choosing import choose
from secondlook.benchmarks.calibration.curve import Sorted
from secondlook.benchmarks.records import Record
from secondlook.benchmarks.replay import Replay
from secondlook.benchmarks.run_log import LogError, RunHeader, write_log
from secondlook.edge.errors import SettingsError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import Target

POLICY = Policy(0.0)
HEADER = RunHeader({"data": {"name": "made up"}, "model": {"weights": "aa", "dtype": "float32"}, "jpeg": {}})

# Few distinct doubts, so that ties are common.
DOUBTS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.25, 3.0]), min_size=1, max_size=3)
LOOKS = st.builds(a_look, st.sampled_from([0.0, 0.3, 1.0]), DOUBTS, sent=st.integers(1, 99))
RECORDS = st.lists(
    st.builds(a_record, index=st.integers(0, 4), first=LOOKS, second=st.none() | LOOKS),
    min_size=1,
    max_size=12,
)


def ladder(count: int, wrong: Sequence[int] = ()) -> list[Record]:
    """Doubts 1, 2, …, count; second looks are right and surer, first ones right except those in `wrong`."""
    return [
        a_record(i, a_look(float(i not in wrong), [i + 1.0], sent=100), a_look(1.0, [0.0], sent=50))
        for i in range(count)
    ]


def target(**value: float) -> Target:
    ((kind, number),) = value.items()
    return Target.model_validate({"kind": kind, "value": number})


@given(records=RECORDS)
def test_the_curve_is_what_a_replay_gives_at_each_threshold(records: list[Record]) -> None:
    answers = answers_of(records, POLICY)
    curve, replay = Sorted(answers).curve(), Replay(records, POLICY)
    assert curve.threshold[0] == 0 or not replay.possible.any()
    assert all(np.diff(curve.threshold) > 0)
    for place, threshold in enumerate(curve.threshold):
        outcome = replay.at(threshold)
        found = (curve.retransmission_rate[place], curve.accuracy[place], curve.bytes[place])
        wanted = (outcome.retransmission_rate, outcome.accuracy, outcome.bytes)
        assert found == pytest.approx(wanted, abs=1e-9)
    assert curve.retransmission_rate[-1] == 0


@given(records=RECORDS, seed=st.integers(0, 9))
def test_weights_repeat_pictures(records: list[Record], seed: int) -> None:
    answers = answers_of(records, POLICY)
    names = sorted({record.index for record in records})
    weights = np.random.default_rng(seed).integers(0, 3, len(names))
    repeated = [one for one in records for _ in range(weights[names.index(one.index)])]
    if not repeated:
        return
    curve, replay = Sorted(answers).curve(weights.astype(float)), Replay(repeated, POLICY)
    for place, threshold in enumerate(curve.threshold):
        assert curve.accuracy[place] == pytest.approx(replay.at(threshold).accuracy, abs=1e-9)
        assert curve.bytes[place] == pytest.approx(replay.at(threshold).bytes, abs=1e-9)


def test_the_doubt_that_decides_is_of_the_tokens_that_a_server_decides_after() -> None:
    record = a_record(0, a_look(1.0, [1.0, 3.0, 8.0]), a_look(1.0, [5.0]))
    assert answers_of([record], Policy(0.0, decide_after=2)).doubt.tolist() == [2.0]
    assert answers_of([record], Policy(0.0, decide_after=3)).doubt.tolist() == [4.0]
    # Arbitration weighs whole answers: 5 is more than the first answer's 4.
    doubtful = a_record(0, a_look(0.0, [1.0, 3.0, 8.0]), a_look(1.0, [5.0]))
    assert answers_of([doubtful], Policy(0.0, decide_after=2)).kept.tolist() == [0.0]


@pytest.mark.parametrize(
    ("wanted", "threshold", "rate"),
    [
        ({"retransmission_rate": 0.3}, 15.0, 0.3),
        ({"retransmission_rate": 0.34}, 15.0, 0.3),
        ({"retransmission_rate": 0.0}, np.nextafter(20.0, 99), 0.0),
        ({"retransmission_rate": 1.0}, 0.0, 1.0),
        ({"bytes": 120.0}, 13.0, 0.4),
        ({"bytes": 1000.0}, 0.0, 1.0),
        ({"accuracy": 0.9}, 18.0, 0.15),
        ({"accuracy": 0.8}, 20.0, 0.05),
        ({"accuracy": 0.0}, np.nextafter(20.0, 99), 0.0),
        ({"accuracy": 1.0}, 9.0, 0.6),
    ],
)
def test_a_target_is_met_and_no_more(wanted: dict[str, float], threshold: float, rate: float) -> None:
    answers = answers_of(ladder(20, wrong=[8, 15, 17, 18, 19]), POLICY)
    choice = choose(answers, target(**wanted), resamples=200)
    assert choice.threshold.value == threshold
    assert choice.expected["retransmission_rate"].value == pytest.approx(rate)
    for found in (choice.threshold, *choice.expected.values()):
        assert found.low <= found.high
    for found in choice.expected.values():
        assert found.low - 1e-12 <= found.value <= found.high + 1e-12


def test_only_a_rate_looks_at_no_answer() -> None:
    answers = answers_of(ladder(20), POLICY)
    assert choose(answers, target(retransmission_rate=0.5), resamples=1).candidates == 1
    assert choose(answers, target(bytes=120), resamples=1).candidates == 21  # none, one, …, all 20


def test_the_intervals_are_those_of_the_bootstrap() -> None:
    """Against the textbook's standard errors."""
    generator = np.random.default_rng(3)
    doubts, right = generator.uniform(0.001, 1, 900), generator.random(900) < 0.7
    records = [
        a_record(i, a_look(float(ok), [doubt]), a_look(float(ok), [0.0]))
        for i, (doubt, ok) in enumerate(zip(doubts, right, strict=True))
    ]
    choice = choose(answers_of(records, POLICY), target(retransmission_rate=0.4), resamples=800, seed=1)
    for found, error in (
        (choice.threshold, (0.4 * 0.6 / 900) ** 0.5),
        (choice.expected["retransmission_rate"], (0.4 * 0.6 / 900) ** 0.5),
        (choice.expected["accuracy"], (0.7 * 0.3 / 900) ** 0.5),
    ):
        assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.15)
    again = choose(answers_of(records, POLICY), target(retransmission_rate=0.4), resamples=800, seed=1)
    assert again == choice


def test_questions_about_one_picture_vary_together() -> None:
    """Ten questions each about few pictures: intervals of the pictures, not of the questions."""
    alone = [a_record(i, a_look(float(i % 2), [1.0 + i]), a_look(0.0, [9.0])) for i in range(40)]
    tenfold = [one for one in alone for _ in range(10)]
    first, second = (
        choose(answers_of(records, POLICY), target(retransmission_rate=0.0), resamples=400).expected[
            "accuracy"
        ]
        for records in (alone, tenfold)
    )
    assert (first.low, first.high) == pytest.approx((second.low, second.high))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"retransmission_rate": 1.5}, "retransmission rate must be from 0 to 1, not 1.5"),
        ({"accuracy": 95.0}, "accuracy must be from 0 to 1, not 95.0"),
        ({"bytes": 0.0}, "bytes a question must be a positive, finite number, not 0.0"),
        ({"bytes": 99.0}, "bytes a question 99.0 is too low: the global images alone take 100 bytes"),
    ],
)
def test_impossible_targets_are_told(wanted: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose(answers_of(ladder(5), POLICY), target(**wanted))


def test_an_accuracy_out_of_reach_names_the_best() -> None:
    never = [a_record(i, a_look(0.0, [1.0 + i]), a_look(float(i > 2), [0.0])) for i in range(4)]
    with pytest.raises(SettingsError, match=r"accuracy 0.5 is not reached: the most is 0.2500, at a rate of"):
        choose(answers_of(never, POLICY), target(accuracy=0.5))


def logs_of(folder: Path, *parts: tuple[dict[str, Any], list[Record]]) -> list[Path]:
    paths = [folder / f"{number}.jsonl" for number in range(len(parts))]
    for path, (settings, records) in zip(paths, parts, strict=True):
        write_log(path, RunHeader({**HEADER.settings, **settings}), [[record] for record in records])
    return paths


def test_logs_of_shards_are_one_run(tmp_path: Path) -> None:
    records = ladder(6)
    paths = logs_of(tmp_path, ({}, records[::2]), ({}, records[1::2]))
    found = read_logs(paths)
    assert sorted(record.index for record in found.records) == list(range(6))
    assert len(set(found.digests)) == 2


def test_logs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    records = ladder(6)
    other, twice, empty = (tmp_path / name for name in ("other", "twice", "empty"))
    for folder in (other, twice, empty):
        folder.mkdir()
    mixed = logs_of(other, ({}, records[:3]), ({"model": {"weights": "bb", "dtype": "float32"}}, records[3:]))
    with pytest.raises(
        LogError, match=r"never mixed: in 1\.jsonl model\.weights is 'bb', not 'aa' as in 0\.jsonl"
    ):
        read_logs(mixed)
    with pytest.raises(LogError, match="both have picture 2"):
        read_logs(logs_of(twice, ({}, records[:3]), ({}, records[2:])))
    with pytest.raises(LogError, match="has no answers yet"):
        read_logs(logs_of(empty, ({}, [])))


def test_logs_without_a_second_look_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"0\.jsonl has no second look: no picture had detail to gain"):
        read_logs(logs_of(tmp_path, ({}, [a_record(index) for index in range(3)])))
