"""Which threshold meets a target, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.calibration.answers import Answers
from secondlook.benchmarks.calibration.curve import Curve, Sorted
from secondlook.edge.errors import SettingsError
from secondlook.engine.method.policy_file import Estimate, Target, TargetKind

__all__ = ["Choice", "check_target", "choose"]

_NAMES: Final[dict[TargetKind, str]] = {
    "retransmission_rate": "retransmission rate",
    "accuracy": "accuracy",
    "bytes": "bytes a question",
}

_STEPS: Final = 100
"""Thresholds for bytes or accuracy are tried at every hundredth of the questions."""

_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Choice:
    """The threshold for a target.

    Attributes:
        candidates: thresholds that were tried on the answers; 1 if only doubts were looked at.
        threshold: with its interval.
        expected: what comes of it.
    """

    candidates: int
    threshold: Estimate
    expected: dict[TargetKind, Estimate]


def check_target(target: Target) -> None:
    """Raise SettingsError for a target that no log could meet."""
    if target.kind == "bytes":
        possible, range_ = 0 < target.value < math.inf, "a positive, finite number"
    else:
        possible, range_ = 0 <= target.value <= 1, "from 0 to 1"
    if not possible:
        raise SettingsError(f"{_NAMES[target.kind]} must be {range_}, not {target.value}")


def choose(
    answers: Answers, target: Target, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Choice:
    """The threshold that meets the target on these answers: the rate or bytes are as large as they may be, or
    the rate as small as the accuracy allows.

    The intervals are percentiles of the bootstrap over pictures, for the questions about one picture go
    together: of what is chosen, and of what comes of the threshold that was.

    Raises:
        SettingsError: the target is impossible, here or anywhere.
    """
    check_target(target)
    by_doubt = Sorted(answers)
    curve = by_doubt.curve()
    tried = _tried(curve, target)
    place = _chosen(curve, target, tried)
    if place is None:
        raise SettingsError(_impossible(curve, target))
    pictures = int(answers.picture.max()) + 1
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        weights = generator.multinomial(pictures, np.full(pictures, 1 / pictures)).astype(np.float64)
        again = by_doubt.curve(weights)
        other = _chosen(again, target, None)
        # A resample that cannot meet the target at all comes as close as it can.
        nearest = other if other is not None else _nearest(again, target)
        rows.append([curve.threshold[nearest], *(again.values(kind)[place] for kind in _NAMES)])
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.array(rows), tails, axis=0)
    values = [curve.threshold[place], *(curve.values(kind)[place] for kind in _NAMES)]
    found = [
        Estimate(value=float(v), low=float(a), high=float(b))
        for v, a, b in zip(values, low, high, strict=True)
    ]
    return Choice(
        candidates=1 if tried is None else len(tried),
        threshold=found[0],
        expected=dict(zip(_NAMES, found[1:], strict=True)),
    )


def _tried(curve: Curve, target: Target) -> npt.NDArray[np.intp] | None:
    """Places in the curve fixed without looking at answers; None: the target itself does not look at them."""
    if target.kind == "retransmission_rate":
        return None
    steps = np.arange(_STEPS + 1) / _STEPS
    places = [_first(curve.retransmission_rate <= step + _ROUNDING) for step in steps]
    return np.unique(np.array([place for place in places if place is not None], dtype=np.intp))


def _chosen(curve: Curve, target: Target, tried: npt.NDArray[np.intp] | None) -> int | None:
    places = np.arange(len(curve.threshold)) if tried is None else tried
    values = curve.values(target.kind)[places]
    if target.kind == "accuracy":
        good = np.flatnonzero(values >= target.value - _ROUNDING)
        return int(places[good[-1]]) if len(good) else None
    found = _first(values <= target.value + _ROUNDING)
    return None if found is None else int(places[found])


def _nearest(curve: Curve, target: Target) -> int:
    values: FloatArray = curve.values(target.kind)
    return int(values.argmax() if target.kind == "accuracy" else len(values) - 1)


def _first(good: npt.NDArray[np.bool_]) -> int | None:
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
