"""What replays come to: a row for each way and delay, with intervals by stream."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate
from secondlook.benchmarks.streams.replay import Run

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

COMPARED: Final = (
    ("switch", "large"),
    ("switch_memory", "large"),
    ("switch_memory", "large_gated"),
    ("switch_memory", "switch"),
    ("switch", "switch_ungated"),
    ("belief", "large"),
    ("belief", "switch_memory"),
    ("belief_doubt", "belief"),
    ("replace", "belief"),
    ("focus_own", "belief"),
    ("focus_own", "focus_still"),
    ("focus_known", "focus_own"),
)
"""Whose difference is told with its interval, beside that of every way over the small model alone."""


@dataclass(frozen=True)
class Outcome:
    """One way's runs on all streams.

    Attributes:
        right: [frames of all streams], 0 or 1.
        row: the figures.
    """

    right: FloatArray
    row: dict[str, Any]


def outcome(
    runs: Sequence[Run], truths: Sequence[Sequence[str]], times: Sequence[Sequence[float]]
) -> Outcome:
    """The figures of one way, from its runs on streams that these are the truths and times of."""
    rights = [np.equal(run.texts, true) for run, true in zip(runs, truths, strict=True)]
    right = np.concatenate(rights).astype(np.float64)
    accuracy = boots(rights).mean(right)
    late, since = list[FloatArray](), list[float]()
    for run, each, true, time in zip(runs, rights, truths, times, strict=True):
        late.append(_age_of_right(each, np.array(run.ages), np.array(time)))
        since += _corrections(each, true, time)

    def mean(name: str) -> float:
        return float(np.mean([getattr(run, name) for run in runs]))

    return Outcome(
        right,
        {
            "accuracy": accuracy.value,
            "low": accuracy.low,
            "high": accuracy.high,
            "calls_per_frame": mean("asked"),
            "bytes_up_edge": mean("from_camera"),
            "bytes_up_site": mean("to_cloud"),
            "deadline_misses": mean("missed"),
            "age": mean("ages"),
            "age_right": float(np.concatenate(late).mean()),
            "correct_after": float(np.mean(since)) if since else None,
        },
    )


def difference(one: Outcome, other: Outcome, boot: Bootstrap) -> Estimate:
    """Of the accuracies on the same frames."""
    return boot.mean(one.right - other.right)


def boots(of_streams: Sequence[Sized]) -> Bootstrap:
    """Resamples of whole streams, always the same."""
    return Bootstrap(np.repeat(np.arange(len(of_streams)), [len(each) for each in of_streams]))


def _age_of_right(right: BoolArray, ages: FloatArray, times: FloatArray) -> FloatArray:
    """[frames], seconds since the newest capture that a right answer rested on, so far; since the first frame
    while there is none."""
    captured = np.where(right, times - ages, times[0])
    found: FloatArray = times - np.maximum.accumulate(captured)
    return found


def _corrections(right: BoolArray, truths: Sequence[str], times: Sequence[float]) -> list[float]:
    """After each change of the truth the seconds to the first right answer, or to the next change, or to the
    end, where there is none before."""
    changes = [n for n in range(1, len(truths)) if truths[n] != truths[n - 1]]
    found = []
    for change, until in pairwise([*changes, len(truths)]):
        first = next((n for n in range(change, until) if right[n]), until)
        # The frame behind the last one would be as far from it as that is from the one before.
        end = times[first] if first < len(times) else 2 * times[-1] - times[-2]
        found.append(end - times[change])
    return found
