"""How measures part right from wrong, against counting pairs and against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondlook.benchmarks.analysis.bootstrap import Bootstrap
from secondlook.benchmarks.analysis.separation import (
    BINS,
    auroc,
    bhattacharyya,
    histograms,
    overlap,
    separation,
)

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
