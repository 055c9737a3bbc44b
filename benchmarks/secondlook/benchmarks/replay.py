"""Replaying a full-retransmission run under any policy: exact, and without the model.

Song & Kim, arXiv 2512.16349. What is in a log's columns, seen through one way of measuring doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, Columns, FloatArray
from secondlook.benchmarks.analysis.curves import Cost, TradeOff
from secondlook.benchmarks.analysis.separation import auroc
from secondlook.benchmarks.records import Record
from secondlook.engine.method.policy import Policy

__all__ = ["WHOLE", "Outcome", "Replay", "auroc", "choose_threshold"]

WHOLE: Final = 10**9
"""Tokens to decide after, for decisions on whole answers."""

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
    """A run under one way of measuring doubt (the policy's threshold is not used).

    It is decided as a server decides: on an answer's first `policy.decide_after` tokens.

    Args:
        run: its columns, or its records.

    Attributes (each [questions]):
        possible: whether there was a second look.
        doubt: that decides: the uncertainty of the first answers' first tokens.
        uncertainty: of the first answers, complete.
        again: of the second answers; 0 where there is none.
        first, second: scores of the first answers and of the answers after a second look without arbitration.
        kept: scores after a second look under the policy's arbitration.
    """

    def __init__(self, run: Columns | Sequence[Record], policy: Policy) -> None:
        columns = run if isinstance(run, Columns) else Columns.of(run)
        if not len(columns):
            raise ValueError("there is nothing to replay: no records")
        self.columns = columns
        self.policy = policy
        self.possible = columns.possible
        self.doubt = columns.first.uncertainty(policy, policy.decide_after)
        self.uncertainty = columns.first.uncertainty(policy)
        self.again = columns.second.uncertainty(policy)
        self.first = columns.first.score
        self.second = np.where(self.possible, columns.second.score, self.first)
        # As `keep_second` has it: on a tie the second answer replaces the first.
        surer = (self.again <= self.uncertainty) | (not policy.arbitration)
        self.kept = np.where(surer, self.second, self.first)

    @property
    def gain(self) -> FloatArray:
        """[questions], what a second look adds to the score."""
        return self.kept - self.first

    @property
    def trade_off(self) -> TradeOff:
        """Second looks for the most uncertain questions first."""
        return TradeOff(self.doubt, self.first, self.gain)

    @property
    def rate(self) -> Cost:
        """The retransmission rate."""
        nothing = np.zeros(len(self.first))
        return Cost(nothing, self.possible.astype(np.float64), np.ones(len(self.first)))

    def looked(self, threshold: float) -> BoolArray:
        """[questions], whether there is a second look at one threshold η."""
        # As `wants_second_look` has it: unless G < η.
        return self.possible & ~(self.doubt < threshold)

    def at(self, threshold: float) -> Outcome:
        """The outcome at one threshold η."""
        looked = self.looked(threshold)
        first, second = self.columns.first, self.columns.second
        rate = float(looked.mean())
        return Outcome(
            accuracy=float(np.where(looked, self.kept, self.first).mean()),
            retransmission_rate=rate,
            accuracy_random=float(self.random(rate)),
            pixels=float((first.pixels + looked * second.pixels).mean()),
            bytes=float((first.bytes + looked * second.bytes).mean()),
        )

    def curve(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(thresholds, rates, accuracies) for every distinct threshold, from full retransmission to none.

        Questions of equal uncertainty go together; the last threshold is just above the largest uncertainty.
        """
        line = self.trade_off.line(self.rate)
        thresholds = line.thresholds[::-1].copy()
        thresholds[-1] = np.nextafter(thresholds[-2], np.inf)
        return thresholds, line.cost[::-1], line.accuracy[::-1]

    def margin_over_random(self, low: float = 0.05, high: float = 0.95) -> float:
        """The least advantage in accuracy over random retransmission, over all rates from low to high."""
        _, rate, accuracy = self.curve()
        inside = (rate >= low) & (rate <= high)
        return float((accuracy - self.random(rate))[inside].min()) if inside.any() else 0.0

    def random(self, rate: FloatArray | float) -> FloatArray:
        """Expected accuracy when second looks at this rate fall at random where there is one to be had."""
        share = rate / max(self.possible.mean(), 1 / len(self.possible))
        accuracy: FloatArray = self.first.mean() + share * self.gain.mean()
        return accuracy


def choose_threshold(replay: Replay, max_rate: float = 0.45, tolerance: float = 0.0025) -> float:
    """The highest threshold (fewest second looks) within `tolerance` of the best accuracy up to `max_rate`.

    Made for a calibration split; ties in accuracy therefore go to the cheaper side.
    """
    thresholds, rate, accuracy = replay.curve()
    allowed = rate <= max_rate
    good = allowed & (accuracy >= accuracy[allowed].max() - tolerance - _ROUNDING)
    return float(thresholds[good].max())
