"""The means over tokens, and what measures say of probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.engine.method.uncertainty import TokenStatistics, aggregate


def token(value: float, *, is_eos: bool = False) -> TokenStatistics:
    return TokenStatistics(value, 10 * value, 100 * value, is_eos)


TOKENS = [token(1.0), token(2.0), token(6.0), token(7.0, is_eos=True)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 4.0),
        ({"measure": "shannon_entropy"}, 40.0),
        ({"measure": "margin"}, 400.0),
        ({"include_eos": False}, 3.0),
        ({"aggregation": "first"}, 1.0),
        ({"aggregation": "first_k", "first_k": 2}, 1.5),
        ({"aggregation": "first_k", "first_k": 5}, 4.0),
        ({"aggregation": "first_k", "first_k": 5, "include_eos": False}, 3.0),
    ],
)
def test_aggregation(settings: dict[str, object], expected: float) -> None:
    assert aggregate(TOKENS, **settings) == expected


def test_an_answer_of_nothing_but_the_end_token_has_its_doubt() -> None:
    assert aggregate([token(3.0, is_eos=True)], include_eos=False) == 3.0


def test_no_token_has_no_doubt() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        aggregate([])


def test_probabilities_are_recovered() -> None:
    first, second = 0.6, 0.3
    one = TokenStatistics(-math.log(first), 0.9, 1 - (first - second), is_eos=False)
    assert one.max_probability == pytest.approx(first, rel=1e-12)
    assert one.second_probability == pytest.approx(second, rel=1e-12)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=20))
def test_mean_min_entropy_is_the_normalised_negative_log_likelihood(values: list[float]) -> None:
    tokens = [TokenStatistics(v, v, 0.5, False) for v in values]
    log_likelihood = sum(math.log(t.max_probability) for t in tokens)
    assert aggregate(tokens) == pytest.approx(-log_likelihood / len(values), abs=1e-9)
