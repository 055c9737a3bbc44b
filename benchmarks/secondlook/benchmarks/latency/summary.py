"""From samples to rows: percentiles, ceilings, agreement, and a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

import numpy as np

from secondlook.benchmarks.latency.device import Rates
from secondlook.benchmarks.latency.flow import METRICS, Metric, Sample
from secondlook.benchmarks.latency.work import FLOWS, FlowName, Work
from secondlook.benchmarks.timing import milliseconds

BASELINES: Final = tuple(flow for flow in FLOWS if flow != "ours")


def latency_rows(
    samples: Sequence[Sample],
    work: Mapping[bool, Mapping[FlowName, Mapping[Metric, Work]]],
    rates: Rates,
    weight_bytes: int,
) -> list[dict[str, Any]]:
    """A row for every kind of request, metric and flow that has times.

    Args:
        work: of unsure requests (True) and sure ones, by flow, until each milestone.
        weight_bytes: read for each decoded token.
    """
    rows = []
    for unsure, metric in product((True, False), METRICS):
        for flow, milestones in work[unsure].items():
            if seconds := _seconds(samples, flow, unsure, metric):
                p50, p90, p99 = milliseconds(seconds, 50, 90, 99)
                rows.append(
                    {
                        "request": "unsure" if unsure else "sure",
                        "metric": metric,
                        "flow": flow,
                        "p50_ms": p50,
                        "p90_ms": p90,
                        "p99_ms": p99,  # of fewer than 100 requests no more than a guess
                        "max_ms": 1e3 * max(seconds),
                        "ceiling_ms": 1e3 * rates.ceiling(_work(milestones, metric), weight_bytes),
                        "count": len(seconds),
                    }
                )
    return rows


def speedup(samples: Sequence[Sample], flow: str) -> float:
    """How many times ours is faster than a flow: medians until the final answer of unsure requests."""
    theirs, ours = (np.median(_seconds(samples, name, True, "final_answer")) for name in (flow, "ours"))
    return float(theirs / ours)


def agreement(samples: Sequence[Sample], flow: str) -> dict[str, float]:
    """Fractions of unsure requests on which a flow came to what the reference flow came to."""
    reference = {s.index: s.outcome for s in samples if s.unsure and s.flow == "reference"}
    outcomes = {s.index: s.outcome for s in samples if s.unsure and s.flow == flow}
    pairs = [(outcomes[index], reference[index]) for index in reference]
    return {
        "first_tokens": float(np.mean([mine.first == theirs.first for mine, theirs in pairs])),
        "region": float(np.mean([mine.region == theirs.region for mine, theirs in pairs])),
        "second_tokens": float(np.mean([mine.second == theirs.second for mine, theirs in pairs])),
    }


def _seconds(samples: Sequence[Sample], flow: str, unsure: bool, metric: Metric) -> list[float]:
    return [
        sample.outcome.seconds[metric]
        for sample in samples
        if sample.flow == flow and sample.unsure == unsure and metric in sample.outcome.seconds
    ]


def _work(milestones: Mapping[Metric, Work], metric: Metric) -> Work:
    if metric == "per_token":
        decoding = milestones["first_answer"]
        return Work(sequential=decoding.sequential // decoding.steps, steps=1)
    return milestones[metric]
