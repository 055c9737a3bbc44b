"""A budget on streams whose difficulty shifts: how closely it is kept, and what that costs.

The answers are those of a log; the budget is the server's. Measured on each stream:

* the largest distance of the retransmission rate from the target over any 500 questions in a row, after the
  first 200;
* the accuracy, against a fixed threshold's at the same rate, in two ways. *In blocks*: in each 500 questions
  a threshold of their own, chosen with all of them known, for as many second looks as the budget took there.
  That is what tracking costs. *Overall*: one threshold for the whole stream with as many second looks as the
  budget took in all. Where difficulty shifts, that one looks more often where it is harder, which keeping
  the rate forbids: most of that difference is the price of the budget itself. How far its own rate strays is
  told beside it;
* for a budget of bytes a second, with questions that come at rates which shift too: the largest relative
  distance of the bytes a second from the target, over the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secondlook.benchmarks.analysis.columns import FloatArray
from secondlook.benchmarks.calibration.answers import Answers, answers_of, read_logs
from secondlook.benchmarks.calibration.choosing import choose
from secondlook.benchmarks.calibration.streams import Shift, draw, shifts_of
from secondlook.benchmarks.environment import environment
from secondlook.engine.method.budget import Budget, BudgetSettings
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import Target

__all__ = ["bench_budget", "budget_text", "fixed_accuracy", "follow", "worst_deviation"]

_WINDOW: Final = 500
_WARM_UP: Final = 200
_MOST_DEVIATION: Final = 0.02
_MOST_LOSS: Final = 0.005
_PACES: Final = (1.0, 1.5, 0.75, 2.0, 1.0)
"""Questions a second, from phase to phase."""


@dataclass(frozen=True)
class _Kept:
    """One stream under one budget; accuracies as fractions."""

    deviation: float
    accuracy: float
    in_blocks: float
    overall: float
    fixed_deviation: float
    bytes_deviation: float


def bench_budget(
    logs: Sequence[Path], rates: Sequence[float], phase: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Every shift, for every rate.

    Raises:
        LogError: see `read_logs`.
        SettingsError: a rate is not above 0 and below 1.
    """
    settings = [BudgetSettings(rate) for rate in rates]
    found = read_logs(logs)
    described = environment("cpu", "float64")
    answers = answers_of(found.records, Policy(0.0))
    streams: dict[str, dict[str, Any]] = {}
    for shift in shifts_of(found.records):
        streams[shift.name] = {
            str(one.retransmission_rate): _summary(
                [_keep(answers, shift, one, phase, seed + number) for number in range(repeats)]
            )
            for one in settings
        }
    cells = [cell for stream in streams.values() for cell in stream.values()]
    losses = [cell["loss_in_blocks"] for cell in cells]
    worst = max(cell["worst_deviation"] for cell in cells)
    return {
        "bench": "budget",
        "logs": found.digests,
        "data": found.header.settings.get("data"),
        "questions": len(found.records),
        "window": _WINDOW,
        "warm_up": _WARM_UP,
        "phase": phase,
        "repeats": repeats,
        "seed": seed,
        "budget": {name: getattr(settings[0], name) for name in ("window", "span", "slack")},
        "streams": streams,
        "worst_deviation": worst,
        "kept": worst <= _MOST_DEVIATION + 1e-9,
        "mean_loss_in_blocks": float(np.mean(losses)),
        "worst_loss_in_blocks": max(losses),
        "within_half_a_point": sum(loss <= _MOST_LOSS for loss in losses),
        "cells": len(cells),
        "environment": described,
    }


