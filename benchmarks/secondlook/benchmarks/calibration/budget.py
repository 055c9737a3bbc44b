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

Streams are drawn from the log. Its questions are put into two groups, and the share of the first group moves
from phase to phase: by the size of what is asked for, in relation to its picture (where boxes are known), by
type of question, and by picture size. Within a group questions are drawn at random, with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.analysis.columns import BoolArray, Columns, FloatArray, IntArray
from secondlook.benchmarks.analysis.runs import read_run
from secondlook.benchmarks.calibration.thresholds import Answers, choose
from secondlook.benchmarks.commands import settings
from secondlook.benchmarks.environment import environment
from secondlook.benchmarks.options import BudgetRun
from secondlook.engine.method.budget import BudgetedThreshold, BudgetSettings
from secondlook.engine.method.policy import Policy
from secondlook.engine.method.policy_file import Target

_WINDOW: Final = 500
_WARM_UP: Final = 200
_MOST_DEVIATION: Final = 0.02
_MOST_LOSS: Final = 0.005
_RATES: Final = (0.2, 0.3, 0.4, 0.5)
_PACES: Final = (1.0, 1.5, 0.75, 2.0, 1.0)
"""Questions a second, from phase to phase."""
_SUDDEN: Final = (0.1, 0.8, 0.4, 0.9, 0.05)
_MILD: Final = (0.3, 0.5, 0.3, 0.5, 0.3)
_DRIFT: Final = (0.1, 0.5, 0.9, 0.5, 0.1)
_ALTERNATING: Final = (0.1, 0.8) * 10


@dataclass(frozen=True)
class Shift:
    """How a stream's mix moves.

    Attributes:
        inside, outside: the questions of the two groups, as places in the log.
        shares: of the group `inside`: in each phase, or, if it drifts, at points in between lies a line.
        phases: how long the stream is, in phases.
    """

    name: str
    inside: IntArray
    outside: IntArray
    shares: tuple[float, ...]
    drifts: bool = False
    phases: int = len(_SUDDEN)


def shifts_of(columns: Columns) -> list[Shift]:
    """Every shift that the log has the questions for."""
    everything = np.arange(len(columns))
    found = [Shift("steady", everything, everything, (0.5,))]
    boxed = np.flatnonzero(~np.isnan(columns.first_box_pixels))
    if len(boxed):
        sizes = columns.first_box_pixels[boxed] / columns.original_pixels[boxed]
        small = sizes <= np.quantile(sizes, 1 / 3)
        found += [
            _shift("size asked for, sudden", boxed, small, _SUDDEN),
            _shift("size asked for, sudden, reversed", boxed, small, _SUDDEN[::-1]),
            _shift("size asked for, mild", boxed, small, _MILD),
            _shift("size asked for, drift", boxed, small, _DRIFT, drifts=True),
            _shift("size asked for, alternating", boxed, small, _ALTERNATING),
        ]
    kinds = np.array(columns.kind)
    if len(set(columns.kind)) > 1:
        for kind in sorted(set(columns.kind)):
            found.append(_shift(f"type {kind}, sudden", everything, kinds == kind, _SUDDEN))
    pixels = columns.original_pixels
    if pixels.min() < pixels.max():
        large = pixels > np.quantile(pixels, 2 / 3)
        found.append(_shift("picture size, sudden", everything, large, _SUDDEN))
    return [shift for shift in found if len(shift.inside) and len(shift.outside)]


def draw(shift: Shift, phase: int, generator: np.random.Generator) -> IntArray:
    """The stream's questions, as places in the log; `phase` is how many one phase has."""
    length = shift.phases * phase
    shares = _shares(shift, length)
    within = generator.random(length) < shares
    inside = generator.choice(shift.inside, length)
    outside = generator.choice(shift.outside, length)
    return np.where(within, inside, outside)


