"""One run under study: its replays, costs and resamples, each made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, Columns, FloatArray
from secondlook.benchmarks.analysis.curves import NEAR, Band, Cost, Envelope, Line, cheapest, envelope
from secondlook.benchmarks.analysis.replay import WHOLE, Replay
from secondlook.benchmarks.analysis.runs import Family, Run
from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate, Separation, interval, separation
from secondlook.edge.wire import Aggregation, Measure
from secondlook.engine.method.policy import Policy

HIGH_QUALITY: Final = 95
MEASURES: dict[str, Measure] = {
    "min-entropy": "min_entropy",
    "Shannon entropy": "shannon_entropy",
    "margin": "margin",
}
"""Names for people; the first is the default."""


@dataclass(frozen=True, eq=False)
class Study:
    """A family of logs, its first one above all.

    Attributes:
        threshold: the operating point; None: there is none.
    """

    family: Family
    threshold: float | None
    resamples: int | None = None

    @property
    def run(self) -> Run:
        return self.family.main

    @property
    def columns(self) -> Columns:
        return self.run.columns

    @cached_property
    def boot(self) -> Bootstrap:
        return Bootstrap(self.columns.picture, self.resamples)

    @cache  # noqa: B019  # a study lives as long as its report is being written
    def replay(
        self,
        measure: Measure = "min_entropy",
        aggregation: Aggregation = "all",
        first_k: int = 5,
        arbitration: bool = True,
        decide_after: int = WHOLE,
    ) -> Replay:
        """The run under another way of measuring doubt: on whole answers, as the paper does, unless told."""
        policy = Policy(
            0.0, measure, aggregation, first_k, arbitration=arbitration, decide_after=decide_after
        )
        return Replay(self.columns, policy)

    @cached_property
    def plain(self) -> Replay:
        """By the default measure, with arbitration."""
        return self.replay()

    @cached_property
    def served(self) -> Replay:
        """The same as a server does it, which decides before a long answer is complete."""
        return self.replay(decide_after=Policy.decide_after)

    @cached_property
    def full(self) -> Estimate:
        """Accuracy of all second answers, as they are."""
        return self.boot.mean(self.plain.second)

    def extra(self, what: str) -> Cost:
        """Extra communication in "pixels" or "bytes": what second looks send over what first looks do."""
        first, second = (getattr(look, what) for look in (self.columns.first, self.columns.second))
        return Cost(np.zeros_like(first), second, first)

    def always(self, cost: Cost) -> Estimate:
        """The cost of always looking twice."""
        return self.boot.ratio(cost.base + cost.extra, cost.unit)

    def reaching(self, cost: Cost) -> Estimate:
        """The least cost that nearly has the accuracy of always looking twice; NaN: none has."""
        trade_off = self.plain.trade_off
        value = cheapest(trade_off.line(cost), self.full.value - NEAR)
        second, count = self.boot.sums(self.plain.second, np.ones(len(self.columns))).T
        resampled = trade_off.resampled(cost, self.boot)
        found = [
            cheapest(Line(spent, spent, score), full - NEAR)
            for (spent, score), full in zip(resampled, second / count, strict=True)
        ]
        return interval(value, np.array(found))

    @property
    def computation(self) -> Cost | None:
        """Relative computation: the engine's FLOPs over those of its first looks alone (Song & Kim, arXiv
        2512.16349); None where the log does not tell."""
        first, second = self.columns.first.flops, self.columns.second.flops
        return None if np.isnan(first + second).any() else Cost(first, second, first)

    @cache  # noqa: B019
    def separation(self, measure: Measure, aggregation: Aggregation = "all", first_k: int = 5) -> Separation:
        """How well this doubt parts the right first answers from the wrong ones."""
        return separation(self.replay(measure, aggregation, first_k).uncertainty, self.wrong, self.boot)

    @property
    def wrong(self) -> BoolArray:
        """[questions], whether the first answer's score is below a half."""
        return self.plain.first < 0.5

    def line(self, replay: Replay, cost: Cost) -> tuple[Line, Band]:
        """A replay's curve over a cost, and its intervals."""
        return replay.trade_off.line(cost), replay.trade_off.band(cost, self.boot)

    def at_threshold(self, cost: Cost) -> tuple[Estimate, Estimate] | None:
        """(cost, accuracy) at the operating point, with arbitration; None if there is none."""
        if self.threshold is None:
            return None
        looked = self.looked
        spent: FloatArray = cost.base + looked * cost.extra
        stands = np.where(looked, self.plain.kept, self.plain.first)
        return self.boot.ratio(spent, cost.unit), self.boot.mean(stands)

    def baseline(self, cost: Cost, what: str) -> tuple[Estimate, Estimate] | None:
        """(cost, accuracy) of one look at high resolution; None if the run did not ask for it.

        Args:
            what: the cost is of: "pixels", "bytes" or "flops".
        """
        first, only = self.columns.first, self.columns.baseline
        if not only.lengths.all():
            return None
        spent: FloatArray = cost.base + getattr(only, what) - getattr(first, what)
        return self.boot.ratio(spent, cost.unit), self.boot.mean(only.score)

    @property
    def looked(self) -> BoolArray:
        """[questions], whether there is a second look at the operating point."""
        assert self.threshold is not None, "asked only where there is an operating point"
        return self.served.looked(self.threshold)


@dataclass(frozen=True, eq=False)
class Qualities:
    """The logs of a family, each with qualities of its own, over bytes a question."""

    runs: tuple[Run, ...]

    @cached_property
    def replays(self) -> list[Replay]:
        return [Replay(run.columns, Policy(0.0, decide_after=WHOLE)) for run in self.runs]

    @cached_property
    def lines(self) -> list[Line]:
        return [replay.trade_off.line(replay.sent) for replay in self.replays]

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
            if run.qualities[0] == HIGH_QUALITY:
                return float(run.columns.first.bytes.mean()), float(run.columns.first.score.mean())
        return None
