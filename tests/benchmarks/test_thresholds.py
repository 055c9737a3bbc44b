"""Thresholds from a log, against plain counting, and the bound on wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.samples import a_look, a_record
from secondlook.benchmarks.analysis.columns import Columns
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.calibration.policy import binomial_upper_bound, wrong_share
from secondlook.benchmarks.calibration.thresholds import Answers, Sorted, choose
from secondlook.benchmarks.run_log import Record
from secondlook.edge.errors import SettingsError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import Target

POLICY = Policy(0.0)

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
    answers = Answers.of(Columns.of(records), POLICY)
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
    answers = Answers.of(Columns.of(records), POLICY)
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
    assert Answers.of(Columns.of([record]), Policy(0.0, decide_after=2)).need.tolist() == [2.0]
    assert Answers.of(Columns.of([record]), Policy(0.0, decide_after=3)).need.tolist() == [4.0]
    # Arbitration weighs whole answers: 5 is more than the first answer's 4.
    doubtful = a_record(0, a_look(0.0, [1.0, 3.0, 8.0]), a_look(1.0, [5.0]))
    assert Answers.of(Columns.of([doubtful]), Policy(0.0, decide_after=2)).kept.tolist() == [0.0]


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
    answers = Answers.of(Columns.of(ladder(20, wrong=[8, 15, 17, 18, 19])), POLICY)
    choice = choose(answers, target(**wanted), resamples=200)
    assert choice.threshold.value == threshold
    assert choice.expected["retransmission_rate"].value == pytest.approx(rate)
    for found in (choice.threshold, *choice.expected.values()):
        assert found.low <= found.high
    for found in choice.expected.values():
        assert found.low - 1e-12 <= found.value <= found.high + 1e-12


def test_only_a_rate_looks_at_no_answer() -> None:
    answers = Answers.of(Columns.of(ladder(20)), POLICY)
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
    choice = choose(
        Answers.of(Columns.of(records), POLICY), target(retransmission_rate=0.4), resamples=800, seed=1
    )
    for found, error in (
        (choice.threshold, (0.4 * 0.6 / 900) ** 0.5),
        (choice.expected["retransmission_rate"], (0.4 * 0.6 / 900) ** 0.5),
        (choice.expected["accuracy"], (0.7 * 0.3 / 900) ** 0.5),
    ):
        assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.15)
    again = choose(
        Answers.of(Columns.of(records), POLICY), target(retransmission_rate=0.4), resamples=800, seed=1
    )
    assert again == choice


def test_questions_about_one_picture_vary_together() -> None:
    """Ten questions each about few pictures: intervals of the pictures, not of the questions."""
    alone = [a_record(i, a_look(float(i % 2), [1.0 + i]), a_look(0.0, [9.0])) for i in range(40)]
    tenfold = [one for one in alone for _ in range(10)]
    first, second = (
        choose(
            Answers.of(Columns.of(records), POLICY), target(retransmission_rate=0.0), resamples=400
        ).expected["accuracy"]
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
        choose(Answers.of(Columns.of(ladder(5)), POLICY), target(**wanted))


def test_an_accuracy_out_of_reach_names_the_best() -> None:
    never = [a_record(i, a_look(0.0, [1.0 + i]), a_look(float(i > 2), [0.0])) for i in range(4)]
    with pytest.raises(SettingsError, match=r"accuracy 0.5 is not reached: the most is 0.2500, at a rate of"):
        choose(Answers.of(Columns.of(never), POLICY), target(accuracy=0.5))


QUESTIONS = 150
DRAWS = 400
RISK = 0.1


@pytest.mark.parametrize(("wrong", "trials"), [(0, 1), (0, 50), (3, 60), (59, 60), (40, 300)])
@pytest.mark.parametrize("risk", [0.05, 0.0005])
def test_the_bound_is_where_the_tail_has_the_risk(wrong: int, trials: int, risk: float) -> None:
    bound = Fraction(binomial_upper_bound(wrong, trials, risk))
    tail = sum(comb(trials, k) * bound**k * (1 - bound) ** (trials - k) for k in range(wrong + 1))
    assert float(tail) == pytest.approx(risk, rel=1e-6)
    assert bound > Fraction(wrong, trials)


def test_the_bound_of_none_is_known_in_closed_form() -> None:
    assert binomial_upper_bound(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-9)
    assert binomial_upper_bound(0, 0, 0.05) == 1
    assert binomial_upper_bound(7, 7, 0.05) == 1


def drawn(generator: np.random.Generator, size: int = QUESTIONS) -> Answers:
    """First answers of doubt u, uniform from 0 to 1, are wrong with the probability u²; second ones right."""
    doubt = generator.uniform(0, 1, size)
    first = (generator.random(size) >= doubt**2).astype(float)
    ones = np.ones(size)
    return Answers(doubt, first, ones, ones, ones * generator.uniform(0.5, 1.5, size), np.arange(size))


def truly_wrong(threshold: float) -> float:
    """The mean of u² below the threshold."""
    return min(threshold, 1.0) ** 2 / 3


@pytest.mark.parametrize(
    "target",
    [
        Target(kind="retransmission_rate", value=0.4),
        Target(kind="bytes", value=1.45),
        Target(kind="accuracy", value=0.9),
    ],
    ids=lambda target: target.kind,
)
def test_the_bound_holds_as_often_as_it_says(target: Target) -> None:
    """Also where the threshold was chosen by looking at the very answers that it is bounded by."""
    generator = np.random.default_rng(12)
    broken, widths = 0, []
    for _ in range(DRAWS):
        answers = drawn(generator)
        choice = choose(answers, target, resamples=1)
        found = wrong_share(answers, choice.threshold.value, 1 - RISK, choice.candidates)
        truth = truly_wrong(choice.threshold.value)
        broken += found.bound < truth
        widths.append(found.bound - truth)
    # Three standard deviations above the risk would be chance no more.
    assert broken / DRAWS <= RISK + 3 * (RISK * (1 - RISK) / DRAWS) ** 0.5
    assert np.median(widths) < 0.2
    if target.kind == "retransmission_rate":
        assert broken / DRAWS >= RISK / 4  # exact but for the binomial's steps, not merely safe


def test_what_is_counted() -> None:
    doubt = np.array([-np.inf, 0.1, 0.2, 0.9, 1.0])
    first = np.array([0.0, 0.5, 0.49, 0.0, 0.0])
    ones = np.ones(5)
    found = wrong_share(Answers(doubt, first, ones, ones, ones, np.arange(5)), 0.9, 0.95, 1)
    assert (found.unrefined, found.wrong, found.candidates) == (3, 2, 1)
    assert found.bound == binomial_upper_bound(2, 3, 1 - 0.95)
    many = wrong_share(Answers(doubt, first, ones, ones, ones, np.arange(5)), 0.9, 0.95, 10)
    assert many.bound == binomial_upper_bound(2, 3, (1 - 0.95) / 10) > found.bound


def test_the_bound_holds_where_questions_about_one_picture_go_wrong_together() -> None:
    generator, target = np.random.default_rng(5), Target(kind="retransmission_rate", value=0.4)
    broken = 0
    for _ in range(DRAWS):
        alone = drawn(generator)
        each = np.repeat(np.arange(QUESTIONS), 5)
        answers = Answers(*(getattr(alone, field.name)[each] for field in fields(alone)))
        choice = choose(answers, target, resamples=1)
        found = wrong_share(answers, choice.threshold.value, 1 - RISK, choice.candidates)
        assert found.unrefined == (alone.need < choice.threshold.value).sum()
        broken += found.bound < truly_wrong(choice.threshold.value)
    assert broken / DRAWS <= RISK + 3 * (RISK * (1 - RISK) / DRAWS) ** 0.5
