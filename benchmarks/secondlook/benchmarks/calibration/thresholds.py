"""Which threshold meets a target, and how sure that is.

A log's answers are met as a server meets them, which decides when it has the first tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from secondlook.benchmarks.analysis.columns import BoolArray, Columns, FloatArray, IntArray
from secondlook.benchmarks.analysis.curves import Cost, TradeOff
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.edge.errors import SettingsError
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import Estimate, Target, TargetKind

_NAMES: Final[dict[TargetKind, str]] = {
    "retransmission_rate": "retransmission rate",
    "accuracy": "accuracy",
    "bytes": "bytes a question",
}
_STEPS: Final = 100
"""Thresholds for bytes or accuracy are tried at every hundredth of the questions."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Answers:
    """Arrays, each [questions].

    Attributes:
        need: the uncertainty that decides, or what a gate expects; -inf where there was no detail to gain, so
            that no threshold is reached. Of the first `decide_after` tokens, for a server decides when it has
            these.
        first: scores of first answers.
        kept: scores of the answers that stand after a second look, under the policy's arbitration.
        first_bytes, second_bytes: sent for each look; the second's are 0 where there is none.
        picture: whose question it is, counted from 0.
    """

    need: FloatArray
    first: FloatArray
    kept: FloatArray
    first_bytes: FloatArray
    second_bytes: FloatArray
    picture: IntArray

    @classmethod
    def of(cls, columns: Columns, policy: Policy) -> Answers:
        """What the policy would meet, whatever its threshold."""
        replay = Replay(columns, policy)
        need = np.where(replay.possible, replay.need, -np.inf)
        picture = np.unique(columns.picture, return_inverse=True)[1].astype(np.int64)
        return cls(need, replay.first, replay.kept, columns.first.bytes, columns.second.bytes, picture)


@dataclass(frozen=True)
class Curve:
    """Values at each threshold, ascending: from looking twice at all questions to none.

    Attributes (each [thresholds]):
        threshold: the first is 0; the last is above every need.
        retransmission_rate, accuracy, bytes: means over the questions.
    """

    threshold: FloatArray
    retransmission_rate: FloatArray
    accuracy: FloatArray
    bytes: FloatArray

    def at(self, place: int) -> list[float]:
        """The values of every kind at one threshold."""
        return [getattr(self, kind)[place] for kind in _NAMES]


class Sorted:
    """Answers in the order of their need, to be weighted again and again."""

    def __init__(self, answers: Answers) -> None:
        self._trade_off = TradeOff(answers.need, answers.first, answers.kept - answers.first)
        ones, looked = np.ones(len(answers.need)), np.isfinite(answers.need)
        self._rate = Cost(0 * ones, looked.astype(np.float64), ones)
        self._bytes = Cost(answers.first_bytes, looked * answers.second_bytes, ones)
        self._picture = answers.picture

    def curve(self, weights: FloatArray | None = None) -> Curve:
        """The curve, with a weight for each picture; by default 1."""
        count = None if weights is None else weights[self._picture]
        rate, sent = (self._trade_off.line(cost, count) for cost in (self._rate, self._bytes))
        there = np.flatnonzero(rate.thresholds > -np.inf)[::-1]  # without those that nothing is gained of
        threshold = rate.thresholds[there]
        threshold[0] = 0.0
        threshold[-1] = np.nextafter(max(rate.thresholds[1], 0.0), np.inf)
        return Curve(threshold, rate.cost[there], rate.accuracy[there], sent.cost[there])


@dataclass(frozen=True)
class Choice:
    """The threshold for a target.

    Attributes:
        candidates: thresholds that were tried on the answers; 1 if only needs were looked at.
        threshold: with its interval.
        expected: what comes of it.
    """

    candidates: int
    threshold: Estimate
    expected: dict[TargetKind, Estimate]


def choose(
    answers: Answers, target: Target, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Choice:
    """The threshold that meets the target on these answers: the rate or bytes are as large as they may be, or
    the rate as small as the accuracy allows.

    The intervals are percentiles of the bootstrap over pictures, for the questions about one picture go
    together: of what is chosen, and of what comes of the threshold that was.
    """
    _check(target)
    by_need = Sorted(answers)
    curve = by_need.curve()
    tried = _tried(curve, target)
    place = _chosen(curve, target, tried)
    if place is None:
        raise SettingsError(_impossible(curve, target))
    pictures = int(answers.picture.max()) + 1
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        weights = generator.multinomial(pictures, np.full(pictures, 1 / pictures)).astype(np.float64)
        again = by_need.curve(weights)
        other = _chosen(again, target, None)
        if other is None:  # a resample that cannot meet the target at all comes as close as it can
            other = int(again.accuracy.argmax()) if target.kind == "accuracy" else len(again.threshold) - 1
        rows.append([curve.threshold[other], *again.at(place)])
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = np.quantile(np.array(rows), tails, axis=0)
    table = np.array([[curve.threshold[place], *curve.at(place)], *ends]).T
    threshold, *expected = (Estimate(value=v, low=low, high=high) for v, low, high in table.tolist())
    candidates = 1 if tried is None else len(tried)
    return Choice(candidates, threshold, dict(zip(_NAMES, expected, strict=True)))


def _check(target: Target) -> None:
    """Refuse a target that no log could meet."""
    if target.kind == "bytes":
        possible, span = 0 < target.value < math.inf, "a positive, finite number"
    else:
        possible, span = 0 <= target.value <= 1, "from 0 to 1"
    if not possible:
        raise SettingsError(f"{_NAMES[target.kind]} must be {span}, not {target.value}")


def _tried(curve: Curve, target: Target) -> npt.NDArray[np.intp] | None:
    """Places in the curve fixed without looking at answers; None: the target itself does not look at them."""
    if target.kind == "retransmission_rate":
        return None
    steps = np.arange(_STEPS + 1) / _STEPS
    places = [_first(curve.retransmission_rate <= step + _ROUNDING) for step in steps]
    return np.unique(np.array([place for place in places if place is not None], dtype=np.intp))


def _chosen(curve: Curve, target: Target, tried: npt.NDArray[np.intp] | None) -> int | None:
    places = np.arange(len(curve.threshold)) if tried is None else tried
    values: FloatArray = getattr(curve, target.kind)[places]
    if target.kind == "accuracy":
        good = np.flatnonzero(values >= target.value - _ROUNDING)
        return int(places[good[-1]]) if len(good) else None
    found = _first(values <= target.value + _ROUNDING)
    return None if found is None else int(places[found])


def _first(good: BoolArray) -> int | None:
    found = np.flatnonzero(good)
    return int(found[0]) if len(found) else None


def _impossible(curve: Curve, target: Target) -> str:
    if target.kind == "accuracy":
        best = int(curve.accuracy.argmax())
        most, rate = curve.accuracy[best], curve.retransmission_rate[best]
        return f"accuracy {target.value} is not reached: the most is {most:.4f}, at a rate of {rate:.3f}"
    return (
        f"{_NAMES[target.kind]} {target.value} is too low: the global images alone take "
        f"{curve.bytes[-1]:.0f} bytes a question"
    )
