"""JPEG qualities: every quality of the two looks with every threshold, and the envelope of the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.analysis.curves import Line

__all__ = ["Envelope", "envelope"]


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