def budget_text(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    columns = f"{'distance':>10}{'in blocks':>11}{'overall':>9}{'its own':>9}{'bytes/s':>9}"
    lines = [
        f"{report['questions']} questions; streams of shifting difficulty, {report['repeats']} of each kind",
        f"distance: the largest from the target, over any {_WINDOW} questions after the first {_WARM_UP}",
        "in blocks, overall: points of accuracy lost to fixed thresholds at the same rate",
        "its own: the distance of the one overall; bytes/s: the relative one of a budget of bytes a second",
        "",
        f"{'stream':34}{'target':>8}{columns}",
        *(
            _row(name, rate, cell)
            for name, stream in report["streams"].items()
            for rate, cell in stream.items()
        ),
        "",
        f"within {_MOST_DEVIATION:.0%} of the target: {'always' if report['kept'] else 'not always'}",
        f"lost in blocks: {100 * report['mean_loss_in_blocks']:.2f} points in the mean",
        f"at most half a point: in {report['within_half_a_point']} of {report['cells']} cases",
    ]
    return "\n".join(lines)


def _row(name: str, rate: str, cell: dict[str, float]) -> str:
    distance, lost = 100 * cell["worst_deviation"], 100 * cell["loss_in_blocks"]
    overall, own, sent = (
        100 * cell[key] for key in ("loss_overall", "worst_fixed_deviation", "worst_bytes_deviation")
    )
    return f"{name:34}{rate:>8}{distance:8.1f} %{lost:11.2f}{overall:9.2f}{own:7.1f} %{sent:7.1f} %"


def follow(
    answers: Answers, stream: npt.NDArray[np.int64], budget: Budget, times: FloatArray
) -> npt.NDArray[np.bool_]:
    """Which questions of the stream are looked at twice; local images come at once."""
    looked = np.zeros(len(stream), dtype=np.bool_)
    doubts, sizes = answers.doubt[stream].tolist(), answers.second_bytes[stream].tolist()
    for number, (doubt, size, now) in enumerate(zip(doubts, sizes, times.tolist(), strict=True)):
        # Where there is no detail to gain doubt is -inf here, and counts as 0, as the server has it.
        looked[number] = budget.wants_second_look(doubt) and doubt >= 0
        budget.record(max(doubt, 0.0), looked=bool(looked[number]), now=now)
        if looked[number]:
            budget.received(int(size))
    return looked


def worst_deviation(spent: FloatArray, allowed: FloatArray) -> float:
    """The largest distance of spent / allowed from 1 over any window after the warm-up."""
    ahead = np.concatenate([[0.0], np.cumsum(spent)])
    due = np.concatenate([[0.0], np.cumsum(allowed)])
    last = len(spent) + 1 - _WINDOW
    took = ahead[_WARM_UP + _WINDOW :] - ahead[_WARM_UP:last]
    should = due[_WARM_UP + _WINDOW :] - due[_WARM_UP:last]
    return float(np.abs(took / should - 1).max())


def fixed_accuracy(answers: Answers, stream: npt.NDArray[np.int64], looks: int) -> float:
    """Sum of scores with so many second looks, where doubt is largest."""
    chosen = _most_doubtful(answers, stream, looks)
    return float((answers.first[stream] + chosen * (answers.kept - answers.first)[stream]).sum())


def _most_doubtful(answers: Answers, stream: npt.NDArray[np.int64], looks: int) -> FloatArray:
    """1 where a fixed threshold looks that gives so many second looks, else 0."""
    chosen = np.zeros(len(stream))
    chosen[np.argsort(-answers.doubt[stream], kind="stable")[:looks]] = 1.0
    return chosen


def _keep(answers: Answers, shift: Shift, settings: BudgetSettings, phase: int, seed: int) -> _Kept:
    rate = settings.retransmission_rate
    assert rate is not None, "the simulation is of rates"
    generator = np.random.default_rng(seed)
    stream = draw(shift, phase, generator)
    count = len(stream)
    due = np.full(count, rate)
    start = choose(answers, Target(kind="retransmission_rate", value=rate), resamples=1).threshold.value
    looked = follow(answers, stream, Budget(settings, start), np.zeros(count))
    scores = np.where(looked, answers.kept[stream], answers.first[stream])
    blocks = [slice(begin, begin + _WINDOW) for begin in range(0, count, _WINDOW)]
    in_blocks = sum(fixed_accuracy(answers, stream[block], int(looked[block].sum())) for block in blocks)
    return _Kept(
        deviation=rate * worst_deviation(looked.astype(np.float64), due),
        accuracy=float(scores.mean()),
        in_blocks=in_blocks / count,
        overall=fixed_accuracy(answers, stream, int(looked.sum())) / count,
        fixed_deviation=rate * worst_deviation(_most_doubtful(answers, stream, int(looked.sum())), due),
        bytes_deviation=_bytes_deviation(answers, stream, settings, start, phase, generator),
    )


def _bytes_deviation(
    answers: Answers,
    stream: npt.NDArray[np.int64],
    settings: BudgetSettings,
    start: float,
    phase: int,
    generator: np.random.Generator,
) -> float:
    """The bytes that the rate takes at one question a second, while the questions' pace shifts."""
    rate = settings.retransmission_rate
    assert rate is not None, "the simulation is of rates"
    sizes = answers.second_bytes[answers.second_bytes > 0]
    a_second = rate * float(sizes.mean())
    paces = np.array(_PACES)[np.arange(len(stream)) // phase % len(_PACES)]
    seconds = generator.exponential(1 / paces)
    budget = Budget(
        replace(settings, retransmission_rate=None, bytes_per_second=a_second), start, float(sizes[0])
    )
    looked = follow(answers, stream, budget, np.cumsum(seconds))
    return worst_deviation(np.where(looked, answers.second_bytes[stream], 0.0), a_second * seconds)


def _summary(kept: Sequence[_Kept]) -> dict[str, float]:
    def mean(value: Callable[[_Kept], float]) -> float:
        return float(np.mean([value(one) for one in kept]))

    return {
        "worst_deviation": max(one.deviation for one in kept),
        "accuracy": mean(lambda one: one.accuracy),
        "accuracy_fixed_in_blocks": mean(lambda one: one.in_blocks),
        "accuracy_fixed_overall": mean(lambda one: one.overall),
        "loss_in_blocks": mean(lambda one: one.in_blocks - one.accuracy),
        "loss_overall": mean(lambda one: one.overall - one.accuracy),
        "worst_fixed_deviation": max(one.fixed_deviation for one in kept),
        "worst_bytes_deviation": max(one.bytes_deviation for one in kept),
    }
