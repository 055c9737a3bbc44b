"""Measures against their definitions in float64, and the means over tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secondlook.engine.uncertainty import TokenStatistics, aggregate, statistics


def reference(logits: list[float]) -> tuple[float, float, float]:
    """The definitions, from probabilities in extended precision."""
    values = np.array(logits, dtype=np.longdouble)
    weights = np.exp(values - values.max())
    p = weights / weights.sum()
    ordered = np.sort(p)[::-1]
    positive = p[p > 0]
    second = ordered[1] if len(ordered) > 1 else 0
    return (
        float(-np.log(ordered[0])),
        float(-(positive * np.log(positive)).sum()),
        float(1 - (ordered[0] - second)),
    )


finite = st.floats(-60, 60, allow_nan=False)


@given(st.lists(finite | st.just(-math.inf), min_size=1, max_size=12), finite)
def test_measures_match_their_definitions(rest: list[float], certain: float) -> None:
    logits = [*rest, certain]
    measures = statistics(torch.tensor(logits, dtype=torch.float64))
    expected = reference(logits)
    assert [float(value) for value in measures] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.lists(finite, min_size=2, max_size=12))
def test_float32_and_half_are_computed_in_float32(logits: list[float]) -> None:
    half = torch.tensor(logits, dtype=torch.float16)
    for tensor in (half, half.float()):
        measures = statistics(tensor)
        assert all(value.dtype == torch.float32 for value in measures)
        expected = reference(half.double().tolist())
        assert [float(value) for value in measures] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_leading_dimensions_are_kept() -> None:
    logits = torch.randn(3, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    measures = statistics(logits)
    assert all(value.shape == (3, 4) for value in measures)
    assert float(measures.shannon_entropy[2, 1]) == pytest.approx(
        reference(logits[2, 1].tolist())[1], rel=1e-12
    )


def test_a_uniform_and_a_certain_token() -> None:
    uniform = statistics(torch.zeros(8, dtype=torch.float64))
    assert [float(v) for v in uniform] == pytest.approx([math.log(8), math.log(8), 1.0])
    certain = statistics(torch.tensor([0.0, -math.inf, -math.inf]))
    assert [float(v) for v in certain] == [0.0, 0.0, 0.0]
    assert [float(v) for v in statistics(torch.tensor([3.0]))] == [0.0, 0.0, 0.0]


def test_very_sure_tokens_keep_their_order_in_float32() -> None:
    # 1 - p is about 2e-9 and 5e-14, both lost to a float32 probability.
    less, more = statistics(torch.tensor([[20.0, 0.0], [31.0, 0.0]])).min_entropy.tolist()
    assert less == pytest.approx(math.exp(-20), rel=1e-5)
    assert more == pytest.approx(math.exp(-31), rel=1e-5)


@pytest.mark.parametrize("logits", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_what_is_no_distribution_measures_nan(logits: list[float]) -> None:
    assert all(math.isnan(float(value)) for value in statistics(torch.tensor(logits)))


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        statistics(torch.tensor([1, 2]))


def test_the_input_is_not_changed() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    statistics(logits)
    assert logits.tolist() == [1.0, 3.0, 2.0]


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


def test_impossible_aggregations_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        aggregate([])
    with pytest.raises(ValueError, match="got 0"):
        aggregate(TOKENS, aggregation="first_k", first_k=0)
    with pytest.raises(ValueError, match="'last'"):
        aggregate(TOKENS, aggregation="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'entropy'"):
        aggregate(TOKENS, measure="entropy")  # type: ignore[arg-type]


def test_probabilities_are_recovered() -> None:
    logits = [2.0, 1.0, -1.0]
    one = TokenStatistics(
        *(float(v) for v in statistics(torch.tensor(logits, dtype=torch.float64))), is_eos=False
    )
    p = torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()
    assert one.max_probability == pytest.approx(p[0], rel=1e-12)
    assert one.second_probability == pytest.approx(p[1], rel=1e-12)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=20))
def test_mean_min_entropy_is_the_normalised_negative_log_likelihood(values: list[float]) -> None:
    tokens = [TokenStatistics(v, v, 0.5, False) for v in values]
    log_likelihood = sum(math.log(t.max_probability) for t in tokens)
    assert aggregate(tokens) == pytest.approx(-log_likelihood / len(values), abs=1e-9)
