"""Decisions on paper."""

from __future__ import annotations

import math

import pytest

from edge.support import square
from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Region, Size
from secondlook.edge.wire import AnswerOptions, Budget, View
from secondlook.engine.method.decision import decide, no_detail_to_gain
from secondlook.engine.method.policy import Policy, keep_second
from secondlook.engine.method.uncertainty import TokenStatistics

POLICY = Policy(threshold=0.5)


@pytest.mark.parametrize(("uncertainty", "wanted"), [(0.49, False), (0.5, True), (0.51, True)])
def test_an_answer_is_sure_only_below_the_threshold(uncertainty: float, wanted: bool) -> None:
    assert decide(uncertainty, 0.5, "auto", detail=True) == ("unsure" if wanted else "sure")


def test_a_threshold_of_zero_always_looks_twice() -> None:
    assert decide(0.0, 0.0, "auto", detail=True) == "unsure"


def test_an_infinite_threshold_never_looks_twice_unless_that_is_demanded() -> None:
    assert decide(1e300, math.inf, "auto", detail=True) == "sure"
    assert decide(0.0, math.inf, "always", detail=True) == "unsure"
    assert decide(9.0, 0.0, "never", detail=False) == "disabled"
    assert decide(9.0, 0.0, "always", detail=False) == "no_detail_to_gain"


@pytest.mark.parametrize(("second", "kept"), [(0.6, True), (0.7, True), (0.71, False)])
def test_arbitration_keeps_the_surer_answer_and_the_second_on_a_tie(second: float, kept: bool) -> None:
    assert keep_second(0.7, second, POLICY) is kept


def test_without_arbitration_the_second_answer_stands() -> None:
    assert keep_second(0.1, 9.0, Policy(threshold=0.5, arbitration=False))


@pytest.mark.parametrize(
    ("original", "region", "nothing"),
    [
        (Size(336, 336), None, True),
        (Size(100, 336), None, True),
        (Size(337, 336), None, False),
        (Size(336, 1000), None, False),
        (Size(400, 500), Region(0, 0, 400, 500), True),
        (Size(400, 500), Region(0, 0, 399, 500), False),
        (Size(400, 500), Region(0, 1, 400, 500), False),
    ],
)
def test_detail_to_gain(original: Size, region: Region | None, nothing: bool) -> None:
    assert no_detail_to_gain(square(336), original, region) is nothing


def test_under_a_budget_of_pixels_detail_is_gained_where_the_target_is_smaller() -> None:
    view = View(size=Budget(multiple=28, least_pixels=28 * 28, most_pixels=28 * 28 * 64))
    assert no_detail_to_gain(view, Size(140, 140))
    assert no_detail_to_gain(view, Size(150, 130)) is False  # 140 by 140 is narrower
    assert no_detail_to_gain(view, Size(1000, 800)) is False


def test_options_go_over_the_policy_and_leave_the_rest() -> None:
    policy = Policy(threshold=0.5, measure="margin", aggregation="first", first_k=3, arbitration=False)
    assert policy.with_options(AnswerOptions()) == policy
    options = AnswerOptions(threshold=0.0, measure="shannon_entropy", include_eos=False, arbitration=True)
    expected = Policy(
        threshold=0.0,
        measure="shannon_entropy",
        aggregation="first",
        first_k=3,
        include_eos=False,
        arbitration=True,
    )
    assert policy.with_options(options) == expected
    other = policy.with_options(AnswerOptions(aggregation="first_k", first_k=2))
    assert (other.aggregation, other.first_k) == ("first_k", 2)


def test_another_measure_needs_its_own_threshold() -> None:
    policy = Policy(threshold=0.5)
    with pytest.raises(SettingsError, match=r"margin needs a threshold of its own.*min_entropy"):
        policy.with_options(AnswerOptions(measure="margin"))
    assert policy.with_options(AnswerOptions(measure="min_entropy")) == policy
    assert policy.with_options(AnswerOptions(measure="margin", threshold=0.25)).threshold == 0.25
    for whatever in ("always", "never"):
        asked = AnswerOptions(measure="margin", second_look=whatever)
        assert policy.with_options(asked).measure == "margin"


def test_uncertainty_follows_the_policy() -> None:
    tokens = [TokenStatistics(1.0, 2.0, 0.25, False), TokenStatistics(3.0, 4.0, 0.75, True)]
    assert Policy(threshold=1).uncertainty(tokens) == 2.0
    assert Policy(threshold=1, measure="margin", include_eos=False).uncertainty(tokens) == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": -0.1}, "-0.1"),
        ({"threshold": math.nan}, "nan"),
        ({"threshold": math.inf}, "inf"),
        ({"threshold": 1, "measure": "doubt"}, "doubt"),
        ({"threshold": 1, "aggregation": "last"}, "last"),
        ({"threshold": 1, "first_k": 0}, "0"),
    ],
)
def test_impossible_policies_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Policy(**settings)
