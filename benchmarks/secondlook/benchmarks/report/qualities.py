"""The section on JPEG qualities: every quality with every threshold, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.bootstrap import Bootstrap
from secondlook.benchmarks.analysis.curves import Band, Line
from secondlook.benchmarks.analysis.qualities import Envelope, envelope
from secondlook.benchmarks.analysis.runs import Run
from secondlook.benchmarks.replay import WHOLE, Replay
from secondlook.benchmarks.report.document import Plot, Section, Table
from secondlook.benchmarks.report.plots import Mark, Series, draw_lines
from secondlook.benchmarks.report.study import Study, bytes_sent
from secondlook.benchmarks.report.words import kilobytes, percent
from secondlook.engine.method.policy import Policy

__all__ = ["Qualities", "qualities"]

_HIGH: Final = 95
_EACH: Final = "a pair of qualities"

_SHOWN: Final = 6
"""Rows of the envelope's table."""


@dataclass(frozen=True, eq=False)
class Qualities:
    """The logs of a family, each with qualities of its own, over bytes a question."""

    runs: tuple[Run, ...]

    @cached_property
    def replays(self) -> list[Replay]:
        return [Replay(run.columns, Policy(0.0, decide_after=WHOLE)) for run in self.runs]

    @cached_property
    def lines(self) -> list[Line]:
        return [
            replay.trade_off.line(bytes_sent(run.columns))
            for run, replay in zip(self.runs, self.replays, strict=True)
        ]

    @cached_property
    def best(self) -> Envelope:
        return envelope(self.lines)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [run.qualities for run in self.runs]

    @property
    def single(self) -> tuple[float, float] | None:
        """Bytes a question and accuracy of one look at quality 95; None without such a log."""
        for run in self.runs:
            if run.qualities[0] == _HIGH:
                return float(run.columns.first.bytes.mean()), float(run.columns.first.score.mean())
        return None


def qualities(study: Study, found: Qualities) -> Section:
    """Accuracy against bytes for each pair of qualities, and the envelope."""
    title = "JPEG qualities"
    if len(found.runs) == 1:
        text = (
            f"One log only, with qualities {_named(found.pairs[0])}. Logs of the same questions with other "
        )
        return Section(title, (text + "qualities (--global-quality, --local-quality) are drawn together.",))
    boots = [Bootstrap(run.columns.picture, study.resamples) for run in found.runs]
    series = []
    for run, replay, line, boot in zip(found.runs, found.replays, found.lines, boots, strict=True):
        band = replay.trade_off.band(bytes_sent(run.columns), boot)
        inside = Band(band.cost / 1e3, band.low, band.high)
        series.append(Series(_named(run.qualities), line.cost / 1e3, line.accuracy, inside))
    marks = (
        [] if found.single is None else [Mark(f"one image, {_HIGH}", found.single[0] / 1e3, found.single[1])]
    )
    across, best = "kB a question", found.best
    curves = Plot(
        "qualities",
        "Accuracy against bytes, by quality",
        "JPEG quality of the global and of the local image; every curve is every threshold.",
        draw_lines(series, across, marks=marks),
    )
    quiet = [Series(_EACH, each.x, each.y, quiet=True) for each in series]
    upper = Series("best envelope", best.cost / 1e3, best.accuracy, steps=True)
    reached = Plot(
        "envelope",
        "The best envelope",
        "No pair of qualities with any threshold is better in both bytes and accuracy.",
        draw_lines([upper, *quiet], across, marks=marks),
    )
    left_out = (
        f" {study.family.left_out} pictures that are not in all logs are left out."
        if study.family.left_out
        else ""
    )
    text = (
        "Low quality saves bytes on every picture, a second look costs them on some. Points of the envelope "
        f"are chosen on the questions that they are drawn for, so they flatter a little.{left_out}"
    )
    return Section(title, (text,), (curves, reached, _table(found, boots)))


def _table(found: Qualities, boots: list[Bootstrap]) -> Table:
    """Some points of the envelope, evenly spread over its accuracies."""
    best = found.best
    wanted = np.linspace(best.accuracy[0], best.accuracy[-1], _SHOWN)
    points = np.unique(np.searchsorted(best.accuracy, wanted - 1e-12).clip(0, len(best.accuracy) - 1))
    rows = []
    for point in points:
        which, threshold = best.line[point], best.threshold[point]
        replay, boot, cost = found.replays[which], boots[which], bytes_sent(found.runs[which].columns)
        looked = replay.looked(threshold)
        rows.append(
            (
                _named(found.pairs[which]),
                "none" if np.isinf(threshold) else f"{threshold:.4g}",
                percent(boot.mean(looked.astype(np.float64))),
                kilobytes(boot.mean(cost.base + looked * cost.extra)),
                percent(boot.mean(np.where(looked, replay.kept, replay.first))),
            )
        )
    titles = ("qualities", "threshold", "second looks", "sent a question", "accuracy")
    return Table(titles, tuple(rows), "Points of the envelope; without a threshold there is no second look.")


def _named(pair: tuple[int, int]) -> str:
    return f"{pair[0]} and {pair[1]}"
