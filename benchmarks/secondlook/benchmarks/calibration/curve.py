"""Rate, accuracy and bytes at every threshold, for a sample whose pictures may have weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.calibration.answers import Answers
from secondlook.engine.method.policy_file import TargetKind

__all__ = ["Curve", "Sorted"]


@dataclass(frozen=True)
class Curve:
    """Values at each threshold, ascending: from looking twice at all questions to none.

    Attributes (each [thresholds]):
        threshold: the first is 0; the last is above every doubt.
        retransmission_rate, accuracy, bytes: means over the questions.
    """

    threshold: FloatArray
    retransmission_rate: FloatArray
    accuracy: FloatArray
    bytes: FloatArray

    def values(self, kind: TargetKind) -> FloatArray:
        """The values of one kind."""
        values: FloatArray = getattr(self, kind)
        return values


class Sorted:
    """Answers in the order of their doubt, to be weighted again and again."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        order = np.argsort(answers.doubt, kind="stable")
        doubt = answers.doubt[order]
        looked = np.isfinite(doubt)
        self._picture = answers.picture[order]
        self._first = answers.first[order]
        self._bytes = answers.first_bytes[order]
        self._gain = np.where(looked, answers.kept[order] - self._first, 0.0)
        self._more = np.where(looked, answers.second_bytes[order], 0.0)
        self._looked = looked.astype(np.float64)
        # Questions of equal doubt go together. At the first cut all are looked at that can be.
        starts = np.flatnonzero(looked & np.concatenate([[True], doubt[1:] != doubt[:-1]]))
        self._cuts = np.append(starts, len(doubt))
        last = np.nextafter(max(doubt[-1], 0.0), np.inf)
        self.threshold = np.append(doubt[starts], last)
        if len(starts):
            self.threshold[0] = 0.0

    def curve(self, weights: FloatArray | None = None) -> Curve:
        """The curve, with a weight for each picture; by default 1."""
        weight = np.ones(len(self._picture)) if weights is None else weights[self._picture]
        total = weight.sum()

        def behind(values: FloatArray) -> FloatArray:
            """Mean over all questions of the values of those at or behind each cut."""
            sums = np.concatenate([[0.0], np.cumsum(values * weight)])
            found: FloatArray = (sums[-1] - sums[self._cuts]) / total
            return found

        return Curve(
            threshold=self.threshold,
            retransmission_rate=behind(self._looked),
            accuracy=(self._first * weight).sum() / total + behind(self._gain),
            bytes=(self._bytes * weight).sum() / total + behind(self._more),
        )