def _shares(shift: Shift, length: int) -> FloatArray:
    points, places = np.array(shift.shares), np.arange(length)
    line: FloatArray = np.interp(places, np.linspace(0, length - 1, len(points)), points)
    return line if shift.drifts else points[places * len(points) // length]


def _shift(
    name: str, places: IntArray, inside: BoolArray, shares: tuple[float, ...], *, drifts: bool = False
) -> Shift:
    return Shift(name, places[inside], places[~inside], shares, drifts)


def bench_budget(run: BudgetRun) -> dict[str, Any]:
    """Every shift, for every rate."""
    budgets = [BudgetSettings(rate) for rate in run.retransmission_rate or _RATES]
    found = read_run(run.log)
    described = environment("cpu", "float64")
    answers = Answers.of(found.columns, Policy(0.0))
    streams: dict[str, dict[str, Any]] = {}
    for shift in shifts_of(found.columns):
        streams[shift.name] = {
            str(one.retransmission_rate): _summary(
                [_keep(answers, shift, one, run.phase, run.seed + number) for number in range(run.repeats)]
            )
            for one in budgets
        }
    cells = [cell for stream in streams.values() for cell in stream.values()]
    losses = [cell["loss_in_blocks"] for cell in cells]
    worst = max(cell["worst_deviation"] for cell in cells)
    return {
        "bench": "budget",
        "logs": [found.digest],
        "data": found.header.settings["data"],
        "questions": len(found.columns),
        "window": _WINDOW,
        "warm_up": _WARM_UP,
        **settings(run, "log", "retransmission_rate"),
        "budget": {name: getattr(budgets[0], name) for name in ("window", "span", "slack")},
        "streams": streams,
        "worst_deviation": worst,
        "kept": worst <= _MOST_DEVIATION + 1e-9,
        "mean_loss_in_blocks": float(np.mean(losses)),
        "worst_loss_in_blocks": max(losses),
        "within_half_a_point": sum(loss <= _MOST_LOSS for loss in losses),
        "cells": len(cells),
        "environment": described,
    }


def follow(answers: Answers, stream: IntArray, budget: BudgetedThreshold, times: FloatArray) -> BoolArray:
    """Which questions of the stream are looked at twice; local images come at once."""
    looked = np.zeros(len(stream), dtype=np.bool_)
    needs, sizes = answers.need[stream].tolist(), answers.second_bytes[stream].tolist()
    for number, (need, size, now) in enumerate(zip(needs, sizes, times.tolist(), strict=True)):
        # Where there is no detail to gain need is -inf here, and counts as 0, as the server has it.
        looked[number] = need >= 0 and need >= budget.threshold
        budget.record(max(need, 0.0), looked=bool(looked[number]), now=now)
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


def fixed_accuracy(answers: Answers, stream: IntArray, looks: int) -> float:
    """Sum of scores with so many second looks, where need is largest."""
    chosen = _most_needed(answers, stream, looks)
    return float((answers.first[stream] + chosen * (answers.kept - answers.first)[stream]).sum())


def _most_needed(answers: Answers, stream: IntArray, looks: int) -> FloatArray:
    """1 where a fixed threshold looks that gives so many second looks, else 0."""
    chosen = np.zeros(len(stream))
    chosen[np.argsort(-answers.need[stream], kind="stable")[:looks]] = 1.0
    return chosen


def _keep(
    answers: Answers, shift: Shift, settings: BudgetSettings, phase: int, seed: int
) -> dict[str, float]:
    """One stream under one budget; accuracies as fractions."""
    rate = settings.retransmission_rate
    assert rate is not None, "the simulation is of rates"
    generator = np.random.default_rng(seed)
    stream = draw(shift, phase, generator)
    count = len(stream)
    due = np.full(count, rate)
    start = choose(answers, Target(kind="retransmission_rate", value=rate), resamples=1).threshold.value
    looked = follow(answers, stream, BudgetedThreshold(settings, start), np.zeros(count))
    looks = int(looked.sum())
    accuracy = float(np.where(looked, answers.kept[stream], answers.first[stream]).mean())
    blocks = [slice(begin, begin + _WINDOW) for begin in range(0, count, _WINDOW)]
    fixed = (fixed_accuracy(answers, stream[block], int(looked[block].sum())) for block in blocks)
    in_blocks, overall = sum(fixed) / count, fixed_accuracy(answers, stream, looks) / count
    # The bytes that the rate takes at one question a second, while the questions' pace shifts.
    sizes = answers.second_bytes[answers.second_bytes > 0]
    a_second = rate * float(sizes.mean())
    paces = np.array(_PACES)[np.arange(count) // phase % len(_PACES)]
    seconds = generator.exponential(1 / paces)
    of_bytes = replace(settings, retransmission_rate=None, bytes_per_second=a_second)
    sent = follow(answers, stream, BudgetedThreshold(of_bytes, start, float(sizes[0])), np.cumsum(seconds))
    bytes_sent = np.where(sent, answers.second_bytes[stream], 0.0)
    return {
        "worst_deviation": rate * worst_deviation(looked.astype(np.float64), due),
        "accuracy": accuracy,
        "accuracy_fixed_in_blocks": in_blocks,
        "accuracy_fixed_overall": overall,
        "loss_in_blocks": in_blocks - accuracy,
        "loss_overall": overall - accuracy,
        "worst_fixed_deviation": rate * worst_deviation(_most_needed(answers, stream, looks), due),
        "worst_bytes_deviation": worst_deviation(bytes_sent, a_second * seconds),
    }


def _summary(kept: Sequence[dict[str, float]]) -> dict[str, float]:
    """The worst of what is called so, and means of all else."""
    values = {name: [one[name] for one in kept] for name in kept[0]}
    return {
        name: max(each) if name.startswith("worst") else float(np.mean(each)) for name, each in values.items()
    }
