"""The budget on paper: what it promises of every stretch of questions, and where its threshold lies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.edge.errors import SettingsError
from secondlook.engine.method.budget import BudgetedThreshold, BudgetSettings

START = 0.7


def followed(
    budget: BudgetedThreshold, doubts: list[float], possible: list[bool] | None = None
) -> list[bool]:
    """Which of the questions are looked at twice."""
    looks = []
    for number, doubt in enumerate(doubts):
        looked = doubt >= budget.threshold and (possible is None or possible[number])
        budget.record(doubt, looked=looked)
        looks.append(looked)
    return looks


def counts(looks: list[bool], length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Second looks in every stretch of so many questions."""
    sums = np.concatenate([[0], np.cumsum(looks)])
    return sums[length:] - sums[:-length]


# Steps of doubt up and down, and no doubt at all for long: nothing here is like a random stream.
STRETCHES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 5.0, 1e9]), st.floats(0, 1), st.integers(1, 150)), max_size=12
)


@given(stretches=STRETCHES, rate=st.sampled_from([0.01, 0.2, 0.4, 0.5, 0.93]))
def test_the_rate_of_every_span_is_within_the_slack(
    stretches: list[tuple[float, float, int]], rate: float
) -> None:
    doubts = [base + spread * (n % 7) for base, spread, length in stretches for n in range(length)]
    settings = BudgetSettings(rate, window=40, span=100, slack=4.0)
    looks = followed(BudgetedThreshold(settings, START), doubts)
    if len(looks) >= settings.span:
        assert np.abs(counts(looks, settings.span) - rate * settings.span).max() <= settings.slack + 1 + 1e-9


def test_the_defaults_keep_two_points_over_500_questions() -> None:
    generator = np.random.default_rng(5)
    easy, hard = generator.exponential(0.1, 2500), generator.exponential(3.0, 2500)
    doubts = np.concatenate([easy, hard, np.repeat(easy, 2), hard[::-1]]).tolist()
    looks = followed(BudgetedThreshold(BudgetSettings(0.4), START), doubts)
    assert np.abs(counts(looks, 500)[200:] / 500 - 0.4).max() <= 0.02 + 1e-9


def test_on_a_steady_stream_the_most_doubtful_are_looked_at() -> None:
    doubts = np.random.default_rng(6).uniform(0, 1, 4000)
    budget = BudgetedThreshold(BudgetSettings(0.3), START)
    looks = np.array(followed(budget, doubts.tolist()))
    assert looks.mean() == pytest.approx(0.3, abs=0.003)
    assert budget.tracked == pytest.approx(0.7, abs=0.08)
    # By chance alone it would be 0.5; the fixed threshold 0.7 has 0.85.
    assert doubts[looks].mean() > 0.82


def test_the_threshold_follows_a_shift() -> None:
    budget = BudgetedThreshold(BudgetSettings(0.5, window=50), START)
    followed(budget, [float(n % 10) for n in range(100)])
    assert budget.tracked == pytest.approx(4.5, abs=0.6)
    followed(budget, [100.0 + n % 10 for n in range(100)])
    assert budget.tracked == pytest.approx(104.5, abs=0.6)


def test_it_starts_from_the_threshold_given() -> None:
    budget = BudgetedThreshold(BudgetSettings(0.5), START)
    assert budget.threshold == budget.tracked == START
    for _ in range(19):
        budget.record(9.0, looked=False)
        assert budget.tracked == START
    budget.record(9.0, looked=False)
    assert budget.tracked == 9.0


def test_the_threshold_is_the_quantile_and_is_shut_and_opened_at_the_slack() -> None:
    budget = BudgetedThreshold(BudgetSettings(0.5, window=21, slack=2.0), START)
    for doubt in range(21):
        budget.record(float(doubt), looked=doubt % 2 == 0)
    assert budget.tracked == 10.0  # as many above as below
    assert budget.threshold == pytest.approx(10.0 + 20 * 0.5 * 0.25**5)  # half a look ahead, of two
    for _ in range(3):
        budget.record(10.0, looked=True)
    assert budget.threshold == math.inf
    assert math.isfinite(budget.tracked)
    for _ in range(8):
        budget.record(10.0, looked=False)
    assert budget.threshold == 0.0


