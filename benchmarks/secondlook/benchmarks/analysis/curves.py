"""Accuracy against what it costs: questions are looked at again in some order, as far as a threshold goes.

Song & Kim, arXiv 2512.16349. Sorted by the uncertainty of their first answers, every threshold is a prefix of
the questions, and every sum over those that get a second look a prefix sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.analysis.statistics import LEVEL, Bootstrap

NEAR: Final = 0.01
"""What counts as nearly an accuracy."""

_CUTS: Final = 100
"""Places along a curve that its band is computed at."""


@dataclass(frozen=True)
class Cost:
    """What is spent on each question, for a sum over all in proportion to a unit: Σ (base + extra) / Σ unit.

    Attributes (each [questions]):
        base: without a second look.
        extra: what a second look adds; 0 where there is none to be had.
        unit: what is divided by.
    """

    base: FloatArray
    extra: FloatArray
    unit: FloatArray


@dataclass(frozen=True)
class Line:
    """Points of a curve, from no second look (the first) to all of them.

    Attributes (each [points]):
        thresholds: a point's second looks are those with at least this key; the first is infinite.
        cost, accuracy: means over the questions.
    """

    thresholds: FloatArray
    cost: FloatArray
    accuracy: FloatArray

    def at(self, cost: FloatArray) -> FloatArray:
        """Accuracy at any costs: between two points by looking again at some, at random, of the questions
        between them."""
        return np.interp(cost, self.cost, self.accuracy)


@dataclass(frozen=True)
class Band:
    """Intervals of the accuracy at some costs."""

    cost: FloatArray
    low: FloatArray
    high: FloatArray


class TradeOff:
    """Second looks in descending order of a key; questions of equal keys go together.

    Args (each [questions]):
        key: the uncertainty, or what else decides.
        first: scores of the first answers.
        gain: what a second look adds to the score.
    """

    def __init__(self, key: FloatArray, first: FloatArray, gain: FloatArray) -> None:
        self._order = np.argsort(-key, kind="stable")
        self._keys = key[self._order]
        self._first, self._gain = first, gain
        changes = np.flatnonzero(self._keys[1:] != self._keys[:-1]) + 1
        self._ends = np.append(changes, len(key))  # each threshold's looks are those before its end

    def line(self, cost: Cost, count: FloatArray | None = None) -> Line:
        """Every threshold there is.

        Args:
            count: [questions], how often each counts; once unless told.
        """
        count = np.ones(len(self._first)) if count is None else count
        accuracy = self._sums(count * self._gain, count * self._first) / count.sum()
        spent = self._sums(count * cost.extra, count * cost.base) / (count * cost.unit).sum()
        return Line(np.append(np.inf, self._keys[self._ends - 1]), spent, accuracy)

    def band(self, cost: Cost, boot: Bootstrap) -> Band:
        """Intervals of the accuracy at a hundred costs, from none to all second looks."""
        line = self.line(cost)
        grid = np.linspace(line.cost[0], line.cost[-1], _CUTS + 1)
        lines = self.resampled(cost, boot)
        accuracy = np.array([np.interp(grid, spent, score) for spent, score in lines])
        low, high = np.quantile(accuracy, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return Band(grid, low, high)

    def resampled(self, cost: Cost, boot: Bootstrap) -> list[tuple[FloatArray, FloatArray]]:
        """(costs, accuracies) of each resample, at about a hundred of the thresholds, the same for all."""
        wanted = np.searchsorted(self._ends, np.linspace(0, len(self._order), _CUTS + 1)[1:])
        ends = self._ends[np.unique(np.minimum(wanted, len(self._ends) - 1))]
        starts = np.concatenate([[0], ends[:-1]])
        picture = boot.picture[self._order]
        gain, extra = self._gain[self._order], cost.extra[self._order]
        ones = np.ones(len(self._first))
        totals = boot.sums(cost.base, self._first, cost.unit, ones)
        found = []
        for drawn, (base, first, unit, count) in zip(boot.drawn, totals, strict=True):
            weights = drawn[picture]
            added = np.cumsum(np.add.reduceat(weights * extra, starts))
            gained = np.cumsum(np.add.reduceat(weights * gain, starts))
            spent, score = (np.concatenate([[0.0], each]) for each in (added, gained))
            found.append(((spent + base) / unit, (score + first) / count))
        return found

    def _sums(self, added: FloatArray, base: FloatArray) -> FloatArray:
        """[points]: the sum of `base` over all questions, and of `added` over those looked at again."""
        upto = np.cumsum(added[self._order])
        sums: FloatArray = base.sum() + np.concatenate([[0.0], upto[self._ends - 1]])
        return sums


def oracle(first: FloatArray, gain: FloatArray, cost: Cost) -> Line:
    """The best that any choice of second looks can do: those that gain most for their cost come first, and
    those that gain nothing never. At its points no other choice of this cost is better."""
    worth = np.where(gain > 0, gain / np.maximum(cost.extra, 1e-300), -np.inf)
    line = TradeOff(worth, first, gain).line(cost)
    useful = line.thresholds > 0
    return Line(line.thresholds[useful], line.cost[useful], line.accuracy[useful])


def cheapest(line: Line, accuracy: float) -> float:
    """The least cost of a point with at least this accuracy, up to rounding; NaN if none has it."""
    good = line.accuracy >= accuracy - 1e-12
    return float(line.cost[good].min()) if good.any() else float("nan")


@dataclass(frozen=True)
class Envelope:
    """Points that no other point beats in both cost and accuracy, by ascending cost.

    Attributes (each [points]):
        line: which of the lines a point is of.
        threshold, cost, accuracy: of the point.
    """

    line: list[int]
    threshold: FloatArray
    cost: FloatArray
    accuracy: FloatArray


def envelope(lines: list[Line]) -> Envelope:
    """Of all points of all lines those that are better than every cheaper one."""
    owner = np.repeat(np.arange(len(lines)), [len(line.cost) for line in lines])
    cost = np.concatenate([line.cost for line in lines])
    accuracy = np.concatenate([line.accuracy for line in lines])
    threshold = np.concatenate([line.thresholds for line in lines])
    order = np.lexsort((-accuracy, cost))
    best = np.maximum.accumulate(np.append(-np.inf, accuracy[order][:-1]))
    chosen = order[accuracy[order] > best]
    return Envelope(owner[chosen].tolist(), threshold[chosen], cost[chosen], accuracy[chosen])
