"""Replaying a full-retransmission run under any policy: exact, and without the model.

Song & Kim, arXiv 2512.16349. Sorting the questions by the uncertainty of their first answers turns every
threshold into a prefix sum: the questions before it keep their first answer, those behind it get a second
look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from secondlook.benchmarks.records import Record
from secondlook.engine.policy import Policy, keep_second, wants_second_look

__all__ = ["Outcome", "Replay", "auroc", "choose_threshold"]

FloatArray = npt.NDArray[np.float64]

_ROUNDING: Final = 1e-12
"""Sums of scores that differ by less are ties."""


@dataclass(frozen=True)
class Outcome:
    """What a policy would have given, as means over the questions.

    Attributes:
        accuracy: mean score of the answers that stand.
        retransmission_rate: share of questions that got a second look.
        accuracy_random: expected mean score when as many second looks fall at random on questions that can
            have one.
        pixels, bytes: sent per question, both looks together.
    """

    accuracy: float
    retransmission_rate: float
    accuracy_random: float
    pixels: float
    bytes: float


class Replay:
    """A run's records as arrays, under one way of measuring doubt (the policy's threshold is not used).

    Attributes (each [questions], float64):
        uncertainty: of the first answers.
        first, second: scores of the first answers and of the answers after a second look without arbitration.
        kept: scores after a second look under the policy's arbitration.
    """

    def __init__(self, records: Sequence[Record], policy: Policy) -> None:
        if not records:
            raise ValueError("there is nothing to replay: no records")
        self.records = records
        self.policy = policy
        self.possible = np.array([record.second is not None for record in records])
        self.uncertainty = np.array([policy.uncertainty(record.first.tokens) for record in records])
        self.first = np.array([record.first.score for record in records])
        self.second = np.array([(record.second or record.first).score for record in records])
        self.kept = np.array([_kept(record, policy) for record in records])

    def at(self, threshold: float) -> Outcome:
        """The outcome at one threshold η."""
        policy = Policy(threshold)
        looked = self.possible & np.array([wants_second_look(value, policy) for value in self.uncertainty])
        pixels = [
            record.first.pixels + (record.second.pixels if again and record.second else 0)
            for record, again in zip(self.records, looked, strict=True)
        ]
        sent = [
            record.first.bytes + (record.second.bytes if again and record.second else 0)
            for record, again in zip(self.records, looked, strict=True)
        ]
        rate = float(looked.mean())
        return Outcome(
            accuracy=float(np.where(looked, self.kept, self.first).mean()),
            retransmission_rate=rate,
            accuracy_random=float(self._random(looked.mean())),
            pixels=float(np.mean(pixels)),
            bytes=float(np.mean(sent)),
        )

    def curve(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(thresholds, rates, accuracies) for every distinct threshold, from full retransmission to none.

        Questions of equal uncertainty go together; the last threshold is just above the largest uncertainty.
        """
        order = np.argsort(self.uncertainty, kind="stable")
        values = self.uncertainty[order]
        looked = self.possible[order].astype(np.float64)
        gain = np.where(self.possible, self.kept - self.first, 0.0)[order]
        total = len(values)
        starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        below = np.concatenate([[0.0], np.cumsum(gain)])
        skipped = np.concatenate([[0.0], np.cumsum(looked)])
        ends = np.append(starts, total)
        accuracy = self.first.mean() + (gain.sum() - below[ends]) / total
        rate = (looked.sum() - skipped[ends]) / total
        thresholds = np.append(values[starts], np.nextafter(values[-1], np.inf))
        return thresholds, rate, accuracy

    def margin_over_random(self, low: float = 0.05, high: float = 0.95) -> float:
        """The least advantage in accuracy over random retransmission, over all rates from low to high."""
        _, rate, accuracy = self.curve()
        inside = (rate >= low) & (rate <= high)
        return float((accuracy - self._random(rate))[inside].min()) if inside.any() else 0.0

    def _random(self, rate: FloatArray) -> FloatArray:
        """Expected accuracy when second looks at this rate fall at random where there is one to be had."""
        share = rate / max(self.possible.mean(), 1 / len(self.possible))
        accuracy: FloatArray = self.first.mean() + share * (self.kept - self.first).mean()
        return accuracy


def _kept(record: Record, policy: Policy) -> float:
    if record.second is None:
        return record.first.score
    first, second = policy.uncertainty(record.first.tokens), policy.uncertainty(record.second.tokens)
    return record.second.score if keep_second(first, second, policy) else record.first.score


def auroc(values: FloatArray, positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve of `values` as a score for `positive`: ties count half; 0.5 without both.

    Computed as the Mann-Whitney statistic from mean ranks.
    """
    positives = int(positive.sum())
    negatives = len(values) - positives
    if positives == 0 or negatives == 0:
        return 0.5
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(ranks[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def choose_threshold(replay: Replay, max_rate: float = 0.45, tolerance: float = 0.0025) -> float:
    """The highest threshold (fewest second looks) within `tolerance` of the best accuracy up to `max_rate`.

    Made for a calibration split; ties in accuracy therefore go to the cheaper side.
    """
    thresholds, rate, accuracy = replay.curve()
    allowed = rate <= max_rate
    good = allowed & (accuracy >= accuracy[allowed].max() - tolerance - _ROUNDING)
    return float(thresholds[good].max())
