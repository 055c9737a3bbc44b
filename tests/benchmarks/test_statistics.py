"""Intervals and separation, against what is known and against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.benchmarks.analysis.statistics import (
    BINS,
    Bootstrap,
    auroc,
    bhattacharyya,
    histograms,
    interval,
    overlap,
    separation,
)


def test_the_interval_of_a_proportion_is_the_binomials() -> None:
    count, right = 400, 100
    values = np.repeat([1.0, 0.0], [right, count - right])
    found = Bootstrap(np.arange(count), resamples=4000).mean(values)
    error = 1.96 * math.sqrt(0.25 * 0.75 / count)
    assert found.value == 0.25
    # The percentiles of 4,000 resamples are off by about a fortieth of the interval's half width.
    assert found.low == pytest.approx(0.25 - error, abs=0.006)
    assert found.high == pytest.approx(0.25 + error, abs=0.006)


def test_questions_about_one_picture_count_as_one() -> None:
    values = np.repeat([1.0, 0.0], [10, 30])
    alone = Bootstrap(np.arange(40), resamples=2000).mean(values)
    fourfold = Bootstrap(np.repeat(np.arange(40), 4), resamples=2000).mean(np.repeat(values, 4))
    assert (fourfold.low, fourfold.high) == pytest.approx((alone.low, alone.high), abs=1e-12)


def test_a_resample_is_as_many_pictures_each_whole() -> None:
    boot = Bootstrap(np.array([7, 7, 2, 9]), resamples=50)
    for weights in boot.weights():
        assert weights[0] == weights[1]
        assert weights[0] + weights[2] + weights[3] == 3
        assert set(weights) <= {0.0, 1.0, 2.0, 3.0}


def test_sums_are_those_of_the_resamples() -> None:
    rng = np.random.default_rng(0)
    boot = Bootstrap(rng.integers(0, 10, 30), resamples=20)
    one, other = rng.random(30), rng.random(30)
    expected = [(weights @ one, weights @ other) for weights in boot.weights()]
    assert boot.sums(one, other) == pytest.approx(np.array(expected))
    assert boot.ratio(one, other).value == pytest.approx(one.sum() / other.sum())


def test_what_is_not_known_is_left_out() -> None:
    boot = Bootstrap(np.arange(6), resamples=300)
    values = np.array([1.0, 0.0, np.nan, np.nan, 1.0, 1.0])
    some, all_known, none = boot.means(values, np.ones(6), np.full(6, np.nan))
    assert some.value == 0.75
    assert 0 <= some.low < 0.75 <= some.high <= 1
    assert (all_known.value, all_known.low, all_known.high) == (1.0, 1.0, 1.0)
    assert np.isnan([none.value, none.low, none.high]).all()


def test_more_questions_get_fewer_resamples() -> None:
    assert Bootstrap(np.arange(500)).resamples == 1000
    assert Bootstrap(np.zeros(40_000, np.int64)).resamples == 500
    assert Bootstrap(np.zeros(1_000_000, np.int64)).resamples == 200


def test_the_resamples_are_the_same_every_time() -> None:
    one, other = (Bootstrap(np.arange(9), resamples=5).drawn for _ in range(2))
    assert np.array_equal(one, other)


def test_an_interval_may_be_centred_on_its_value() -> None:
    resampled = np.linspace(1.0, 2.0, 1001)
    assert interval(9.0, resampled).low == pytest.approx(1.025)
    centred = interval(9.0, resampled, centred=True)
    assert (centred.low, centred.high) == pytest.approx((8.525, 9.475))
    unbounded = interval(1.0, np.array([0.5] * 50 + [np.inf] * 50))
    assert unbounded.high == np.inf
    assert np.isnan(interval(np.inf, resampled).low)


PAIRS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 0.75, 1.0, 4.0]), st.booleans()), min_size=2, max_size=15
)


@given(PAIRS)
def test_resampled_areas_count_the_pairs_of_the_resample(pairs: list[tuple[float, bool]]) -> None:
    values = np.array([value for value, _ in pairs])
    wrong = np.array([label for _, label in pairs])
    boot = Bootstrap(np.arange(len(pairs)), resamples=5)
    areas = []
    for weights in boot.weights():
        rows = np.repeat(np.arange(len(pairs)), weights.astype(int))
        if set(wrong[rows]) == {True, False}:  # otherwise there is no pair to count
            areas.append(auroc(values[rows], wrong[rows]))
    if wrong.all() or not wrong.any():
        assert np.isnan(separation(values, wrong, boot).auroc.value)
    else:
        found = separation(values, wrong, boot).auroc
        assert found.value == auroc(values, wrong)
        ends = (min(areas), max(areas)) if areas else (np.nan, np.nan)
        assert (found.low, found.high) == pytest.approx(ends, abs=1e-12, nan_ok=True)


def test_overlap_and_distance_by_hand() -> None:
    one, other = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.25, 0.75])
    assert overlap(one, other) == 0.25
    assert bhattacharyya(one, other) == pytest.approx(-math.log(math.sqrt(0.125)))
    assert (overlap(one, one), bhattacharyya(one, one)) == pytest.approx((1.0, 0.0))
    assert bhattacharyya(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == math.inf


def test_histograms_are_shares_between_the_least_and_the_largest() -> None:
    values = np.array([0.0, 0.1, 2.0, 5.0, 5.0])
    found = histograms(values, np.array([False, False, False, True, True]), bins=5)
    assert found.edges.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.right == pytest.approx([2 / 3, 0, 1 / 3, 0, 0])
    assert found.wrong.tolist() == [0, 0, 0, 0, 1]


def test_the_distance_of_two_normal_distributions_is_the_known_one() -> None:
    # For equal variances it is a quarter of the squared difference of means over twice the variance.
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 200_000), rng.normal(2, 1, 200_000)])
    wrong = np.repeat([False, True], 200_000)
    found = histograms(values, wrong)
    assert len(found.right) == BINS
    assert bhattacharyya(found.right, found.wrong) == pytest.approx(0.5, abs=0.02)
    assert overlap(found.right, found.wrong) == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=0.01)
    assert auroc(values, wrong) == pytest.approx(0.5 * math.erfc(-1.0), abs=0.003)


def test_intervals_hold_the_figures() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.exponential(1, 150), rng.exponential(4, 50)])
    found = separation(values, np.repeat([False, True], [150, 50]), Bootstrap(np.arange(200), resamples=200))
    for each in (found.auroc, found.overlap, found.bhattacharyya):
        assert each.low < each.value < each.high
