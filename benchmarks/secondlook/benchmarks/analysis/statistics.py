"""Intervals by the bootstrap (pictures are drawn anew, each with all of its questions), and how well doubt
tells wrong answers from right ones: area under ROC, histograms and their overlap.

Song & Kim, arXiv 2512.16349, Tables II and III, compare measures by the overlap of the two histograms and by
their Bhattacharyya distance. How the histograms were binned is not stated; here it is `BINS` of equal width,
from the least to the largest value of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, FloatArray, IntArray

LEVEL: Final = 0.95
"""Of all intervals; they are between percentiles."""

_MOST: Final = 1000
_FEWEST: Final = 200
_WORK: Final = 20_000_000
"""Questions drawn altogether: a long log needs no more resamples than its figures have digits."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; all NaN where there is nothing to take it from."""

    value: float
    low: float
    high: float


class Bootstrap:
    """The same resamples of a log's questions, for every figure taken from it.

    Args:
        pictures: [questions], which picture each is about.
        resamples: by default from 200 to 1000, the fewer the longer the log.

    Attributes:
        picture: [questions], the column of `drawn` that is a question's picture.
        drawn: [resamples, pictures], how often each picture was drawn.
    """

    def __init__(self, pictures: IntArray, resamples: int | None = None, seed: int = 0) -> None:
        names, self.picture = np.unique(pictures, return_inverse=True)
        count = len(names)
        self.resamples = (
            int(np.clip(_WORK // len(pictures), _FEWEST, _MOST)) if resamples is None else resamples
        )
        rng = np.random.default_rng(seed)
        self.drawn = np.empty((self.resamples, count))
        for row in self.drawn:
            row[:] = np.bincount(rng.integers(count, size=count), minlength=count)

    def weights(self) -> Iterator[FloatArray]:
        """[questions] for each resample: how often a question is in it."""
        for row in self.drawn:
            yield row[self.picture]

    def sums(self, *values: FloatArray) -> FloatArray:
        """[resamples, values], the sum of each in each resample."""
        count = self.drawn.shape[1]
        by_picture = np.stack([np.bincount(self.picture, each, count) for each in values], axis=1)
        found: FloatArray = self.drawn @ by_picture
        return found

    def means(self, *values: FloatArray) -> list[Estimate]:
        """Means over questions; NaN values are left out."""
        known = [~np.isnan(each) for each in values]
        filled = [np.where(there, each, 0.0) for there, each in zip(known, values, strict=True)]
        above, counts = np.split(self.sums(*filled, *known).T, 2)
        with np.errstate(invalid="ignore"):
            found = [each.sum() / there.sum() for each, there in zip(filled, known, strict=True)]
            return list(map(interval, map(float, found), above / counts))

    def mean(self, values: FloatArray) -> Estimate:
        return self.means(values)[0]

    def ratio(self, above: FloatArray, below: FloatArray) -> Estimate:
        """One sum over another; `below` is positive."""
        sums = self.sums(above, below)
        return interval(float(above.sum() / below.sum()), sums[:, 0] / sums[:, 1])


def interval(value: float, resampled: FloatArray, *, centred: bool = False) -> Estimate:
    """Between the percentiles of what the resamples gave; those that gave NaN have no say.

    Args:
        centred: move the resamples so that their median is the value: for figures that drawing anew biases.
    """
    found = resampled[~np.isnan(resampled)]
    if not np.isfinite(value) or not len(found):
        return Estimate(value, np.nan, np.nan)
    if centred:
        median = float(np.quantile(found, 0.5, method="nearest"))
        if not np.isfinite(median):
            return Estimate(value, np.nan, np.nan)
        found = found + (value - median)
    # A resample's own figure, never one between two: it may be infinite.
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Estimate(value, float(low), float(high))


BINS: Final = 50


@dataclass(frozen=True)
class Histograms:
    """Shares of the right and of the wrong answers in bins of doubt; each sums to 1, or is 0 throughout."""

    edges: FloatArray
    right: FloatArray
    wrong: FloatArray


@dataclass(frozen=True)
class Separation:
    """How one measure parts right from wrong: the overlap from 0 (perfectly) to 1, the distance from 0 up."""

    auroc: Estimate
    overlap: Estimate
    bhattacharyya: Estimate


def auroc(values: FloatArray, positive: BoolArray) -> float:
    """Area under the ROC curve of `values` as a score for `positive`: ties count half; 0.5 without both.

    It is the Mann-Whitney statistic.
    """
    return _Ranked(values, positive).auroc(np.ones(len(values)))


def histograms(values: FloatArray, wrong: BoolArray, bins: int = BINS) -> Histograms:
    """Of doubts [questions]."""
    edges = np.histogram_bin_edges(values, bins)
    right, false = (np.histogram(values[chosen], edges)[0] for chosen in (~wrong, wrong))
    return Histograms(edges, _shares(right), _shares(false))


def overlap(one: FloatArray, other: FloatArray) -> float:
    """The area that two histograms of shares have in common."""
    return float(np.minimum(one, other).sum())


def bhattacharyya(one: FloatArray, other: FloatArray) -> float:
    """-ln Σ √(p q); infinite if two histograms of shares have no bin in common."""
    with np.errstate(divide="ignore"):
        return float(0.0 - np.log(np.sqrt(one * other).sum()))


def separation(values: FloatArray, wrong: BoolArray, boot: Bootstrap) -> Separation:
    """All three, with intervals; NaN unless some answers are right and some wrong."""
    if wrong.all() or not wrong.any():
        none = Estimate(np.nan, np.nan, np.nan)
        return Separation(none, none, none)
    ranked = _Ranked(values, wrong)
    shown = histograms(values, wrong)
    place = np.clip(np.searchsorted(shown.edges, values, "right") - 1, 0, BINS - 1) + BINS * wrong
    found = []
    for weights in boot.weights():
        counts = np.bincount(place, weights, 2 * BINS)
        if not counts[:BINS].any() or not counts[BINS:].any():
            continue  # nothing to tell apart, and so no say
        right, false = _shares(counts[:BINS]), _shares(counts[BINS:])
        found.append((ranked.auroc(weights), overlap(right, false), bhattacharyya(right, false)))
    first, second, third = np.array(found).reshape(-1, 3).T
    return Separation(
        interval(ranked.auroc(np.ones(len(values))), first),
        # Drawing anew thins histograms out, and so lessens what they have in common.
        interval(overlap(shown.right, shown.wrong), second, centred=True),
        interval(bhattacharyya(shown.right, shown.wrong), third, centred=True),
    )


class _Ranked:
    """Values with their ties, sorted once for many weightings."""

    def __init__(self, values: FloatArray, positive: BoolArray) -> None:
        distinct, inverse = np.unique(values, return_inverse=True)
        self._size = len(distinct)
        self._place = inverse + self._size * positive

    def auroc(self, weights: FloatArray) -> float:
        counts = np.bincount(self._place, weights, 2 * self._size)
        negative, positive = counts[: self._size], counts[self._size :]
        pairs = negative.sum() * positive.sum()
        if pairs == 0:
            return 0.5
        below = np.cumsum(negative) - negative / 2  # ties count half
        return float(positive @ below / pairs)


def _shares(counts: FloatArray | IntArray) -> FloatArray:
    shares: FloatArray = counts / max(float(counts.sum()), 1e-300)
    return shares