def test_what_cannot_be_spent_is_not_saved_up() -> None:
    settings = BudgetSettings(0.5, window=30, span=1000, slack=3.0)
    budget = BudgetedThreshold(settings, START)
    followed(budget, [1.0] * 400, [False] * 400)
    looks = followed(budget, [float(n % 10) for n in range(100)])
    assert sum(looks) <= 50 + 2 * (settings.slack + 1)


def test_it_counts() -> None:
    budget = BudgetedThreshold(BudgetSettings(0.5), START)
    followed(budget, [1.0, 0.1, 1.0], [True, True, False])
    budget.received(800)
    assert (budget.questions, budget.looks, budget.bytes) == (3, 1, 800)


def bytes_a_second(pace: float, size: float, wanted: float, count: int = 3000) -> tuple[float, float]:
    """(rate, bytes a second) of a steady stream with local images of about this size."""
    generator = np.random.default_rng(7)
    budget = BudgetedThreshold(BudgetSettings(bytes_per_second=wanted), START, local_bytes=123.0)
    now, looks = 0.0, 0
    for doubt in generator.uniform(0, 1, count).tolist():
        now += generator.exponential(1 / pace)
        looked = doubt >= budget.threshold
        budget.record(doubt, looked=looked, now=now)
        if looked:
            looks += 1
            budget.received(int(size * generator.uniform(0.5, 1.5)))
    return looks / count, budget.bytes / now


def test_bytes_a_second_are_kept_whatever_the_pace_and_the_size() -> None:
    for pace, size, expected in ((1.0, 1000, 0.4), (2.0, 1000, 0.2), (0.7, 2000, 0.286)):
        rate, sent = bytes_a_second(pace, size, wanted=400.0)
        assert sent == pytest.approx(400.0, rel=0.02)
        assert rate == pytest.approx(expected, rel=0.05)


def test_bytes_a_second_are_a_ceiling_where_questions_are_few() -> None:
    rate, sent = bytes_a_second(pace=0.1, size=1000, wanted=400.0)
    assert rate > 0.95
    assert sent < 110


def test_an_idle_hour_buys_no_burst() -> None:
    budget = BudgetedThreshold(BudgetSettings(bytes_per_second=10.0), START, local_bytes=100.0)
    for number in range(100):
        looked = budget.threshold <= 1.0
        budget.record(1.0, looked=looked, now=float(number))
    now, looks = 100.0 + 3600.0, 0
    for _ in range(100):
        now += 0.01
        looked = budget.threshold <= 1.0
        budget.record(1.0, looked=looked, now=now)
        looks += looked
    assert looks <= 2 * (budget.settings.slack + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either a retransmission rate or bytes per second, not None and None"),
        ({"retransmission_rate": 0.4, "bytes_per_second": 9.0}, "not 0.4 and 9.0"),
        ({"retransmission_rate": 0.0}, "retransmission_rate should be greater than 0, not 0.0"),
        ({"retransmission_rate": 1.0}, "retransmission_rate should be less than 1, not 1.0"),
        ({"retransmission_rate": math.nan}, "not nan"),
        ({"bytes_per_second": 0.0}, "bytes_per_second should be greater than 0, not 0.0"),
        ({"bytes_per_second": math.inf}, "not inf"),
        ({"retransmission_rate": 0.4, "window": 19}, "window should be greater than or equal to 20, not 19"),
        ({"retransmission_rate": 0.4, "span": 1}, "span should be greater than or equal to 2, not 1"),
        ({"retransmission_rate": 0.4, "slack": 0.5}, "slack should be greater than or equal to 1, not 0.5"),
    ],
)
def test_impossible_budgets_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BudgetSettings(**settings)
