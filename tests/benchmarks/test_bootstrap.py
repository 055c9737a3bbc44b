"""Intervals against what is known about a proportion, and against resampling by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secondlook.benchmarks.analysis.bootstrap import Bootstrap, interval


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
