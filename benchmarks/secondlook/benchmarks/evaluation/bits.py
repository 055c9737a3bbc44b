"""What fewer bits make of answers and doubts: logs of the same questions to one model, in several precisions.

The threshold is the first log's, where nobody is told that the precision is another: how many second looks it
asks for then, and what they bring, beside a threshold chosen anew for as many second looks as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, FloatArray
from secondlook.benchmarks.analysis.replay import Replay
from secondlook.benchmarks.analysis.runs import PRECISION, Run, read_family
from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate, auroc, interval
from secondlook.engine.method.policy import Policy

_RATES: Final = tuple(np.arange(0.05, 0.951, 0.05).round(2).tolist())
"""Shares of questions looked at twice, at whose thresholds the curve is."""


def compare_bits(logs: Sequence[Path], threshold: float | None = None) -> dict[str, Any]:
    """Each log beside the first, of the pictures that are in all, for JSON; of signs the reading questions.

    What is `less` is the log's less the first one's, with the interval of the paired difference.

    Args:
        threshold: of the first log's model; None: its own.
    """
    family = read_family(logs, PRECISION)
    if threshold is None:
        threshold = float(family.main.made["threshold"])
    kinds = np.array(family.compared[0].columns.kind)
    chosen = kinds == "read" if family.data["name"] == "signs" else np.ones(len(kinds), np.bool_)
    policy = Policy(threshold)
    replays = [Replay(run.columns.take(chosen), policy) for run in family.compared]
    boot = Bootstrap(replays[0].columns.picture)
    first = _Precision.of(replays[0], threshold, None, boot)
    each = [first, *(_Precision.of(replay, threshold, replays[0], boot) for replay in replays[1:])]
    settings = family.main.header.settings
    return {
        "data": family.data,
        "model": family.main.made.get("model"),
        "questions": len(replays[0].first),
        "left_out": family.left_out,
        "threshold": threshold,
        "logs": [run.digest for run in family.runs],
        "rows": [
            {"precision": _precision(run), **one.told(first)}
            for run, one in zip(family.runs, each, strict=True)
        ],
        "rates": _RATES,
        "curves": [_transferred(replays[0], replay) for replay in replays],
        "environment": family.main.made
        | settings.get("versions", {})
        | {"dtype": ", ".join(map(_precision, family.runs))},
    }


def _precision(run: Run) -> str:
    found: str = run.header.settings["model"]["dtype"]
    return found


@dataclass(frozen=True)
class _Figure:
    """A figure, and its resamples, which are the same for every log."""

    value: float
    resampled: FloatArray

    def told(self) -> dict[str, float]:
        return asdict(interval(self.value, self.resampled))

    def less(self, other: _Figure) -> dict[str, float]:
        found: Estimate = interval(self.value - other.value, self.resampled - other.resampled)
        return asdict(found)


@dataclass(frozen=True)
class _Precision:
    """What came of one log.

    Attributes:
        figures: accuracies, the retransmission rate and the AUROC of doubt.
        threshold: that gives as many second looks as the first log has at its own; that one, if it does.
        same: share of first answers that are the first log's.
        moved: what doubts of same answers differ by, in the mean, in nats.
        shifted: the mean of the difference: above 0, they doubt more.
    """

    figures: dict[str, _Figure]
    threshold: float
    same: float
    moved: float
    shifted: float

    @classmethod
    def of(cls, replay: Replay, threshold: float, first: Replay | None, boot: Bootstrap) -> _Precision:
        anew, same, apart = threshold, np.ones(len(replay.first), np.bool_), np.zeros(len(replay.first))
        if first is not None:
            rate = float(first.looked(threshold).mean())
            if float(replay.looked(threshold).mean()) != rate:
                anew = _threshold(replay, rate)
            told = zip(replay.columns.first.text, first.columns.first.text, strict=True)
            same = np.array([mine == theirs for mine, theirs in told])
            apart = (replay.need - first.need)[same]
        looked, again = replay.looked(threshold), replay.looked(anew)
        each = {
            "accuracy_global": replay.first,
            "accuracy_full": replay.second,
            "accuracy": np.where(looked, replay.kept, replay.first),
            "accuracy_anew": np.where(again, replay.kept, replay.first),
            "retransmission_rate": looked.astype(np.float64),
        }
        counts = boot.sums(np.ones(len(replay.first)))
        means = boot.sums(*each.values()) / counts
        figures = {
            name: _Figure(float(values.mean()), means[:, place])
            for place, (name, values) in enumerate(each.items())
        }
        doubt, wrong = replay.uncertainty, replay.first < 0.5
        resampled = np.array([auroc(doubt[rows], wrong[rows]) for rows in _resampled(boot)])
        figures["auroc"] = _Figure(auroc(doubt, wrong), resampled)
        shifts = float(np.abs(apart).mean()), float(apart.mean())
        return cls(figures, anew, float(same.mean()), *shifts)

    def told(self, first: _Precision) -> dict[str, Any]:
        found: dict[str, Any] = {name: figure.told() for name, figure in self.figures.items()}
        less = {name: figure.less(first.figures[name]) for name, figure in self.figures.items()}
        more = {"threshold_anew": self.threshold, "same": self.same}
        return {**found, "less": less, **more, "moved": self.moved, "shifted": self.shifted}


def _resampled(boot: Bootstrap) -> Iterator[BoolArray]:
    """The questions of each resample, as indices."""
    for weights in boot.weights():
        yield np.repeat(np.arange(len(weights)), weights.astype(np.int64))


def _threshold(replay: Replay, rate: float) -> float:
    """The one at whose second looks' rate is nearest to `rate`; of equals the highest."""
    thresholds, rates, _ = replay.curve()
    apart = np.abs(rates - rate)
    return float(thresholds[apart == apart.min()].max())


def _transferred(first: Replay, replay: Replay) -> list[float]:
    """The rate of second looks at the thresholds at which the first log has `_RATES`."""
    return [float(replay.looked(_threshold(first, rate)).mean()) for rate in _RATES]
