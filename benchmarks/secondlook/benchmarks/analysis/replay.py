"""Replaying a full-retransmission run under any policy: exact, and without the model.

Song & Kim, arXiv 2512.16349. What is in a log's columns, seen through one way of measuring doubt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, Columns, FloatArray, read_columns
from secondlook.benchmarks.analysis.curves import Cost, Line, TradeOff
from secondlook.benchmarks.analysis.statistics import Bootstrap, Estimate, interval
from secondlook.benchmarks.options import ReplayRun
from secondlook.benchmarks.run_log import LogError, Record, read_log, write_log
from secondlook.edge.wire import Measure
from secondlook.engine.method.policy import Policy

WHOLE: Final = 10**9
"""Tokens to decide after, for decisions on whole answers."""

_MOST_TOKENS: Final = 10

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
    """A run under one way of deciding (the policy's threshold is not used).

    It is decided as a server decides: on an answer's first `policy.decide_after` tokens.

    Args:
        run: its columns, or its records.

    Attributes (each [questions]):
        possible: whether there was a second look.
        need: what is compared with the threshold: the uncertainty of the first answers' first tokens, or what
            the policy's gate expects of them.
        uncertainty: of the first answers, complete.
        again: of the second answers; 0 where there is none.
        first, second: scores of the first answers and of the answers after a second look without arbitration.
        surer: whether the second answer replaces the first, under the policy's arbitration.
        kept: scores after a second look, under the same.
    """

    def __init__(self, run: Columns | Sequence[Record], policy: Policy) -> None:
        columns = run if isinstance(run, Columns) else Columns.of(run)
        if not len(columns):
            raise ValueError("there is nothing to replay: no records")
        self.columns = columns
        self.policy = policy
        self.possible = columns.possible
        self.need = columns.first.uncertainty(policy, policy.decide_after)
        if policy.gate is not None:
            self.need = policy.gate.gain(columns.first.features(policy.decide_after))
        self.uncertainty = columns.first.uncertainty(policy)
        self.again = columns.second.uncertainty(policy)
        self.first = columns.first.score
        self.second = np.where(self.possible, columns.second.score, self.first)
        # As `keep_second` has it: on a tie the second answer replaces the first.
        self.surer = (self.again <= self.uncertainty) | (not policy.arbitration)
        self.kept = np.where(self.surer, self.second, self.first)

    @property
    def gain(self) -> FloatArray:
        """[questions], what a second look adds to the score."""
        return self.kept - self.first

    @property
    def trade_off(self) -> TradeOff:
        """Second looks for the questions of the most need first."""
        return TradeOff(self.need, self.first, self.gain)

    @property
    def rate(self) -> Cost:
        """The retransmission rate."""
        nothing = np.zeros(len(self.first))
        return Cost(nothing, self.possible.astype(np.float64), np.ones(len(self.first)))

    @property
    def sent(self) -> Cost:
        """Bytes a question, both looks together."""
        return Cost(self.columns.first.bytes, self.columns.second.bytes, np.ones(len(self.first)))

    def looked(self, threshold: float) -> BoolArray:
        """[questions], whether there is a second look at one threshold η."""
        # As `decide` has it: unless the need is below η.
        return self.possible & ~(self.need < threshold)

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


def advantage(
    one: Replay, other: Replay, cost: Callable[[Replay], Cost], at: float, boot: Bootstrap
) -> Estimate:
    """How much more accurate the one is than the other, of the same questions, where each spends `at`."""
    value, resampled = list[float](), list[FloatArray]()
    for replay in (one, other):
        value.append(float(replay.trade_off.line(cost(replay)).at(np.array(at))))
        curves = replay.trade_off.resampled(cost(replay), boot)
        resampled.append(np.array([np.interp(at, *curve) for curve in curves]))
    return interval(value[0] - value[1], resampled[0] - resampled[1])


def choose_threshold(replay: Replay, max_rate: float = 0.45, tolerance: float = 0.0025) -> float:
    """The highest threshold (fewest second looks) within `tolerance` of the best accuracy up to `max_rate`.

    Made for a calibration split; ties in accuracy therefore go to the cheaper side.
    """
    thresholds, rate, accuracy = replay.curve()
    allowed = rate <= max_rate
    good = allowed & (accuracy >= accuracy[allowed].max() - tolerance - _ROUNDING)
    return float(thresholds[good].max())


def bench_replay(run: ReplayRun) -> dict[str, Any]:
    """Time a log that is a log's pictures again and again, until it has so many records."""
    found = read_log(run.log)
    if not found.records:
        raise LogError(f"{run.log} has no record yet; finish the run that began it")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "long.jsonl"
        write_log(path, found.header, _repeated(found.records, run.rows))
        size = path.stat().st_size
        begun = time.perf_counter()
        _, columns, _ = read_columns(path)
        read = time.perf_counter()
        curves = sum(len(_curves(Replay(columns, policy))) for policy in _policies())
        replayed = time.perf_counter()
    return {
        "bench": "replay",
        "seconds": replayed - begun,
        "seconds_reading": read - begun,
        "seconds_replaying": replayed - read,
        "rows": len(columns),
        "log_bytes": size,
        "curves": curves,
    }


def _repeated(records: Sequence[Record], rows: int) -> Iterator[list[Record]]:
    """Pictures, one after the other, as others each time round."""
    pictures = [list(group) for _, group in groupby(records, key=lambda record: record.index)]
    for index in count():
        picture = pictures[index % len(pictures)][:rows]
        if not picture:
            return
        rows -= len(picture)
        yield [replace(record, index=index) for record in picture]


def _policies() -> Iterator[Policy]:
    """Every measure on all, one, and up to ten first tokens, with and without arbitration."""
    whole = Policy(0.0, decide_after=WHOLE)
    limits = [whole, *(replace(whole, aggregation="first_k", first_k=k + 1) for k in range(_MOST_TOKENS))]
    for measure, limit, arbitration in product(get_args(Measure), limits, (True, False)):
        yield replace(limit, measure=measure, arbitration=arbitration)


def _curves(replay: Replay) -> list[Line]:
    """Accuracy against bytes, pixels and the retransmission rate."""
    first, second = replay.columns.first, replay.columns.second
    costs = (
        Cost(first.bytes, second.bytes, first.bytes),
        Cost(first.pixels, second.pixels, first.pixels),
        replay.rate,
    )
    trade_off = replay.trade_off
    return [trade_off.line(cost) for cost in costs]
