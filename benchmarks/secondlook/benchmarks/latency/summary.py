"""From samples to rows: percentiles, ceilings, agreement, and a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secondlook.benchmarks.latency.ceilings import Rates
from secondlook.benchmarks.latency.flow import METRICS, Metric
from secondlook.benchmarks.latency.measure import Sample
from secondlook.benchmarks.latency.work import Work

__all__ = ["LatencyRow", "MemoryRow", "agreement", "latency_rows", "memory_rows", "rows_text", "speedup"]


@dataclass(frozen=True)
class LatencyRow:
    """One metric of one flow, in milliseconds; `ceiling_ms` is the least the device could need for it."""

    request: str
    metric: Metric
    flow: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    ceiling_ms: float
    count: int


@dataclass(frozen=True)
class MemoryRow:
    """The highest memory of one flow, over all requests of a kind."""

    request: str
    flow: str
    peak_bytes: int


def latency_rows(
    samples: Sequence[Sample],
    work: Mapping[str, Mapping[Metric, Work]],
    rates: Rates,
    weight_bytes: int,
) -> list[LatencyRow]:
    """A row for every kind of request, metric and flow that has times.

    Args:
        work: by flow, of an unsure request until each milestone.
        weight_bytes: read for each decoded token.
    """
    rows = []
    for unsure in (True, False):
        for metric in METRICS:
            for flow in work:
                seconds = _seconds(samples, flow, unsure, metric)
                if not seconds:
                    continue
                p50, p90, p99 = (1e3 * float(value) for value in np.percentile(seconds, (50, 90, 99)))
                ceiling = 1e3 * rates.ceiling(_work(work[flow], metric, unsure), weight_bytes)
                rows.append(LatencyRow(_kind(unsure), metric, flow, p50, p90, p99, ceiling, len(seconds)))
    return rows


def memory_rows(samples: Sequence[Sample]) -> list[MemoryRow]:
    """The peaks of every flow that answered."""
    peaks: dict[tuple[str, str], int] = {}
    for sample in samples:
        key = _kind(sample.unsure), sample.flow
        peaks[key] = max(peaks.get(key, 0), sample.peak_bytes)
    return [MemoryRow(*key, peak) for key, peak in sorted(peaks.items(), reverse=True)]


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


def rows_text(report: Mapping[str, Any]) -> str:
    """A latency report as a table for people."""
    lines = [f"{'request':9}{'metric':14}{'flow':11}{'p50 ms':>10}{'p90':>10}{'p99':>10}{'ceiling':>10}"]
    lines += [
        f"{row['request']:9}{row['metric']:14}{row['flow']:11}{row['p50_ms']:10.1f}{row['p90_ms']:10.1f}"
        f"{row['p99_ms']:10.1f}{row['ceiling_ms']:10.1f}"
        for row in report["rows"]
    ]
    lines.append("")
    lines += [
        f"{row['request']:9}{'peak memory':14}{row['flow']:11}{row['peak_bytes'] / 2**20:10.0f} MiB"
        for row in report["memory"]
    ]
    reference, strong = report["speedup_reference"], report["speedup_strong"]
    lines += ["", f"final answer, unsure: {reference:.2f}x the reference flow, {strong:.2f}x the strong one"]
    return "\n".join(lines)


def _kind(unsure: bool) -> str:
    return "unsure" if unsure else "sure"


def _seconds(samples: Sequence[Sample], flow: str, unsure: bool, metric: Metric) -> list[float]:
    return [
        sample.outcome.seconds[metric]
        for sample in samples
        if sample.flow == flow and sample.unsure == unsure and metric in sample.outcome.seconds
    ]


def _work(milestones: Mapping[Metric, Work], metric: Metric, unsure: bool) -> Work:
    if metric == "per_token":
        decoding = milestones["first_answer"]
        return Work(sequential=decoding.sequential // decoding.steps, steps=1)
    if metric == "final_answer" and not unsure:
        return milestones["first_answer"]
    return milestones[metric]
